import {
  bulkhead,
  circuitBreaker,
  CircuitState,
  ConsecutiveBreaker,
  ConstantBackoff,
  handleAll,
  handleWhen,
  retry,
  wrap,
  type CircuitBreakerPolicy,
} from "cockatiel";
import { Cancelled, outcomeOf, type Library, type Subject } from "./library.ts";

/** cockatiel 4.0.0. Its bulkhead stands inside its breaker, as an admission control behind a breaker does. */
export const cockatiel: Library = {
  name: "cockatiel",
  open(saved) {
    const breaker = createBreaker(saved);
    return subjectOf(breaker, (work) => breaker.execute(work));
  },
  openNarrow(capacity) {
    const breaker = createBreaker();
    const both = wrap(breaker, bulkhead(capacity, 0));
    return subjectOf(breaker, (work) => both.execute(work));
  },
  openOff: null,
  countAsked: null,
  retry: (work, delayMs, signal) =>
    retry(handleAll, { maxAttempts: 1, backoff: new ConstantBackoff(delayMs) }).execute(work, signal),
  openQueue() {
    const line = bulkhead(1, 10);
    return (work, signal) => line.execute(work, signal);
  },
};

/** A breaker alone, for what it costs. */
export function createBreaker(saved?: string): CircuitBreakerPolicy {
  return circuitBreaker(
    handleWhen((error) => !(error instanceof Cancelled)),
    {
      halfOpenAfter: 60_000,
      breaker: new ConsecutiveBreaker(5),
      ...(saved === undefined ? {} : { initialState: JSON.parse(saved) as ReturnType<CircuitBreakerPolicy["toJSON"]> }),
    },
  );
}

function subjectOf(breaker: CircuitBreakerPolicy, run: (work: () => Promise<void>) => Promise<unknown>): Subject {
  return {
    call: (work) => outcomeOf(run, work),
    phase() {
      switch (breaker.state) {
        case CircuitState.Closed:
          return "closed";
        case CircuitState.Open:
        case CircuitState.Isolated:
          return "open";
        case CircuitState.HalfOpen:
          return "half_open";
      }
    },
    late: () => null,
    failures: () => null,
    save: () => JSON.stringify(breaker.toJSON()),
  };
}
