import assert from "node:assert/strict";
import { act, admit, advance, settle, type Act } from "../../shared/breaker.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import {
  freshBreaker,
  type Admission,
  type BreakerEvent,
  type BreakerState,
  type Ending,
  type Sample,
  type Token,
} from "../../shared/breaker-state.ts";

/** The limits the guide's defaults mean. */
export const guideLimits: BreakerLimits = {
  enabled: true,
  failureThreshold: 5,
  successThreshold: 2,
  cooldownMs: 60_000,
  maxCooldownMs: 300_000,
  halfOpenMaxCalls: 3,
  windowMs: 60_000,
  failureRatio: 0.5,
  minimumCalls: 30,
  slowCallMs: null,
  slowRatio: 0.8,
  probeTimeoutMs: 30_000,
  maxHalfOpenMs: 60_000,
  rampMs: 10_000,
};

/** A value no one can change, all the way down: a state machine that writes into its argument throws. */
export function frozen<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) frozen(inner);
  }
  return value;
}

/** One breaker with its clock and its randomness in the test's hand. Every state goes through JSON, frozen. */
export class BreakerDriver {
  limits: BreakerLimits;
  state: BreakerState;
  now = 0;
  /** The random number every step draws. */
  u = 0;
  /** What the last step told. */
  told: readonly BreakerEvent[] = [];
  events: BreakerEvent[] = [];

  constructor(limits: Partial<BreakerLimits> = {}, state: BreakerState = freshBreaker(0)) {
    this.limits = { ...guideLimits, ...limits };
    this.state = state;
  }

  /** Takes a step's state and events over. */
  keep<S extends { next: BreakerState; events: readonly BreakerEvent[] }>(step: S): S {
    const copy = JSON.parse(JSON.stringify(step.next)) as BreakerState;
    assert.deepEqual(copy, step.next);
    this.state = frozen(copy);
    this.told = step.events;
    this.events.push(...step.events);
    return step;
  }

  pass(ms: number): void {
    this.now += ms;
  }

  look(): BreakerState {
    return this.keep(advance(this.state, this.now, this.limits, () => this.u)).next;
  }

  ask(): Admission {
    return this.keep(admit(this.state, this.now, this.limits, () => this.u)).verdict;
  }

  /** The token of a call that must be admitted. */
  take(): Token {
    const verdict = this.ask();
    assert.ok(verdict.admitted, `refused: ${JSON.stringify(verdict)}`);
    return verdict.token;
  }

  end(token: Token, sample: Ending, retryAfterMs: number | null = null): boolean {
    return this.keep(settle(this.state, token, sample, this.now, this.limits, () => this.u, retryAfterMs)).late;
  }

  /** Calls that each end at once, one letter each: Success, Failure, slOw, Ignored. */
  run(letters: string): void {
    const samples: Record<string, Sample> = { S: "success", F: "failure", O: "slow", I: "ignored" };
    for (const letter of letters) this.end(this.take(), samples[letter] ?? "ignored");
  }

  act(deed: Act): void {
    this.keep(act(this.state, deed, this.now, this.limits));
  }

  /** Opens it by a run of failures. */
  trip(): void {
    this.run("F".repeat(this.limits.failureThreshold));
    assert.equal(this.state.phase, "open");
  }

  /** Lets the cooldown pass and takes the first lease. */
  probe(): Token {
    this.now = this.until() ?? this.now;
    return this.take();
  }

  until(): number | null {
    assert.equal(this.state.phase, "open");
    return this.state.phase === "open" ? this.state.until : null;
  }

  /** Length of the cooldown that began last, as its event told it. */
  cooldown(): number | null {
    const last = this.events.findLast((event) => event.kind === "transition" && event.to === "open");
    return last?.kind === "transition" ? last.cooldown_ms : null;
  }

  /** Every transition so far, `from>to reason`. */
  moves(): string[] {
    return this.events.flatMap((event) =>
      event.kind === "transition" ? [`${event.from}>${event.to} ${event.reason}`] : [],
    );
  }
}
