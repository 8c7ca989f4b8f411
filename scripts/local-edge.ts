import { mkdir } from "node:fs/promises";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";
import { environmentPrefix } from "../shared/config.ts";

/** A running local edge. */
export type LocalEdge = { url: string; close(): Promise<void> };

/** What the local edge runs with. */
export type LocalEdgeOptions = {
  /** The Worker's source, as `buildWorkerBundle` gives it. */
  source: string;
  /** 0 = any free port. */
  port: number;
  /** Only `PIXEL_LLM_` variables reach the Worker. */
  environment: Readonly<Record<string, string>>;
  stateDir: string;
};

/** Runs the real Worker bundle in workerd, on loopback; state is kept under `stateDir`. */
export async function startLocalEdge(options: LocalEdgeOptions): Promise<LocalEdge> {
  await mkdir(options.stateDir, { recursive: true });
  const bindings = Object.fromEntries(
    Object.entries(options.environment).filter(([name]) => name.startsWith(environmentPrefix)),
  );
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      name: "pixel-llm",
      host: "127.0.0.1",
      port: options.port,
      cf: false,
      log: new Log(LogLevel.ERROR),
      compatibilityDate: "2026-11-02",
      compatibilityFlags: ["enable_request_signal"],
      modules: [{ type: "ESModule", path: "worker.js", contents: options.source }],
      bindings,
      resourcePersistencePath: options.stateDir,
    }),
  );
  try {
    const url = await miniflare.ready;
    return { url: url.origin, close: () => miniflare.dispose() };
  } catch (error) {
    await miniflare.dispose();
    throw error;
  }
}
