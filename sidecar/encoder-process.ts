import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { PixelLLMError } from "../shared/errors.ts";
import { loadFailed, type EncoderModel } from "./checkpoint.ts";
import { canaryPictures, judgeCanary } from "./encoder-canary.ts";
import type { HostOrder, HostReport, HostTensor } from "./encoder-protocol.ts";
import { fitEncoder, readVector, type EncoderShape } from "./encoder-shape.ts";
import { readLoadError } from "./load-error.ts";

/** A process that holds a loaded model, its canary passed. */
export type EncoderProcess = { child: ChildProcess; shape: EncoderShape; dimensions: number };

/** What one run gave. */
export type RawRun = { outputs: Record<string, HostTensor>; milliseconds: number };

const loadBudgetMs = 120_000;

/** Variables a host may see: no secret of ours is among them. */
const hostVariables = ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "SystemRoot", "CUDA_VISIBLE_DEVICES"];

/** onnxruntime's words for an input that does not fit; whatever else fails a run may have spoilt the session. */
const inputMismatch =
  /Got invalid dimensions|Invalid rank|Unexpected input data type|is missing in 'feeds'|invalid output name|does not match data length/i;

/** Forks a host, loads the model, fits it and runs the canary; a failure ends the process it started. */
export async function openEncoderProcess(model: EncoderModel, hostModule: URL): Promise<EncoderProcess> {
  const env = Object.fromEntries(
    hostVariables.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
  const child = fork(hostModule, { env, serialization: "advanced", execArgv: [] });
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
    return { child, shape, dimensions: verdict.dimensions };
  } catch (error) {
    await endEncoderProcess(child);
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

/** Runs one picture; `ERR_ENC_FORWARD_FAILED`, of kind `host_died` when process or session are lost with it. */
export async function runOnce(child: ChildProcess, pixels: Uint8Array): Promise<RawRun> {
  lastRunId += 1;
  const id = lastRunId;
  const answer = nextReport(child, null);
  send(child, { kind: "run", id, pixels });
  const report = await answer;
  if (report.kind === "run_failed") {
    throw inputMismatch.test(report.text) ? forwardFailed(report.text) : hostDied(report.text);
  }
  if (report.kind !== "result" || report.id !== id) throw forwardFailed("the encoder process answered out of turn");
  return report;
}

/** Ends the process by force; resolves when it is gone. */
export async function endEncoderProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
}

/** A run that failed; another try may succeed. */
export function forwardFailed(detail: string): PixelLLMError {
  return new PixelLLMError("ERR_ENC_FORWARD_FAILED", { detail, retryAfterSeconds: 1 });
}

/** A run whose process or session is lost: its picture may be to blame. */
export function hostDied(detail: string): PixelLLMError {
  const details = { kind: "host_died" };
  return new PixelLLMError("ERR_ENC_FORWARD_FAILED", { detail, retryAfterSeconds: 1, details });
}

/** The next message of a host; `ERR_ENC_FORWARD_FAILED` when it ends, or stays silent past the limit, before one. */
function nextReport(child: ChildProcess, limitMs: number | null): Promise<HostReport> {
  return new Promise((resolve, reject) => {
    const timer =
      limitMs === null
        ? undefined
        : setTimeout(() => settle(() => reject(forwardFailed("no answer in time"))), limitMs);
    const answer = (report: HostReport): void => settle(() => resolve(report));
    const ended = (): void => settle(() => reject(hostDied("the encoder process ended")));
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
