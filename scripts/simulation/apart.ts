import { Worker } from "node:worker_threads";
import type { scenarios, ScenarioName } from "./simulate.ts";
import type { Outcome } from "./stats.ts";

/** What a scenario takes. */
export type OptionsOf<Name extends ScenarioName> = Parameters<(typeof scenarios)[Name]>[0];

/** One scenario to play, and what came of it. */
export type Asked = { id: number; scenario: ScenarioName; options: { seed: number } };
export type Played = { id: number; outcome: Outcome } | { id: number; thrown: unknown };

/** A thread that plays scenarios, one after the other. */
export type SimulationThread = {
  play<Name extends ScenarioName>(scenario: Name, options: OptionsOf<Name>): Promise<Outcome>;
  close(): Promise<void>;
};

/**
 * Opens a thread for scenarios. A run is made of promises, and where somebody watches each of them, as `node:test` does
 * on its own thread, it takes more than twice as long.
 */
export function openThread(): SimulationThread {
  const worker = new Worker(new URL("./thread.ts", import.meta.url));
  const waiting = new Map<number, { resolve: (outcome: Outcome) => void; reject: (reason: unknown) => void }>();
  let lastId = 0;
  worker.on("message", (played: Played) => {
    const waiter = waiting.get(played.id);
    waiting.delete(played.id);
    if ("outcome" in played) waiter?.resolve(played.outcome);
    else waiter?.reject(played.thrown);
  });
  worker.on("error", (error) => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  });
  return {
    play(scenario, options) {
      lastId += 1;
      const id = lastId;
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        worker.postMessage({ id, scenario, options } satisfies Asked, []);
      });
    },
    async close() {
      await worker.terminate();
    },
  };
}
