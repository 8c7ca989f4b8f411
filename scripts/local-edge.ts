import { mkdir } from "node:fs/promises";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";
import { environmentPrefix } from "../shared/config.ts";

/** A running local edge. */
export type LocalEdge = {
  url: string;
  close(): Promise<void>;
  /** Ends the isolate of one object, as the platform does when it moves or idles; its storage stays. */
  evict(object: keyof typeof objectClasses, name: string): Promise<void>;
};

/** Binding of each Durable Object and its class, as `wrangler.toml` has them. */
export const objectClasses = { AUTHORITY: "Authority", CACHE: "CacheShard", SIMILAR: "SimilarIndex" } as const;

const workerName = "pixel-llm";

/** What the local edge runs with. */
export type LocalEdgeOptions = {
  /** The Worker's source, as `buildWorkerBundle` gives it. */
  source: string;
  /** 0 = any free port. */
  port: number;
  /** Only `PIXEL_LLM_` variables reach the Worker. */
  environment: Readonly<Record<string, string>>;
  stateDir: string;
  /** Gets each log line of the Worker; left out: standard output. */
  write?: (line: string) => void;
};

/** Runs the real Worker bundle in workerd, on loopback; state is kept under `stateDir`. */
export async function startLocalEdge(options: LocalEdgeOptions): Promise<LocalEdge> {
  await mkdir(options.stateDir, { recursive: true });
  const bindings = Object.fromEntries(
    Object.entries(options.environment).filter(([name]) => name.startsWith(environmentPrefix)),
  );
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      name: workerName,
      host: "127.0.0.1",
      port: options.port,
      cf: false,
      log: new Log(LogLevel.ERROR),
      compatibilityDate: "2026-11-02",
      compatibilityFlags: ["enable_request_signal"],
      modules: [{ type: "ESModule", path: "worker.js", contents: options.source }],
      bindings,
      ...(options.write === undefined
        ? {}
        : { handleStructuredLogs: ({ message }: { message: string }) => options.write?.(message) }),
      durableObjects: Object.fromEntries(
        Object.entries(objectClasses).map(([binding, className]) => [binding, { className, useSQLite: true }]),
      ),
      resourcePersistencePath: options.stateDir,
    }),
  );
  try {
    const url = await miniflare.ready;
    return {
      url: url.origin,
      close: () => miniflare.dispose(),
      evict: (object, name) => miniflare.unsafeEvictDurableObject(workerName, objectClasses[object], { name }),
    };
  } catch (error) {
    await miniflare.dispose();
    throw error;
  }
}
