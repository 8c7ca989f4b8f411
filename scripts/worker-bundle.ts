import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Settings that keep wrangler from asking the network for anything. */
const offline = { WRANGLER_SEND_METRICS: "false", CLOUDFLARE_CF_FETCH_ENABLED: "false", NO_COLOR: "1", CI: "true" };

/** The Worker as it would be deployed: one ES module's source text, and what wrangler said while building it. */
export type WorkerBundle = { source: string; report: string };

/** Builds the Worker with `wrangler deploy --dry-run`: the very bytes that a deploy sends, nothing uploaded. */
export async function buildWorkerBundle(): Promise<WorkerBundle> {
  const folder = await mkdtemp(join(tmpdir(), "pixel-llm-worker-"));
  try {
    const wrangler = join(root, "node_modules/wrangler/bin/wrangler.js");
    const { stdout, stderr } = await promisify(execFile)(
      process.execPath,
      [wrangler, "deploy", "--dry-run", "--outdir", folder],
      { cwd: root, env: { ...process.env, ...offline } },
    );
    return { source: await readFile(join(folder, "worker.js"), "utf8"), report: stdout + stderr };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
