import type { BreakerName } from "../../shared/breaker-state.ts";
import type { ErrorCode } from "../../shared/errors.ts";

/** A law that did not hold. */
export type Violation = {
  seed: number;
  /** Virtual ms since the start of the run. */
  atMs: number;
  law: string;
  detail: string;
};

/** How a request ended; `lost` = with its isolate, `cancelled` = its caller had left. */
export type Answer = "live" | "lost" | "cancelled" | ErrorCode;

/** One change of a breaker of the object. */
export type Change = {
  name: BreakerName;
  from: string;
  to: string;
  reason: string;
  epoch: number;
  cooldownMs: number | null;
  atMs: number;
};

/** What one run adds up to. */
export type Ledger = {
  violations: Violation[];
  violate: (law: string, detail: string) => void;
  /** A request has come, to be answered within `limitMs`; what is returned takes its one answer. */
  arrive: (limitMs: number) => (answer: Answer) => void;
  /** Requests that have no answer yet. */
  waiting: () => number;
  requests: number;
  answered: Partial<Record<Answer, number>>;
  /** Calls the edge made to the box. */
  boxCalls: number;
  retries: number;
  changes: Change[];
  /** By the second of arrival: requests, and those of them that were answered live. */
  arrivals: number[];
  live: number[];
  /** Those that a well box and a patient caller would not have seen. */
  spoiled: number[];
  /** Calls that passed the breaker `lm_studio_api`. */
  passed: { atMs: number; probe: boolean }[];
  /** Calls under way now that are probes, and the most there ever were. */
  probes: Record<BreakerName, { now: number; peak: number }>;
};

/** Violations kept of one run: the first ones tell the cause. */
const maxViolations = 20;
/** An answer may come so much after its deadline: what is computed takes no time here, a message does. */
const slackMs = 50;

/** Ends that are nobody's fault but the caller's, or the platform's. */
const blameless: ReadonlySet<Answer> = new Set(["lost", "cancelled", "ERR_ENC_INVALID_INPUT"]);

/** A ledger that nothing has been written in. */
export function createLedger(seed: number, now: () => number): Ledger {
  let waiting = 0;
  const ledger: Ledger = {
    violations: [],
    violate(law, detail) {
      if (ledger.violations.length < maxViolations) ledger.violations.push({ seed, atMs: now(), law, detail });
    },
    arrive(limitMs) {
      const arrivedAt = now();
      const second = Math.floor(arrivedAt / 1000);
      let answers = 0;
      waiting += 1;
      ledger.requests += 1;
      ledger.arrivals[second] = (ledger.arrivals[second] ?? 0) + 1;
      return (answer) => {
        answers += 1;
        if (answers > 1) return ledger.violate("every request is answered once", `answer ${answers}: ${answer}`);
        waiting -= 1;
        ledger.answered[answer] = (ledger.answered[answer] ?? 0) + 1;
        if (answer === "live") ledger.live[second] = (ledger.live[second] ?? 0) + 1;
        else if (!blameless.has(answer)) ledger.spoiled[second] = (ledger.spoiled[second] ?? 0) + 1;
        const tookMs = now() - arrivedAt;
        if (tookMs > limitMs + slackMs) {
          ledger.violate("every request is answered within its deadline", `${answer} after ${Math.round(tookMs)} ms`);
        }
      };
    },
    waiting: () => waiting,
    requests: 0,
    answered: {},
    boxCalls: 0,
    retries: 0,
    changes: [],
    arrivals: [],
    live: [],
    spoiled: [],
    passed: [],
    probes: { sidecar: { now: 0, peak: 0 }, lm_studio_api: { now: 0, peak: 0 } },
  };
  return ledger;
}
