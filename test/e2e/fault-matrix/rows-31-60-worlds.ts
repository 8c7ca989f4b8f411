import { after } from "node:test";
import { matrixEdges, startEdgeWorld, type World, type WorldOptions } from "../../kit/whole.ts";
import { quickSettings } from "./observe.ts";
import type { Row } from "./row.ts";

/** How far the main world's sidecar is ahead of time (ms), and the memory it believes to use, of 100. */
export const injected = { aheadMs: 0, memory: 10 };

/** Lets the sidecar ask LM Studio anew what it has: what it knows is good for ten seconds. */
export function forgetListing(): void {
  injected.aheadMs += 10_001;
}

/** Edges of the main world: one that takes small pictures and has little time, one without breakers. */
export const mainEdges = {
  ...matrixEdges,
  narrow: { retry_max_attempts: 1, max_image_bytes: 65_536, timeout_seconds: 1 },
  unbroken: { retry_max_attempts: 3, circuit_breaker_enabled: "false" },
} as const;
export type MainWorld = World<keyof typeof mainEdges>;

const main = {
  settings: { ...quickSettings, retry_initial_delay: 0.02, retry_jitter: "false", max_queue: 12 },
  edges: mainEdges,
  inject: {
    now: () => performance.now() + injected.aheadMs,
    memory: () => ({ used: injected.memory, limit: 100 }),
  },
} satisfies WorldOptions<keyof typeof mainEdges>;

/** A row in a world of its own that mostly waits: begun now, while others run. */
export function ahead(row: Row): Row {
  const running = row.run();
  // Whoever asks for it is told; until then nobody is.
  running.catch(() => undefined);
  return { ...row, run: () => running };
}

const started: Promise<AsyncDisposable>[] = [];

/** A world that is ended with the file. */
export async function keepWorld<Name extends string>(starting: Promise<World<Name>>): Promise<World<Name>> {
  started.push(starting);
  return starting;
}

after(async () => {
  for (const world of await Promise.allSettled(started)) {
    if (world.status === "fulfilled") await world.value[Symbol.asyncDispose]();
  }
});

/** The world that most rows share. */
export const world: MainWorld = await keepWorld(startEdgeWorld<keyof typeof mainEdges>(main));
