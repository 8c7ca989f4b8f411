import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { saveBreaker, restoreBreaker } from "../../shared/breaker-restore.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import type { BreakerState, Sample, Token } from "../../shared/breaker-state.ts";
import { viewBreaker } from "../../shared/breaker-view.ts";
import { BreakerDriver } from "../kit/breaker-driver.ts";
import { BreakerModel } from "../kit/breaker-model.ts";

type Command =
  | { kind: "acquire"; calls: number }
  | { kind: "report"; index: number; sample: Sample; retryAfterMs: number }
  | { kind: "advance" | "stepBack"; ms: number }
  | { kind: "toDeadline"; ms: number }
  | { kind: "open"; forMs: number | null }
  | { kind: "close" }
  | { kind: "reset" }
  | { kind: "restart"; gap: number };

const limits: fc.Arbitrary<BreakerLimits> = fc.record({
  enabled: fc.oneof({ weight: 9, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) }),
  failureThreshold: fc.integer({ min: 1, max: 4 }),
  successThreshold: fc.integer({ min: 1, max: 3 }),
  cooldownMs: fc.constant(1000),
  maxCooldownMs: fc.constantFrom(1000, 3000, 6000),
  halfOpenMaxCalls: fc.integer({ min: 1, max: 3 }),
  windowMs: fc.constant(10_000),
  failureRatio: fc.constantFrom(null, 0.5, 0.8),
  minimumCalls: fc.integer({ min: 2, max: 6 }),
  slowCallMs: fc.constantFrom(null, 100),
  slowRatio: fc.constantFrom(0.5, 0.8),
  probeTimeoutMs: fc.constant(2000),
  maxHalfOpenMs: fc.constantFrom(2000, 2500, 4000),
  rampMs: fc.constantFrom(0, 3000),
});

const report = (sample: Sample): fc.Arbitrary<Command> =>
  fc.record({
    kind: fc.constant("report" as const),
    index: fc.nat(1000),
    sample: fc.constant(sample),
    retryAfterMs: fc.constantFrom(0, 0, 0, 2000, 20_000),
  });
const weighted = (weight: number, arbitrary: fc.Arbitrary<Command>) => ({ weight, arbitrary });

const command: fc.Arbitrary<Command> = fc.oneof(
  weighted(100, fc.record({ kind: fc.constant("acquire" as const), calls: fc.integer({ min: 1, max: 4 }) })),
  weighted(60, report("success")),
  weighted(80, report("failure")),
  weighted(30, report("slow")),
  weighted(40, report("ignored")),
  weighted(60, fc.record({ kind: fc.constant("advance" as const), ms: fc.constantFrom(0, 1, 300, 999, 1000, 2500) })),
  weighted(10, fc.record({ kind: fc.constant("advance" as const), ms: fc.constantFrom(9999, 10_000, 86_400_000) })),
  weighted(60, fc.record({ kind: fc.constant("toDeadline" as const), ms: fc.constantFrom(-1, 0, 0, 1) })),
  weighted(10, fc.record({ kind: fc.constant("stepBack" as const), ms: fc.constantFrom(1, 5000, 86_400_000) })),
  weighted(5, fc.record({ kind: fc.constant("open" as const), forMs: fc.constantFrom(null, 0, 700, 20_000) })),
  weighted(5, fc.record({ kind: fc.constant("close" as const) })),
  weighted(3, fc.record({ kind: fc.constant("reset" as const) })),
  weighted(
    10,
    fc.record({
      kind: fc.constant("restart" as const),
      gap: fc.constantFrom(0, 1, 1500, 9999, 10_000, 86_400_000, -1, -86_400_000),
    }),
  ),
);

/** What the code and the model must agree on after every step. */
function facts(driver: BreakerDriver): Record<string, unknown> {
  const { state, limits: of } = driver;
  const view = viewBreaker(state, state.at, of);
  return {
    phase: state.phase,
    epoch: state.epoch,
    attempt: state.attempt,
    at: state.at,
    until: state.phase === "open" ? state.until : null,
    leases: state.phase === "half_open" ? state.leases : [],
    run: state.phase === "closed" ? state.run.length : null,
    window: view.window,
    // The view applies what is due already, and a restart may leave a deadline behind.
    counts: state.phase === "open" ? view.counts : state.counts,
    moves: driver.moves(),
  };
}

function expected(model: BreakerModel): Record<string, unknown> {
  const calls = model.inWindow();
  const of = (sample: Sample): number => calls.filter((call) => call.sample === sample).length;
  const kinds = ["success", "failure", "slow", "ignored", "not_permitted", "late", "opens", "closes", "half_opens"];
  const running = model.phase === "open" ? model.now - model.openedAt : 0;
  return {
    phase: model.phase,
    epoch: model.epoch,
    attempt: model.attempt,
    at: model.now,
    until: model.phase === "open" ? model.until : null,
    leases: model.leases,
    run: model.phase === "closed" ? model.run.length : null,
    window: model.phase === "closed" ? { calls: calls.length, failures: of("failure"), slow: of("slow") } : null,
    counts: {
      ...Object.fromEntries(kinds.map((kind) => [kind, model.tally[kind] ?? 0])),
      open_ms: model.openMs + running,
    },
    moves: model.moves,
  };
}

/** The next moment something falls due, or the clock's own. */
function deadline(state: BreakerState, of: BreakerLimits): number {
  switch (state.phase) {
    case "closed":
      return state.ramp === null ? state.lastCall + of.windowMs : state.ramp.since + of.rampMs;
    case "open":
      return state.until ?? state.at;
    case "half_open":
      return Math.min((state.stallSince ?? Infinity) + of.maxHalfOpenMs, ...state.leases.map(({ expires }) => expires));
  }
}

/** What holds whatever happened: the invariants of one step. */
function checkStep(driver: BreakerDriver, before: BreakerState): void {
  const { state, limits: of, told } = driver;
  assert.ok(state.epoch >= before.epoch, "the epoch fell");
  const transitions = told.filter(({ kind }) => kind === "transition").length;
  assert.equal(state.epoch - before.epoch, transitions, "an epoch without its one event");
  if (state.phase === "half_open") assert.ok(state.leases.length <= of.halfOpenMaxCalls, "too many leases");
  if (state.phase === "open" && state.manual === null) {
    assert.ok((state.until ?? Infinity) - state.at <= of.maxCooldownMs, "a cooldown over the cap");
  }
  const view = viewBreaker(state, driver.now, of);
  assert.deepEqual(viewBreaker(state, driver.now, of), view, "looking changed something");
  const lateOnly = told.length > 0 && told.every(({ kind }) => kind === "late");
  if (lateOnly) {
    const { counts, ...rest } = state;
    const late = counts.late - before.counts.late;
    assert.deepEqual({ ...rest, counts: { ...counts, late: counts.late - late } }, { ...before, at: state.at });
    assert.equal(late, 1, "one late report, counted other than once");
  }
}

/** A dependency that is well again and has traffic is let at in full within a cooldown, the probes and the ramp. */
function checkRecovery(driver: BreakerDriver): void {
  const { limits: of } = driver;
  if (!of.enabled || (driver.state.phase === "open" && driver.state.manual !== null)) return;
  driver.now = driver.state.at;
  const end = driver.now + of.maxCooldownMs + of.probeTimeoutMs + 1000 + of.maxCooldownMs + of.rampMs + 100;
  while (driver.now <= end) {
    const verdict = driver.ask();
    if (verdict.admitted) driver.end(verdict.token, "success");
    if (verdict.admitted && driver.state.phase === "closed" && driver.state.ramp === null) return;
    driver.pass(50);
  }
  assert.fail(`not closed: ${JSON.stringify(driver.state)}`);
}

test("the breaker does what the rules say, step by step, whatever happens to it", () => {
  const seen = new Set<string>();
  fc.assert(
    fc.property(
      limits,
      fc.array(command, { minLength: 1, maxLength: 100, size: "max" }),
      // Quarters keep every time a whole number, so that two ways of adding them up agree.
      fc.constantFrom(0, 0.25, 0.5, 0.75),
      (of, commands, u) => {
        const driver = new BreakerDriver(of);
        const model = new BreakerModel(of);
        driver.u = u;
        let tokens: Token[] = [];
        let reports = 0;
        let again = 0;
        for (const step of commands) {
          const before = driver.state;
          driver.told = [];
          switch (step.kind) {
            case "acquire":
              for (let call = 0; call < step.calls; call += 1) {
                const asked = driver.state;
                const { admitted: _, ...rest } = driver.ask();
                assert.deepEqual("token" in rest ? rest.token : rest, model.ask(driver.now, u));
                if ("token" in rest) tokens.push(rest.token);
                assert.deepEqual(facts(driver), expected(model));
                checkStep(driver, asked);
              }
              break;
            case "report": {
              const token = tokens[step.index % tokens.length];
              if (token === undefined) break;
              // A lease's token stays: reporting it again must do nothing.
              if (token.lease === null) tokens = tokens.filter((other) => other !== token);
              const ended = driver.state.counts;
              const late = driver.end(token, step.sample, step.retryAfterMs);
              assert.equal(late, model.report(token, step.sample, driver.now, u, step.retryAfterMs));
              reports += 1;
              if (JSON.stringify(driver.state.counts) === JSON.stringify(ended)) again += 1;
              break;
            }
            case "advance":
              driver.pass(step.ms);
              break;
            case "stepBack":
              driver.pass(-step.ms);
              break;
            case "toDeadline": {
              const at = deadline(driver.state, of) + step.ms;
              if (Number.isFinite(at)) driver.now = Math.max(driver.now, at);
              driver.look();
              model.tick(driver.now, u);
              break;
            }
            case "open":
              driver.act({ kind: "open", reason: null, forMs: step.forMs });
              model.act("open", step.forMs, driver.now);
              break;
            case "close":
            case "reset":
              driver.act({ kind: step.kind });
              model.act(step.kind, null, driver.now);
              if (step.kind === "reset") [reports, again] = [0, 0];
              break;
            case "restart": {
              driver.now = Math.max(driver.now, driver.state.at);
              driver.look();
              model.tick(driver.now, u);
              const saved: unknown = JSON.parse(JSON.stringify(saveBreaker(driver.state, driver.now, 1e12)));
              const { state, events } = restoreBreaker(saved, driver.now, 1e12 + step.gap, of);
              assert.deepEqual(events, []);
              driver.keep({ next: state, events });
              model.restart(step.gap);
              break;
            }
          }
          assert.deepEqual(facts(driver), expected(model));
          if (step.kind !== "acquire" && step.kind !== "reset" && step.kind !== "restart") checkStep(driver, before);
          for (const move of driver.moves()) seen.add(move.split(" ")[1] ?? "");
          const { counts } = driver.state;
          const expired = driver.events.filter((e) => e.kind === "lease_ended" && e.outcome === "expired").length;
          if (!commands.some(({ kind }) => kind === "reset")) {
            const ends = counts.success + counts.failure + counts.slow + counts.ignored + counts.late;
            assert.equal(ends - expired + again, reports, "the counters do not sum to the calls");
          }
        }
        const granted = driver.events.filter(({ kind }) => kind === "lease_granted").length;
        const finished = driver.events.filter(({ kind }) => kind === "lease_ended").length;
        const out = driver.state.phase === "half_open" ? driver.state.leases.length : 0;
        assert.equal(granted, finished + out, "a lease ended other than once");
        checkRecovery(driver);
      },
    ),
    { numRuns: 1000 },
  );
  assert.deepEqual([...seen].toSorted(), [
    "cooldown_over",
    "lease_expired",
    "manual",
    "probe_failed",
    "probes_ok",
    "ratio",
    "run",
    "slow",
    "stalled",
  ]);
});
