import type { Gate } from "../shared/attempt-loop.ts";
import { readBreakerLimits, wholeSeconds } from "../shared/breaker-limits.ts";
import {
  failuresOf,
  freshBreaker,
  type BreakerEvent,
  type BreakerState,
  type Step,
  type Token,
} from "../shared/breaker-state.ts";
import { viewBreaker, type BreakerView } from "../shared/breaker-view.ts";
import { act, admit, settle } from "../shared/breaker.ts";
import type { Config } from "../shared/config.ts";
import { PixelLLMError } from "../shared/errors.ts";
import { samplesOf } from "../shared/samples.ts";
import type { Random } from "../shared/random.ts";

/** The breaker `lm_studio_api` of one process. */
export type LocalBreaker = Gate<Token> & {
  /** Public facts; looking changes nothing. */
  view(): BreakerView;
  /** Closes it from any state and zeroes its counts; results of calls under way are then late. */
  reset(): void;
  /** Longest time a call with this token may take, in ms; null = no limit of its own, it is no probe. */
  limitMs(token: Token): number | null;
};

/** What it takes from its host. */
export type LocalBreakerPorts = {
  config: Config;
  /** Monotonic ms. */
  now: () => number;
  random: Random;
  /** Told of each change once; a throw in it changes nothing, and is told to `observerFailed`. */
  observe: (event: BreakerEvent) => void;
  observerFailed: (thrown: unknown) => void;
};

/** A closed breaker. */
export function createLocalBreaker({ config, now, random, observe, observerFailed }: LocalBreakerPorts): LocalBreaker {
  const limits = readBreakerLimits(config);
  const sampling = { timeoutMs: config.timeout_seconds * 1000, slowCallMs: limits.slowCallMs };
  let state: BreakerState = freshBreaker(now());

  const take = ({ next, events }: Step): void => {
    state = next;
    for (const event of events) {
      try {
        observe(event);
      } catch (thrown) {
        observerFailed(thrown);
      }
    }
  };

  return {
    async admit() {
      const step = admit(state, now(), limits, random);
      take(step);
      const { verdict } = step;
      if (verdict.admitted) return { admitted: true, permit: verdict.token };
      const { code, phase, retryAfterMs } = verdict;
      const seconds = retryAfterMs === null ? undefined : wholeSeconds(retryAfterMs);
      return {
        admitted: false,
        error: new PixelLLMError(code, {
          details: {
            name: "lm_studio_api",
            failure_count: failuresOf(state),
            ...(code === "ERR_CB_HALF_OPEN" ? { phase } : {}),
          },
          retryAfterSeconds: seconds,
        }),
      };
    },
    settle(token, facts) {
      const sample = samplesOf(facts, sampling).lm_studio_api ?? "ignored";
      const retryAfterMs = facts.ok ? null : (facts.retryAfterMs ?? null);
      take(settle(state, token, sample, now(), limits, random, retryAfterMs));
    },
    view: () => viewBreaker(state, now(), limits),
    reset: () => take(act(state, { kind: "reset" }, now(), limits)),
    limitMs: (token) => (token.lease === null ? null : limits.probeTimeoutMs),
  };
}
