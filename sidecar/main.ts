import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { serve, type ServerType } from "@hono/node-server";
import { readConfig, readFlags, renderProblems, showConfig, type Config } from "../shared/config.ts";
import { isPixelLLMError } from "../shared/errors.ts";
import { version } from "../shared/version.ts";
import { readCheckpoint } from "./checkpoint.ts";
import { startEncoder } from "./encoder.ts";
import { createEngine, type Engine } from "./engine.ts";
import { exitCodes, type SidecarReport } from "./exit.ts";
import { createImageDoor } from "./image.ts";
import { createLmStudio } from "./lm-studio/client.ts";
import { openLogSink, type LogSink } from "./log.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { openReplayGuard } from "./replay-guard.ts";
import { createServer } from "./server.ts";
import { createSignatureCheck } from "./signature.ts";

const loopback = "127.0.0.1";

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

  const metrics = createMetrics();
  const engine = await openEngine(config, profile, log, metrics);
  if (engine === null) return;
  const replays = openReplayGuard(join(config.state_dir, "nonces"), Date.now() / 1000);
  if (replays.problem !== null) {
    logger.warning("used nonces cannot be stored; signatures from before this start are refused", {
      exception: replays.problem,
    });
  }
  const checkSignature =
    config.sidecar_secret.length === 0 ? null : createSignatureCheck(config.sidecar_secret, replays);
  if (checkSignature === null) logger.warning("no sidecar_secret: unsigned calls are taken, on loopback only");
  const app = createServer({ engine, config, log, checkSignature, metrics, wallNow: Date.now });
  const server = serve(
    {
      fetch: app.fetch,
      hostname: loopback,
      port: config.sidecar_port,
      serverOptions: {
        headersTimeout: 5000,
        requestTimeout: 20_000,
        maxHeaderSize: 32_768,
      },
    },
    ({ port }) => {
      logger.info("sidecar ready", { extra: { url: `http://${loopback}:${port}` } });
      process.send?.({ kind: "listening", port } satisfies SidecarReport);
    },
  );
  if ("maxRequestsPerSocket" in server) server.maxRequestsPerSocket = 1000;
  server.on("error", (error: NodeJS.ErrnoException) => {
    const busy = error.code === "EADDRINUSE";
    const reason = busy
      ? `port ${config.sidecar_port} is already in use. Stop what uses it, or choose another with PIXEL_LLM_SIDECAR_PORT (sidecar_port).`
      : `cannot listen on ${loopback}:${config.sidecar_port} (sidecar_port): ${error.message}`;
    void engine.close().then(() => refuse(exitCodes.unavailable, reason));
  });
  stopOnSignals({ server, engine, log, limitMs: config.timeout_seconds * 1000 });
}

/** The engine over its parts, or null after the process was told to end because the checkpoint cannot run. */
async function openEngine(config: Config, profile: string, log: LogSink, metrics: Metrics): Promise<Engine | null> {
  const logger = log.logger("sidecar.engine");
  const start = async (path: string | null) => startEncoder({ model: await readCheckpoint(path), logger });
  try {
    const embedded = await start(null);
    const checkpoint = config.checkpoint_path === null ? null : await start(config.checkpoint_path);
    const door = createImageDoor({ maxPixels: config.max_image_pixels });
    return createEngine({
      config,
      profile,
      version,
      decode: (bytes, request) => door.decode(bytes, request),
      embedded,
      checkpoint,
      lmStudio: createLmStudio({ config, logger: log.logger("sidecar.lm_studio") }),
      logger,
      metrics,
      now: () => performance.now(),
    });
  } catch (error) {
    if (!isPixelLLMError(error)) throw error;
    logger.critical("the encoder cannot run", { exception: error });
    log.flush();
    refuse(
      exitCodes.configuration,
      `${error.code}: ${error.message}${error.detail === null ? "" : ` (${error.detail})`}`,
    );
    return null;
  }
}

type Running = { server: ServerType; engine: Engine; log: LogSink; limitMs: number };

/** SIGTERM, SIGINT or the end of the parent: refuse new work, let what is inside finish, exit 0. */
function stopOnSignals({ server, engine, log, limitMs }: Running): void {
  let stopping = false;
  const stop = (reason: string): void => {
    if (stopping) return;
    stopping = true;
    log.logger("sidecar").info("stopping", { extra: { reason } });
    engine.drain();
    const finish = (): void => {
      void engine.close().then(() => {
        log.flush();
        process.exit(0);
      });
    };
    setTimeout(finish, limitMs).unref();
    server.close(finish);
    if ("closeIdleConnections" in server) server.closeIdleConnections();
  };
  process.once("SIGTERM", () => stop("SIGTERM"));
  process.once("SIGINT", () => stop("SIGINT"));
  // A killed parent closes the channel: without this the sidecar would live on without anyone to stop it.
  process.once("disconnect", () => stop("parent gone"));
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
