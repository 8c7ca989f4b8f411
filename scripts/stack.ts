import { availableParallelism } from "node:os";
import { readConfig } from "../shared/config.ts";
import { superviseHalf, type SupervisedHalf } from "./supervised-half.ts";
import { buildWorkerBundle } from "./worker-bundle.ts";

/** Both halves on this machine: the real Worker bundle in workerd, and the sidecar. */
export type Stack = {
  edgeUrl: string;
  sidecarUrl: string;
  pids(): { edge: number | undefined; sidecar: number | undefined };
  /** Ends both; resolves when no process of theirs is left. */
  stop(): Promise<void>;
};

/** How a stack runs. */
export type StackOptions = {
  /** `PIXEL_LLM_` settings and all else the halves' processes get. */
  environment: Readonly<Record<string, string>>;
  secret: string;
  edgePort: number;
  sidecarPort: number;
  output: "inherit" | number;
  notice: (line: string) => void;
  onGivenUp: (code: number | null) => void;
  /** Ends the start early. */
  signal?: AbortSignal;
};

/** What a half gets to finish what is inside: the edge nothing of its own, the sidecar one request's time and a second. */
const edgeGraceMs = 8000;
const sidecarGraceMs = (environment: Readonly<Record<string, string>>): number => {
  const reading = readConfig(environment);
  return reading.ok ? (reading.config.timeout_seconds + 2) * 1000 : edgeGraceMs;
};

/** Starts the sidecar and then the edge that points at it; when one cannot start, the other is stopped. */
export async function startStack(options: StackOptions): Promise<Stack> {
  const halves: SupervisedHalf[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(halves.map((half) => half.stop()));
  };
  const add = async (starting: Promise<SupervisedHalf>): Promise<SupervisedHalf> => {
    const half = await starting;
    halves.push(half);
    options.signal?.throwIfAborted();
    return half;
  };
  try {
    // Settled, not raced: a half that comes up after the other failed must still be in the list to be stopped.
    const [bundling, starting] = await Promise.allSettled([buildWorkerBundle(), add(startSidecar(options))]);
    if (starting.status === "rejected") throw starting.reason;
    if (bundling.status === "rejected") throw bundling.reason;
    const [bundle, sidecar] = [bundling.value, starting.value];
    const sidecarUrl = `http://127.0.0.1:${sidecar.port}`;
    const edge = await add(startEdge({ ...options, source: bundle.source, sidecarUrl }));
    return {
      edgeUrl: `http://127.0.0.1:${edge.port}`,
      sidecarUrl,
      pids: () => ({ edge: edge.pid(), sidecar: sidecar.pid() }),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

type Shared = Pick<StackOptions, "environment" | "secret" | "output" | "notice" | "onGivenUp">;

function startSidecar(options: Shared & { sidecarPort: number }): Promise<SupervisedHalf> {
  return superviseHalf({
    ...options,
    name: "sidecar",
    module: new URL("../sidecar/main.ts", import.meta.url),
    port: options.sidecarPort,
    environment: (port) => ({
      ...options.environment,
      PIXEL_LLM_SIDECAR_PORT: String(port),
      PIXEL_LLM_SIDECAR_SECRET: options.secret,
      // sharp decodes on libuv's threads: one a core, and it must be said before the process starts.
      UV_THREADPOOL_SIZE: String(Math.max(2, availableParallelism())),
    }),
    graceMs: sidecarGraceMs(options.environment),
  });
}

/** Starts the edge alone, pointing at `sidecarUrl`. */
export function startEdge(
  options: Shared & { edgePort: number; source: string; sidecarUrl: string },
): Promise<SupervisedHalf> {
  return superviseHalf({
    ...options,
    name: "edge",
    module: new URL("local-edge-process.ts", import.meta.url),
    port: options.edgePort,
    greeting: options.source,
    environment: (port) => ({
      ...options.environment,
      PIXEL_LLM_EDGE_PORT: String(port),
      PIXEL_LLM_SIDECAR_URL: options.sidecarUrl,
      ...(options.secret === "" ? {} : { PIXEL_LLM_SIDECAR_SECRET: options.secret }),
    }),
    graceMs: edgeGraceMs,
  });
}
