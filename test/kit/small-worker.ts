import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";

/** A Worker of a few lines in workerd, over objects of ours: to call their methods as the edge does. */
export type SmallWorker = {
  url: URL;
  /** Ends an object's isolate; its storage stays. */
  evict(className: string, name: string): Promise<void>;
  close(): Promise<void>;
};

const scriptName = "small-worker";

/** Bundles `source` (an ES module with imports from the root of the project) and starts it on loopback. */
export async function startSmallWorker(options: {
  source: string;
  /** Binding and class of each object, SQLite all of them. */
  objects: Readonly<Record<string, string>>;
  bindings?: Readonly<Record<string, string>>;
}): Promise<SmallWorker> {
  const { outputFiles } = await build({
    stdin: { contents: options.source, resolveDir: fileURLToPath(new URL("../../", import.meta.url)), loader: "js" },
    bundle: true,
    format: "esm",
    target: "es2024",
    external: ["cloudflare:workers"],
    write: false,
  });
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      name: scriptName,
      host: "127.0.0.1",
      port: 0,
      cf: false,
      log: new Log(LogLevel.NONE),
      compatibilityDate: "2026-11-02",
      modules: [{ type: "ESModule", path: "worker.js", contents: outputFiles[0]?.text ?? "" }],
      bindings: { ...options.bindings },
      durableObjects: Object.fromEntries(
        Object.entries(options.objects).map(([binding, className]) => [binding, { className, useSQLite: true }]),
      ),
    }),
  );
  return {
    url: await miniflare.ready,
    evict: (className, name) => miniflare.unsafeEvictDurableObject(scriptName, className, { name }),
    close: () => miniflare.dispose(),
  };
}
