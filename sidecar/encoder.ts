import { fork, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { PixelLLMError } from "../shared/errors.ts";
import type { EncoderOutputs } from "../shared/evidence.ts";
import type { Logger } from "../shared/log.ts";
import { canaryPictures, judgeCanary } from "./encoder-canary.ts";
import type { HostOrder, HostReport, HostTensor } from "./encoder-protocol.ts";
import { fitEncoder, readVector, type EncoderShape } from "./encoder-shape.ts";
import { loadFailed, type EncoderModel } from "./checkpoint.ts";
import { readLoadError } from "./load-error.ts";
import type { TensorRecipe } from "./tensor-recipe.ts";

/** What one picture became. */
export type Encoding = {
  /** Unit length. */
  embedding: Float32Array;
  /** Named outputs, evidence for `readEvidence`; null for encoders other than the embedded one. */
  outputs: EncoderOutputs | null;
  /** Time of the run alone. */
  milliseconds: number;
};

/** An encoder in a process of its own, rebuilt when that process dies. */
export type Encoder = {
  recipe: TensorRecipe;
  info(): EncoderInfo;
  state(): EncoderState;
  /**
   * Encodes uint8 RGB pixels prepared by `recipe`; one run at a time, in order of arrival.
   * Errors: `ERR_ENC_FORWARD_FAILED` (the run failed, hung or lost its process), the signal's reason on abort;
   * an aborted call that has not begun is never run.
   */
  encode(pixels: Uint8Array, signal: AbortSignal): Promise<Encoding>;
  /** Ends the process; resolves when it is gone. */
  close(): Promise<void>;
};

export type EncoderState = "loading" | "ready" | "rebuilding" | "closed";

/** Facts for `/info`: what was asked for and what runs. */
export type EncoderInfo = {
  name: string;
  /** First 16 hex digits over file, preprocessing, output and runtime: vectors of different ones never meet. */
  fingerprint: string;
  requested: "cpu";
  active: "cpu";
  dimensions: number;
  input: { type: string; layout: string; height: number; width: number };
  similarity_floor: number | null;
};

type Job = { pixels: Uint8Array; resolve: (encoding: Encoding) => void; reject: (reason: unknown) => void };
type Host = { child: ChildProcess; shape: EncoderShape };
type RawRun = { outputs: Record<string, HostTensor>; milliseconds: number };

/** Part of the fingerprint: another runtime may round otherwise. */
const runtime = "onnxruntime-node 1.30.0 cpu";
const leastRunBudgetMs = 2000;
const loadBudgetMs = 120_000;
const longestPauseMs = 30_000;
const rememberedRuns = 100;

/** Variables a host may see: no secret of ours is among them. */
const hostVariables = ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "SystemRoot", "CUDA_VISIBLE_DEVICES"];

/** Starts an encoder: load, fit, canary; `ERR_ENC_LOAD_FAILED` says why it cannot run. */
export async function startEncoder(options: { model: EncoderModel; logger: Logger }): Promise<Encoder> {
  const { model, logger } = options;
  const queue: Job[] = [];
  const runTimes: number[] = [];
  let state: EncoderState = "loading";
  let host: Host | null = null;
  let running: Job | null = null;
  let pauseMs = 500;
  let pause: NodeJS.Timeout | undefined;

  const first = await openHost(model);
  host = first.host;
  state = "ready";
  const { shape } = first.host;
  const info = describeEncoder(model, shape, first.dimensions);
  watch(first.host);

  function watch(current: Host): void {
    current.child.once("exit", (code, signal) => {
      if (host === current) host = null;
      const lost = running;
      running = null;
      lost?.reject(forwardFailed(`the encoder process ended (${signal ?? code})`));
      if (state === "closed") return;
      logger.error("encoder process ended", { extra: { encoder: model.name, code, signal, next_try_ms: pauseMs } });
      state = "rebuilding";
      scheduleRebuild();
    });
  }

  function scheduleRebuild(): void {
    pause = setTimeout(() => void rebuild(), pauseMs);
    pauseMs = Math.min(longestPauseMs, pauseMs * 2);
  }

  async function rebuild(): Promise<void> {
    try {
      const next = await openHost(model);
      if (state === "closed") {
        await endHost(next.host.child);
        return;
      }
      host = next.host;
      watch(next.host);
      state = "ready";
      pauseMs = 500;
      logger.info("encoder process is back", { extra: { encoder: model.name } });
      startNext();
    } catch (error) {
      logger.error("encoder process does not come back", { exception: error });
      if (state !== "closed") scheduleRebuild();
    }
  }

  function startNext(): void {
    if (host === null || running !== null) return;
    const job = queue.shift();
    if (job === undefined) return;
    running = job;
    void runJob(host, job);
  }

  async function runJob(current: Host, job: Job): Promise<void> {
    const budgetMs = Math.max(leastRunBudgetMs, 3 * Math.max(0, ...runTimes));
    const watchdog = setTimeout(() => current.child.kill("SIGKILL"), budgetMs);
    try {
      const { outputs, milliseconds } = await runOnce(current.child, job.pixels);
      runTimes.push(milliseconds);
      if (runTimes.length > rememberedRuns) runTimes.shift();
      const embedding = readVector(shape, outputs);
      if (embedding?.length !== info.dimensions)
        throw forwardFailed("the output is not finite or not of the known size");
      job.resolve({ embedding, outputs: model.embedded ? namedOutputs(outputs) : null, milliseconds });
    } catch (error) {
      job.reject(error);
    } finally {
      clearTimeout(watchdog);
      if (running === job) running = null;
      startNext();
    }
  }

  return {
    recipe: shape.recipe,
    info: () => info,
    state: () => state,
    encode(pixels, signal) {
      return new Promise((resolve, reject) => {
        if (signal.aborted || state === "closed") {
          reject(signal.aborted ? signal.reason : forwardFailed("the encoder is closed"));
          return;
        }
        const settled = (): void => signal.removeEventListener("abort", leave);
        const job: Job = {
          pixels,
          resolve: (encoding) => {
            settled();
            resolve(encoding);
          },
          reject: (reason) => {
            settled();
            reject(reason);
          },
        };
        // A run under way cannot be stopped; its caller need not wait for it.
        const leave = (): void => {
          const at = queue.indexOf(job);
          if (at >= 0) queue.splice(at, 1);
          reject(signal.reason);
        };
        signal.addEventListener("abort", leave, { once: true });
        queue.push(job);
        startNext();
      });
    },
    async close() {
      if (state === "closed") return;
      state = "closed";
      clearTimeout(pause);
      for (const job of queue.splice(0)) job.reject(forwardFailed("the encoder is closed"));
      if (host !== null) await endHost(host.child);
    },
  };
}

/** Forks a host, loads the model, fits it and runs the canary; a failure ends the process it started. */
async function openHost(model: EncoderModel): Promise<{ host: Host; dimensions: number }> {
  const env = Object.fromEntries(
    hostVariables.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
  const child = fork(new URL("encoder-host.ts", import.meta.url), { env, serialization: "advanced", execArgv: [] });
  try {
    // Half a machine's cores would idle while pictures are decoded on the others; one stays free for serving.
    send(child, { kind: "load", file: model.file, threads: Math.max(1, availableParallelism() - 1) });
    const loaded = await nextReport(child, loadBudgetMs);
    if (loaded.kind === "load_failed") throw readLoadError(model.file, loaded.text);
    if (loaded.kind !== "loaded") throw loadFailed(model.file, "The encoder process answered out of turn.");
    const shape = fitEncoder(model, loaded.inputs, loaded.outputs);
    send(child, { kind: "feed", feed: shape.feed, outputs: shape.fetch });
    const vectors: (Float32Array | null)[] = [];
    for (const pixels of canaryPictures(shape.recipe.width, shape.recipe.height)) {
      vectors.push(readVector(shape, (await canaryRun(child, pixels, model.file)).outputs));
    }
    const verdict = judgeCanary(vectors);
    if (!verdict.ok) throw loadFailed(model.file, verdict.hint);
    return { host: { child, shape }, dimensions: verdict.dimensions };
  } catch (error) {
    await endHost(child);
    throw error;
  }
}

async function canaryRun(child: ChildProcess, pixels: Uint8Array, file: string): Promise<RawRun> {
  try {
    return await runOnce(child, pixels);
  } catch (error) {
    throw loadFailed(file, "The model loads, but does not run on a test picture.", error);
  }
}

let lastRunId = 0;

async function runOnce(child: ChildProcess, pixels: Uint8Array): Promise<RawRun> {
  lastRunId += 1;
  const id = lastRunId;
  const answer = nextReport(child, null);
  send(child, { kind: "run", id, pixels });
  const report = await answer;
  if (report.kind === "run_failed") throw forwardFailed(report.text);
  if (report.kind !== "result" || report.id !== id) throw forwardFailed("the encoder process answered out of turn");
  return report;
}

/** The next message of a host; `ERR_ENC_FORWARD_FAILED` when it ends, or stays silent past the limit, before one. */
function nextReport(child: ChildProcess, limitMs: number | null): Promise<HostReport> {
  return new Promise((resolve, reject) => {
    const timer =
      limitMs === null
        ? undefined
        : setTimeout(() => settle(() => reject(forwardFailed("no answer in time"))), limitMs);
    const answer = (report: HostReport): void => settle(() => resolve(report));
    const ended = (): void => settle(() => reject(forwardFailed("the encoder process ended")));
    const settle = (act: () => void): void => {
      clearTimeout(timer);
      child.off("message", answer);
      child.off("exit", ended);
      act();
    };
    child.once("message", answer);
    child.once("exit", ended);
  });
}

function send(child: ChildProcess, order: HostOrder): void {
  // A channel that has just closed is told by the exit event, which every wait listens to.
  if (child.connected) child.send(order, () => undefined);
}

async function endHost(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
}

function describeEncoder(model: EncoderModel, { feed, vector }: EncoderShape, dimensions: number): EncoderInfo {
  const parts = [model.sha256, model.preprocessing, feed, vector, runtime];
  return {
    name: model.name,
    fingerprint: createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16),
    requested: "cpu",
    active: "cpu",
    dimensions,
    input: { type: feed.type, layout: feed.layout, height: feed.height, width: feed.width },
    similarity_floor: model.similarityFloor,
  };
}

function namedOutputs(outputs: Readonly<Record<string, HostTensor>>): EncoderOutputs {
  return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data]));
}

function forwardFailed(detail: string): PixelLLMError {
  return new PixelLLMError("ERR_ENC_FORWARD_FAILED", { detail, retryAfterSeconds: 1 });
}
