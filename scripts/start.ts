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
      const line = await describeLmStudio(edgeUrl, config.api_keys[0]);
      if (line !== null) notice(line);
      console.log(`pixel-llm ready: ${edgeUrl}`);
    },
  );
}

/** One line about LM Studio when captions are not live yet; null when they are. */
async function describeLmStudio(edgeUrl: string, key: string | undefined): Promise<string | null> {
  const response = await fetch(`${edgeUrl}/readyz`, {
    headers: key === undefined ? {} : { authorization: `Bearer ${key}` },
  });
  const { dependencies } = (await response.json()) as {
    dependencies: Record<string, { status: string; detail: string }>;
  };
  const lmStudio = dependencies["lm_studio"];
  if (lmStudio === undefined || lmStudio.status === "ok") return null;
  return `${lmStudio.detail} Until it does, captions come from the describe rung, marked degraded.`;
}

await main();
