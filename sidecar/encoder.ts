import { createHash } from "node:crypto";
import { PixelLLMError, isPixelLLMError } from "../shared/errors.ts";
import type { EncoderOutputs } from "../shared/evidence.ts";
import type { Logger } from "../shared/log.ts";
import { checkUnchanged, loadFailed, type EncoderModel } from "./checkpoint.ts";
import {
  endEncoderProcess,
  forwardFailed,
  hostDied,
  openEncoderProcess,
  runOnce,
  type EncoderProcess,
} from "./encoder-process.ts";
import type { HostTensor } from "./encoder-protocol.ts";
import { readVector, type EncoderShape } from "./encoder-shape.ts";
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
  /** Why it cannot run, in state `failed`: `ERR_ENC_LOAD_FAILED`. */
  failure(): PixelLLMError | null;
  /** Processes that were lost so far, by reason. */
  restarts(): Readonly<Record<RestartReason, number>>;
  /** Time until a picture that comes now would be begun, in ms. */
  backlogMs(): number;
  /**
   * Encodes uint8 RGB pixels prepared by `recipe`; one run at a time, in order of arrival. Who waits keeps the place
   * when the process is lost once. Errors: `ERR_ENC_FORWARD_FAILED` (the run failed, hung or lost its process, then of
   * kind `host_died`), `ERR_API_OVERLOAD` of kind `queue` (the process will not be back within `remainingMs`),
   * `ERR_ENC_LOAD_FAILED` (state `failed`), the signal's reason on abort; an aborted call that has not begun never runs.
   */
  encode(pixels: Uint8Array, signal: AbortSignal, remainingMs?: number): Promise<Encoding>;
  /** Ends the process; resolves when it is gone. */
  close(): Promise<void>;
};

/** `failed`: the model cannot be loaded again; it is tried on and on, in case the file comes back. */
export type EncoderState = "loading" | "ready" | "rebuilding" | "failed" | "closed";

/** Why a process was lost: it ended by itself, a run took too long, failed badly, or gave three vectors of no use. */
export const restartReasons = ["died", "hung", "run_failed", "bad_output"] as const;
export type RestartReason = (typeof restartReasons)[number];

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

/** What an encoder is started with. */
export type EncoderOptions = {
  model: EncoderModel;
  logger: Logger;
  /** Module of the process that runs it, speaking `encoder-protocol.ts`; the real host unless a test brings its own. */
  hostModule?: URL;
};

type Job = {
  pixels: Uint8Array;
  /** When its caller's time is over, in ms of `performance.now`. */
  endsAt: number;
  /** Processes lost while it waited. */
  losses: number;
  resolve: (encoding: Encoding) => void;
  reject: (reason: unknown) => void;
};

/** Part of the fingerprint: another runtime may round otherwise. */
const runtime = "onnxruntime-node 1.30.0 cpu";
const leastRunBudgetMs = 2000;
const firstPauseMs = 500;
const longestPauseMs = 30_000;
const rememberedRuns = 100;
/** Vectors of no use in a row after which the session is taken for broken. */
const badOutputLimit = 3;

/** Starts an encoder: load, fit, canary; `ERR_ENC_LOAD_FAILED` says why it cannot run. */
export async function startEncoder(options: EncoderOptions): Promise<Encoder> {
  const { model, logger, hostModule = new URL("encoder-host.ts", import.meta.url) } = options;
  const now = (): number => performance.now();
  const queue: Job[] = [];
  const runTimes: number[] = [];
  const restarts: Record<RestartReason, number> = { died: 0, hung: 0, run_failed: 0, bad_output: 0 };
  let state: EncoderState = "loading";
  let failure: PixelLLMError | null = null;
  let host: EncoderProcess | null = null;
  let running: Job | null = null;
  let badOutputs = 0;
  let pauseMs = firstPauseMs;
  let pause: NodeJS.Timeout | undefined;
  /** When the rebuild under way or planned has begun or begins, and how long the last load took. */
  let rebuildAt = 0;
  let loadMs: number;

  const openedAt = now();
  const first = await openEncoderProcess(model, hostModule);
  loadMs = now() - openedAt;
  const { shape } = first;
  const info = describeEncoder(model, shape, first.dimensions);
  adopt(first);

  function adopt(next: EncoderProcess): void {
    host = next;
    state = "ready";
    failure = null;
    badOutputs = 0;
    pauseMs = firstPauseMs;
    next.child.once("exit", (code, signal) => {
      if (host === next) lose("died", `the encoder process ended (${signal ?? code})`);
    });
  }

  /** The process is not used any more: the run in it fails, who waits keeps the place once, and another is started. */
  function lose(reason: RestartReason, words: string): void {
    const lost = host;
    host = null;
    // Closed is not lost: `close` has told everybody.
    if (lost === null || state === "closed") return;
    lost.child.kill("SIGKILL");
    restarts[reason] += 1;
    running?.reject(hostDied(words));
    running = null;
    logger.error("encoder process lost", {
      extra: { encoder: model.name, reason, detail: words, next_try_ms: pauseMs },
    });
    state = "rebuilding";
    planRebuild();
    for (const job of queue.splice(0)) {
      job.losses += 1;
      if (job.losses > 1) job.reject(forwardFailed("the encoder process was lost twice while this waited"));
      else queue.push(job);
    }
    refuseLate();
  }

  function planRebuild(): void {
    rebuildAt = now() + pauseMs;
    pause = setTimeout(() => void rebuild(), pauseMs);
    pauseMs = Math.min(longestPauseMs, pauseMs * 2);
  }

  async function rebuild(): Promise<void> {
    rebuildAt = now();
    try {
      await checkUnchanged(model);
      const next = await openEncoderProcess(model, hostModule);
      if (state === "closed") {
        await endEncoderProcess(next.child);
        return;
      }
      loadMs = now() - rebuildAt;
      adopt(next);
      logger.info("encoder process is back", { extra: { encoder: model.name } });
      startNext();
    } catch (error) {
      logger.error("encoder process does not come back", { exception: error });
      if (state === "closed") return;
      planRebuild();
      if (isPixelLLMError(error) && error.code === "ERR_ENC_LOAD_FAILED") {
        failure = error;
        state = "failed";
        for (const job of queue.splice(0)) job.reject(error);
      } else {
        refuseLate();
      }
    }
  }

  /** Time until the process is likely to be back, in ms; 0 while it is there. */
  function rebuiltInMs(): number {
    return state === "rebuilding" ? Math.max(0, rebuildAt + loadMs - now()) : 0;
  }

  function refuseLate(): void {
    const backAt = now() + rebuiltInMs();
    for (const job of queue.splice(0)) {
      if (backAt > job.endsAt) job.reject(rebuilding(rebuiltInMs()));
      else queue.push(job);
    }
  }

  function startNext(): void {
    if (host === null || running !== null) return;
    const job = queue.shift();
    if (job === undefined) return;
    running = job;
    void runJob(host, job);
  }

  async function runJob(current: EncoderProcess, job: Job): Promise<void> {
    const budgetMs = Math.max(leastRunBudgetMs, 3 * Math.max(0, ...runTimes));
    const watchdog = setTimeout(() => {
      if (host === current) lose("hung", `a run took more than ${Math.round(budgetMs)} ms`);
    }, budgetMs);
    try {
      const { outputs, milliseconds } = await runOnce(current.child, job.pixels);
      runTimes.push(milliseconds);
      if (runTimes.length > rememberedRuns) runTimes.shift();
      const embedding = readVector(shape, outputs);
      if (embedding?.length === info.dimensions) {
        badOutputs = 0;
        job.resolve({ embedding, outputs: model.embedded ? namedOutputs(outputs) : null, milliseconds });
      } else {
        badOutputs += 1;
        job.reject(forwardFailed("the output is not finite or not of the known size"));
        if (badOutputs >= badOutputLimit && host === current) lose("bad_output", `${badOutputs} useless vectors`);
      }
    } catch (error) {
      job.reject(error);
      const sessionLost = isPixelLLMError(error) && error.details["kind"] === "host_died";
      // A session that failed once, for want of memory above all, goes on failing.
      if (sessionLost && host === current) lose("run_failed", "a run failed");
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
    failure: () => failure,
    restarts: () => ({ ...restarts }),
    backlogMs() {
      const meanMs = runTimes.length === 0 ? 0 : runTimes.reduce((sum, each) => sum + each, 0) / runTimes.length;
      return rebuiltInMs() + meanMs * (queue.length + (running === null ? 0 : 1));
    },
    encode(pixels, signal, remainingMs = Infinity) {
      return new Promise((resolve, reject) => {
        const refusal = signal.aborted ? signal.reason : refuse(remainingMs);
        if (refusal !== null) {
          reject(refusal);
          return;
        }
        const settled = (): void => signal.removeEventListener("abort", leave);
        const job: Job = {
          pixels,
          endsAt: now() + remainingMs,
          losses: 0,
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
      if (host !== null) await endEncoderProcess(host.child);
    },
  };

  function refuse(remainingMs: number): unknown {
    switch (state) {
      case "closed":
        return forwardFailed("the encoder is closed");
      case "failed":
        return failure ?? loadFailed(model.file, "The model cannot be loaded.");
      case "rebuilding":
        return rebuiltInMs() > remainingMs ? rebuilding(rebuiltInMs()) : null;
      case "loading":
      case "ready":
        return null;
    }
  }
}

function rebuilding(backInMs: number): PixelLLMError {
  return new PixelLLMError("ERR_API_OVERLOAD", {
    hint: "The encoder is being started again.",
    retryAfterSeconds: backInMs / 1000,
    details: { kind: "queue", reason: "late" },
  });
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
