import { openSync, closeSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { startStack, type Stack } from "../../scripts/stack.ts";
import { temporaryFolder } from "./folders.ts";
import { startLmStudio, type LmStudio } from "./lm-studio.ts";
import type { Script } from "./lm-studio/modes.ts";

/** The whole product on this machine, with a scripted LM Studio at its end. */
export type Whole = AsyncDisposable & {
  stack: Stack;
  studio: LmStudio;
  /** Lines that were meant for people. */
  notices: string[];
  /** What both halves have logged so far. */
  log(): string;
  /** Resolves once a notice has this text. */
  noticed(text: string): Promise<void>;
};

/** What both halves of a test stack sign with. */
export const secret = "kit-secret-".repeat(4);

/** Starts the real Worker bundle in workerd, the real sidecar process, and the stand-in; `settings` are configuration keys. */
export async function startWhole(
  script: Script = {},
  settings: Readonly<Record<string, string | number>> = {},
): Promise<Whole> {
  const studio = await startLmStudio(script);
  const folder = temporaryFolder();
  const logFile = join(folder, "halves.log");
  const output = openSync(logFile, "a");
  const notices: string[] = [];
  const watchers = new Set<() => void>();
  const environment: Record<string, string> = {
    PATH: process.env["PATH"] ?? "",
    PIXEL_LLM_STATE_DIR: folder,
    PIXEL_LLM_LM_STUDIO_HOST: "127.0.0.1",
    PIXEL_LLM_LM_STUDIO_PORT: String(studio.port),
  };
  for (const [key, value] of Object.entries(settings)) environment[`PIXEL_LLM_${key.toUpperCase()}`] = String(value);
  const stack = await startStack({
    environment,
    secret,
    edgePort: 0,
    sidecarPort: 0,
    output,
    notice: (line) => {
      notices.push(line);
      for (const watcher of watchers) watcher();
    },
    onGivenUp: (code) => notices.push(`given up: ${code}`),
  });
  return {
    stack,
    studio,
    notices,
    log: () => readFileSync(logFile, "utf8"),
    noticed: (text) =>
      new Promise((resolve) => {
        const look = (): void => {
          if (!notices.some((line) => line.includes(text))) return;
          watchers.delete(look);
          resolve();
        };
        watchers.add(look);
        look();
      }),
    async [Symbol.asyncDispose]() {
      await stack.stop();
      await studio.close();
      closeSync(output);
    },
  };
}
