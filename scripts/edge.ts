import { keepRunning, notice } from "./running.ts";
import { readSettings } from "./settings.ts";
import { startEdge } from "./stack.ts";
import { buildWorkerBundle } from "./worker-bundle.ts";

/** The edge alone, pointing at `sidecar_url`: `npm run edge`. */
async function main(): Promise<void> {
  const { config, environment } = readSettings(process.argv.slice(2));
  await keepRunning(
    async (_, onGivenUp) =>
      startEdge({
        environment,
        secret: config.sidecar_secret.join(","),
        source: (await buildWorkerBundle()).source,
        edgePort: config.edge_port,
        sidecarUrl: config.sidecar_url,
        output: "inherit",
        notice,
        onGivenUp,
      }),
    async ({ port }) => {
      notice(`calls go to the sidecar at ${config.sidecar_url}`);
      console.log(`pixel-llm ready: http://127.0.0.1:${port}`);
    },
  );
}

await main();
