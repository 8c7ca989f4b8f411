import type { Config } from "../shared/config.ts";
import { keepRunning, notice } from "./running.ts";
import { readSettings, settleSecret } from "./settings.ts";
import { startStack } from "./stack.ts";

/** Both halves until Ctrl-C: `npm start`. */
async function main(): Promise<void> {
  const { config, environment } = readSettings(process.argv.slice(2));
  await keepRunning(
    (signal, onGivenUp) =>
      startStack({
        environment,
        secret: settleSecret(config),
        edgePort: config.edge_port,
        sidecarPort: config.sidecar_port,
        output: "inherit",
        notice,
        onGivenUp,
        signal,
      }),
    async ({ edgeUrl }) => {
      const line = await describeLmStudio(edgeUrl, config);
      if (line !== null) notice(line);
      console.log(`pixel-llm ready: ${edgeUrl}`);
    },
  );
}

/** One line about LM Studio when captions are not live yet; null when they are. */
async function describeLmStudio(edgeUrl: string, config: Config): Promise<string | null> {
  const response = await fetch(`${edgeUrl}/readyz`);
  const { dependencies } = (await response.json()) as {
    dependencies: Record<string, { status: string; detail: string }>;
  };
  const lmStudio = dependencies["lm_studio"];
  if (lmStudio === undefined || lmStudio.status === "ok") return null;
  const where = `${config.lm_studio_host}:${config.lm_studio_port}`;
  return `${lmStudio.detail} (looked at ${where}) Until then captions come from the describe rung, marked degraded.`;
}

await main();
