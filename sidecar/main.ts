import { randomUUID } from "node:crypto";
import type { ServerType } from "@hono/node-server";
import { readConfig, readFlags, renderProblems, showConfig } from "../shared/config.ts";
import { isPixelLLMError } from "../shared/errors.ts";
import { exitCodes, type SidecarReport } from "./exit.ts";
import { listenOn, loopback } from "./listener.ts";
import { openLogSink, type LogSink } from "./log.ts";
import { openSidecar, type Sidecar, type SidecarOptions } from "./sidecar.ts";

/** Starts the sidecar; ends the process with a code of `exit.ts` when it cannot. */
async function main(): Promise<void> {
  const { flags, rest } = readFlags(process.argv.slice(2));
  if (rest.length > 0) return refuse(exitCodes.configuration, `unknown argument: ${rest.join(" ")}`);
  const reading = readConfig(process.env, flags);
  if (!reading.ok) return refuse(exitCodes.configuration, `bad configuration:\n${renderProblems(reading.problems)}`);
  const { config, profile } = reading;
  const log = openLogSink({ name: "pixel_llm", level: config.log_level, file: config.log_file, now: Date.now });
  const logger = log.logger("sidecar");
  for (const warning of reading.warnings) logger.warning(warning);
  logger.info("Pixel LLM initialized", { extra: { run: randomUUID(), ...showConfig(profile, config) } });
  watchForBugs(log);

  const sidecar = await openOrRefuse({ config, profile, log });
  if (sidecar === null) return;
  const server = listenOn(sidecar.app, config.sidecar_port, (port) => {
    logger.info("sidecar ready", { extra: { url: `http://${loopback}:${port}` } });
    process.send?.({ kind: "listening", port } satisfies SidecarReport);
  });
  server.on("error", (error: NodeJS.ErrnoException) => {
    const busy = error.code === "EADDRINUSE";
    const reason = busy
      ? `port ${config.sidecar_port} is already in use. Stop what uses it, or choose another with PIXEL_LLM_SIDECAR_PORT (sidecar_port).`
      : `cannot listen on ${loopback}:${config.sidecar_port} (sidecar_port): ${error.message}`;
    void sidecar.close().then(() => refuse(exitCodes.unavailable, reason));
  });
  stopOnSignals({ server, sidecar, log, limitMs: config.timeout_seconds * 1000 });
}

/** The sidecar, or null after the process was told to end because the checkpoint cannot run. */
async function openOrRefuse(options: SidecarOptions): Promise<Sidecar | null> {
  try {
    return await openSidecar(options);
  } catch (error) {
    if (!isPixelLLMError(error)) throw error;
    options.log.logger("sidecar.engine").critical("the encoder cannot run", { exception: error });
    options.log.flush();
    refuse(
      exitCodes.configuration,
      `${error.code}: ${error.message}${error.detail === null ? "" : ` (${error.detail})`}`,
    );
    return null;
  }
}

type Running = { server: ServerType; sidecar: Sidecar; log: LogSink; limitMs: number };

/** Answers on their way out are given this much longer than the work, in ms. */
const sendingMs = 500;

/**
 * SIGTERM, SIGINT or the end of the parent: not ready, refuse new work, let what is inside finish, exit 0.
 * The port stays open until then, so that whoever comes meanwhile is told and not cut off.
 */
function stopOnSignals({ server, sidecar, log, limitMs }: Running): void {
  let stopping = false;
  const stop = async (reason: string): Promise<void> => {
    if (stopping) return;
    stopping = true;
    log.logger("sidecar").info("stopping", { extra: { reason } });
    sidecar.drain();
    const limit = after(limitMs);
    await Promise.race([sidecar.engine.idle(), limit.elapsed]);
    limit.stop();
    // Whatever is still inside could not finish in time: it is answered by the end of the engine.
    await sidecar.close();
    const sending = after(sendingMs);
    const sent = new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
    if ("closeIdleConnections" in server) server.closeIdleConnections();
    await Promise.race([sent, sending.elapsed]);
    log.flush();
    process.exit(0);
  };
  process.once("SIGTERM", () => void stop("SIGTERM"));
  process.once("SIGINT", () => void stop("SIGINT"));
  // A killed parent closes the channel: without this the sidecar would live on without anyone to stop it.
  process.once("disconnect", () => void stop("parent gone"));
}

function after(ms: number): { elapsed: Promise<void>; stop: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  return { elapsed: promise, stop: () => clearTimeout(timer) };
}

function watchForBugs(log: LogSink): void {
  process.on("uncaughtException", (exception) => {
    log.logger("sidecar").critical("uncaught exception", { exception });
    log.flush();
    process.exit(exitCodes.bug);
  });
}

function refuse(code: number, reason: string): void {
  process.stderr.write(`pixel-llm sidecar: ${reason}\n`);
  process.exit(code);
}

await main();
