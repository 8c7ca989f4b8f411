import { closeSync, openSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startStack, type Stack } from "../stack.ts";
import { superviseHalf } from "../supervised-half.ts";

/** Both halves for a measurement, in a folder of their own. */
export type BenchStack = AsyncDisposable & {
  stack: Stack;
  /** Resolves once a line for people has this text, with the time it came at, in ms of `performance.now`. */
  noticed(text: string): Promise<number>;
};

/** What both halves of a measured stack sign with. */
export const benchSecret = "b".repeat(64);

type Place = {
  /** Open file for what the halves say. */
  output: number;
  environment: Record<string, string>;
  remove: () => Promise<void>;
};

/** Starts the real Worker bundle in workerd and the real sidecar; `settings` are configuration keys. */
export async function startBenchStack(settings: Readonly<Record<string, string | number>>): Promise<BenchStack> {
  const { output, environment, remove } = await openPlace(settings);
  const notices: { line: string; at: number }[] = [];
  const watchers = new Set<() => void>();
  let stack: Stack;
  try {
    stack = await startStack({
      environment,
      secret: benchSecret,
      edgePort: 0,
      sidecarPort: 0,
      output,
      notice: (line) => {
        notices.push({ line, at: performance.now() });
        for (const watcher of watchers) watcher();
      },
      onGivenUp: () => undefined,
    });
  } catch (error) {
    await remove();
    throw error;
  }
  return {
    stack,
    noticed: (text) =>
      new Promise((resolve) => {
        const look = (): void => {
          const found = notices.find(({ line }) => line.includes(text));
          if (found === undefined) return;
          watchers.delete(look);
          resolve(found.at);
        };
        watchers.add(look);
        look();
      }),
    async [Symbol.asyncDispose]() {
      await stack.stop();
      await remove();
    },
  };
}

/** How long a sidecar takes from its process's start to its open port, in ms. */
export async function measureLoad(settings: Readonly<Record<string, string | number>>): Promise<number> {
  const { output, environment, remove } = await openPlace(settings);
  try {
    const startedAt = performance.now();
    const half = await superviseHalf({
      name: "sidecar",
      module: new URL("../../sidecar/main.ts", import.meta.url),
      port: 0,
      environment: () => ({ ...environment, PIXEL_LLM_SIDECAR_PORT: "0", PIXEL_LLM_SIDECAR_SECRET: benchSecret }),
      output,
      notice: () => undefined,
      onGivenUp: () => undefined,
      graceMs: 8000,
    });
    const loadMs = performance.now() - startedAt;
    await half.stop();
    return loadMs;
  } finally {
    await remove();
  }
}

/** A folder of its own, removed with everything in it. */
async function openPlace(settings: Readonly<Record<string, string | number>>): Promise<Place> {
  const folder = await mkdtemp(join(tmpdir(), "pixel-llm-bench-"));
  const output = openSync(join(folder, "bench.log"), "a");
  const environment: Record<string, string> = {
    PATH: process.env["PATH"] ?? "",
    PIXEL_LLM_STATE_DIR: folder,
    PIXEL_LLM_LM_STUDIO_HOST: "127.0.0.1",
    // Nothing listens on the discard port: LM Studio is absent unless a setting says otherwise.
    PIXEL_LLM_LM_STUDIO_PORT: "9",
    PIXEL_LLM_LOG_LEVEL: "ERROR",
  };
  for (const [key, value] of Object.entries(settings)) environment[`PIXEL_LLM_${key.toUpperCase()}`] = String(value);
  return {
    output,
    environment,
    async remove() {
      closeSync(output);
      await rm(folder, { recursive: true, force: true });
    },
  };
}
