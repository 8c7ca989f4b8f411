import { appendFileSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { signatureWindowSeconds } from "../shared/signature.ts";

/** Remembers used nonces for as long as their signatures could pass again. */
export type ReplayGuard = {
  /** True once per nonce; false for a used one, for a full table, and for times the guard knows nothing about. */
  admit(nonce: string, timestampSeconds: number, nowSeconds: number): boolean;
};

/** Most nonces held; at 100,000 signed requests in two minutes the sidecar refuses rather than forgets. */
const capacity = 100_000;

/** First line of a file that holds every nonce; without it some may be missing. */
const wholeMark = "pixel-llm nonces";

/**
 * Opens the guard over a file of `nonce seconds` lines, so that a restart reopens nothing. Where the file cannot be
 * used, or was not kept up by its last writer, signatures made before `nowSeconds` are refused instead; `problem` says
 * why. A write that fails later (a full disk) is told once; the running process still knows every nonce.
 */
export function openReplayGuard(
  file: string,
  nowSeconds: number,
  tellProblem: (problem: Error) => void = () => undefined,
): ReplayGuard & { problem: Error | null } {
  const keepSeconds = 2 * signatureWindowSeconds;
  const used = new Map<string, number>();
  let problem: Error | null = null;
  let isWhole = true;
  let lines = 0;

  const forgetExpired = (now: number): void => {
    for (const [nonce, at] of used) if (at < now - keepSeconds) used.delete(nonce);
  };
  const rewrite = (): void => {
    const rows = [...used].map(([nonce, at]) => `${nonce} ${at}\n`);
    writeFileSync(file, `${wholeMark}\n${rows.join("")}`, { mode: 0o600 });
    lines = used.size;
  };
  const giveUpFile = (cause: unknown): void => {
    problem = toError(cause);
    try {
      // Emptying works where writing does not, and tells the next process that this file lacks nonces.
      truncateSync(file);
    } catch (error) {
      problem = new Error(`${problem.message}; and ${toError(error).message}`, { cause });
    }
    tellProblem(problem);
  };

  try {
    mkdirSync(dirname(file), { recursive: true });
    const stored = readStored(file);
    isWhole = stored === null || stored.startsWith(`${wholeMark}\n`);
    for (const line of (stored ?? "").split("\n").slice(1)) {
      const [nonce, at] = line.split(" ");
      if (nonce !== undefined && at !== undefined) used.set(nonce, Number(at));
    }
    forgetExpired(nowSeconds);
    rewrite();
  } catch (error) {
    problem = toError(error);
    isWhole = false;
  }

  const remember = (nonce: string, timestampSeconds: number, now: number): void => {
    try {
      appendFileSync(file, `${nonce} ${timestampSeconds}\n`);
      lines += 1;
      if (lines <= capacity) return;
      forgetExpired(now);
      rewrite();
    } catch (error) {
      giveUpFile(error);
    }
  };

  return {
    problem,
    admit(nonce, timestampSeconds, now) {
      if (!isWhole && timestampSeconds < Math.floor(nowSeconds)) return false;
      if (used.has(nonce)) return false;
      if (used.size >= capacity) {
        forgetExpired(now);
        if (used.size >= capacity) return false;
      }
      used.set(nonce, timestampSeconds);
      if (problem === null) remember(nonce, timestampSeconds, now);
      return true;
    },
  };
}

/** The file's text; null = there is none yet. */
function readStored(file: string): string | null {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw error;
  }
}

function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
