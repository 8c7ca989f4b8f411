import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { signatureWindowSeconds } from "../shared/signature.ts";

/** Remembers used nonces for as long as their signatures could pass again. */
export type ReplayGuard = {
  /** True once per nonce; false for a used one, for a full table, and for times the guard knows nothing about. */
  admit(nonce: string, timestampSeconds: number, nowSeconds: number): boolean;
};

/** Most nonces held; at 100,000 signed requests in two minutes the sidecar refuses rather than forgets. */
const capacity = 100_000;

/**
 * Opens the guard over a file of `nonce seconds` lines, so that a restart reopens nothing.
 * Where the file cannot be used, signatures made before `nowSeconds` are refused instead; `problem` says why.
 */
export function openReplayGuard(file: string, nowSeconds: number): ReplayGuard & { problem: Error | null } {
  const keepSeconds = 2 * signatureWindowSeconds;
  const used = new Map<string, number>();
  let problem: Error | null = null;
  let lines = 0;

  const forgetExpired = (now: number): void => {
    for (const [nonce, at] of used) if (at < now - keepSeconds) used.delete(nonce);
  };
  const rewrite = (): void => {
    writeFileSync(file, [...used].map(([nonce, at]) => `${nonce} ${at}\n`).join(""), { mode: 0o600 });
    lines = used.size;
  };

  try {
    mkdirSync(dirname(file), { recursive: true });
    for (const line of readStored(file).split("\n")) {
      const [nonce, at] = line.split(" ");
      if (nonce !== undefined && at !== undefined) used.set(nonce, Number(at));
    }
    forgetExpired(nowSeconds);
    rewrite();
  } catch (error) {
    problem = error instanceof Error ? error : new Error(String(error));
  }

  return {
    problem,
    admit(nonce, timestampSeconds, now) {
      if (problem !== null && timestampSeconds < Math.floor(nowSeconds)) return false;
      if (used.has(nonce)) return false;
      if (used.size >= capacity) {
        forgetExpired(now);
        if (used.size >= capacity) return false;
      }
      used.set(nonce, timestampSeconds);
      if (problem === null) {
        appendFileSync(file, `${nonce} ${timestampSeconds}\n`);
        lines += 1;
        if (lines > capacity) {
          forgetExpired(now);
          rewrite();
        }
      }
      return true;
    },
  };
}

function readStored(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return "";
    throw error;
  }
}
