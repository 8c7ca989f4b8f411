import type { Canonical } from "../../shared/cache-key.ts";
import { settled } from "./fake-time.ts";
import { Cancelled, outcomeOf, type Library, type Subject, type Work } from "./library.ts";
import { OpossumBreaker, type CacheTransport, type Opossum, type OpossumOptions } from "./opossum.ts";

/** opossum 10.0.0, which opens by a share of failures: half of at least five. */
export const opossum: Library = {
  name: "opossum",
  open: (saved) => subjectOf(createBreaker(run, saved === undefined ? {} : readSaved(saved))),
  openNarrow: (capacity) => subjectOf(createBreaker(run, { capacity })),
  openOff: (capacity) => subjectOf(createBreaker(run, { capacity, enabled: false })),
  async countAsked(questions, answer) {
    let asked = 0;
    const store = new Map<string, unknown>();
    const ask = async (_question: Canonical): Promise<string | number> => {
      asked += 1;
      return answer;
    };
    const cacheTransport: CacheTransport = {
      get: (key) => store.get(key),
      // It is handed the promise: a store outside this process keeps what that comes to.
      set: (key, value) => void Promise.resolve(value).then((settledValue) => store.set(key, settledValue)),
      flush: () => store.clear(),
    };
    const breaker = createBreaker(ask, { cache: true, cacheTransport });
    for (const question of questions) {
      await breaker.fire(question);
      await settled();
    }
    return asked;
  },
  retry: null,
  openQueue: null,
};

/** A breaker around `action`, with the guide's numbers. */
export function createBreaker<Args extends unknown[]>(
  action: (...args: Args) => Promise<unknown>,
  options: Partial<OpossumOptions> = {},
): Opossum<Args> {
  return new OpossumBreaker(action, {
    timeout: false,
    errorThresholdPercentage: 50,
    volumeThreshold: 5,
    resetTimeout: 60_000,
    rollingCountTimeout: 60_000,
    rollingPercentilesEnabled: false,
    enableSnapshots: false,
    errorFilter: (error) => error instanceof Cancelled,
    ...options,
  });
}

function run(work: Work): Promise<void> {
  return work();
}

function readSaved(saved: string): Pick<OpossumOptions, "state" | "status"> {
  return JSON.parse(saved) as ReturnType<Opossum<[]>["toJSON"]>;
}

function subjectOf(breaker: Opossum<[Work]>): Subject {
  return {
    call: (work) => outcomeOf((begin) => breaker.fire(begin), work),
    phase: () => (breaker.opened ? "open" : breaker.halfOpen ? "half_open" : "closed"),
    late: () => null,
    failures: () => breaker.stats.failures,
    save: () => JSON.stringify(breaker.toJSON()),
  };
}
