import { once } from "node:events";
import { readConfig } from "../shared/config.ts";
import { exitCodes } from "../sidecar/exit.ts";
import { startLocalEdge, type LocalEdge } from "./local-edge.ts";
import type { ListeningReport } from "./supervised-half.ts";

/** Runs the local edge as a process of its own; the Worker's source is the first message of its parent. */
async function main(): Promise<void> {
  const reading = readConfig(process.env);
  if (!reading.ok) return end(exitCodes.configuration, "bad configuration");
  const { config } = reading;
  const [source] = (await once(process, "message")) as [string];
  const environment = Object.fromEntries(
    Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  let edge: LocalEdge;
  try {
    edge = await startLocalEdge({ source, port: config.edge_port, environment, stateDir: config.state_dir });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    const busy = /address already in use|EADDRINUSE/i.test(text);
    return end(
      exitCodes.unavailable,
      busy
        ? `port ${config.edge_port} is already in use. Stop what uses it, or choose another with PIXEL_LLM_EDGE_PORT (edge_port).`
        : `the Worker does not start on port ${config.edge_port} (edge_port): ${text}`,
    );
  }
  const stop = (): void => {
    void edge.close().then(() => process.exit(0));
  };
  process.once("SIGTERM", stop);
  // A killed parent closes the channel: without this workerd would live on without anyone to stop it.
  process.once("disconnect", stop);
  process.send?.({ kind: "listening", port: Number(new URL(edge.url).port) } satisfies ListeningReport);
}

function end(code: number, reason: string): void {
  process.stderr.write(`pixel-llm edge: ${reason}\n`);
  process.exit(code);
}

await main();
