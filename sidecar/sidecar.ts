import { join } from "node:path";
import type { Config } from "../shared/config.ts";
import type { Logger } from "../shared/log.ts";
import { version } from "../shared/version.ts";
import { createAdmission } from "./admission.ts";
import { readCheckpoint } from "./checkpoint.ts";
import { startEncoder } from "./encoder.ts";
import { createEngine, type Engine } from "./engine.ts";
import { createImageDoor } from "./image.ts";
import { createLmStudio } from "./lm-studio/client.ts";
import type { LogSink } from "./log.ts";
import { createMemoryReader, type MemoryReading } from "./memory.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { openReplayGuard } from "./replay-guard.ts";
import { createServer } from "./server.ts";
import { createSignatureCheck } from "./signature.ts";

/** What an engine is opened with; everything optional has the real thing as its default. */
export type EngineOptions = {
  config: Config;
  /** Name shown in `/info`. */
  profile: string;
  /** Gives the logger of a component. */
  logger: (component: string) => Logger;
  metrics?: Metrics;
  /** Module of the encoder's process, speaking `encoder-protocol.ts`. */
  hostModule?: URL;
  /** Memory in use and its limit, in bytes; what the system says by default. */
  memory?: () => MemoryReading;
  /** Monotonic milliseconds. */
  now?: () => number;
  /** Epoch milliseconds. */
  wallNow?: () => number;
};

/** What a sidecar is opened with. */
export type SidecarOptions = Omit<EngineOptions, "logger"> & { log: LogSink };

/** A whole sidecar without its port: `app.fetch` answers, `close` ends everything it started. */
export type Sidecar = {
  engine: Engine;
  app: ReturnType<typeof createServer>;
  metrics: Metrics;
  /** Not ready from now on, new work is refused. */
  drain(): void;
  close(): Promise<void>;
};

/** Opens encoders, decoder and LM Studio's client as one engine; `ERR_ENC_LOAD_FAILED` when an encoder cannot run. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { config, profile, now = () => performance.now(), wallNow = Date.now } = options;
  const logger = options.logger("sidecar.engine");
  const { hostModule } = options;
  const start = async (path: string | null) =>
    startEncoder({ model: await readCheckpoint(path), logger, ...(hostModule === undefined ? {} : { hostModule }) });
  const embedded = await start(null);
  const checkpoint = config.checkpoint_path === null ? null : await start(config.checkpoint_path);
  const door = createImageDoor({ maxPixels: config.max_image_pixels });
  const memory = options.memory ?? createMemoryReader(config.memory_limit_bytes);
  const admission = createAdmission({ maxInside: config.max_queue, now, memory });
  return createEngine({
    config,
    profile,
    version,
    decode: (bytes, request) => door.decode(bytes, request),
    embedded,
    checkpoint,
    admission,
    lmStudio: createLmStudio({ config, logger: options.logger("sidecar.lm_studio"), admission, now, wallNow }),
    logger,
    metrics: options.metrics ?? createMetrics(),
    now,
  });
}

/** Opens the engine and the HTTP surface over it, with the stored nonces of `state_dir`. */
export async function openSidecar(options: SidecarOptions): Promise<Sidecar> {
  const { config, log, wallNow = Date.now, metrics = createMetrics() } = options;
  const logger = log.logger("sidecar");
  const engine = await openEngine({ ...options, metrics, logger: (component) => log.logger(component) });
  const tellProblem = (exception: Error): void =>
    logger.warning("used nonces cannot be stored; signatures from before a start are refused", { exception });
  const replays = openReplayGuard(join(config.state_dir, "nonces"), wallNow() / 1000, tellProblem);
  if (replays.problem !== null) tellProblem(replays.problem);
  const checkSignature =
    config.sidecar_secret.length === 0 ? null : createSignatureCheck(config.sidecar_secret, replays);
  if (checkSignature === null) logger.warning("no sidecar_secret: unsigned calls are taken, on loopback only");
  const app = createServer({ engine, config, log, checkSignature, metrics, wallNow });
  return { engine, app, metrics, drain: () => engine.drain(), close: () => engine.close() };
}
