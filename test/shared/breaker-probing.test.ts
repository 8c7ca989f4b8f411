import assert from "node:assert/strict";
import { test } from "node:test";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import type { Sample, Token } from "../../shared/breaker-state.ts";
import { viewBreaker } from "../../shared/breaker-view.ts";
import { BreakerDriver } from "../kit/breaker-driver.ts";

const tripped = (limits: Partial<BreakerLimits> = {}): BreakerDriver => {
  const breaker = new BreakerDriver(limits);
  breaker.trip();
  return breaker;
};

/** Half-open with its first lease out, the clock at the moment it was granted. */
const probing = (limits: Partial<BreakerLimits> = {}): [BreakerDriver, Token] => {
  const breaker = tripped(limits);
  return [breaker, breaker.probe()];
};

/** Closed again by probes, its ramp just begun. */
const recovered = (limits: Partial<BreakerLimits> = {}): BreakerDriver => {
  const [breaker, first] = probing(limits);
  breaker.end(first, "success");
  while (breaker.state.phase === "half_open") breaker.end(breaker.take(), "success");
  assert.equal(breaker.state.phase, "closed");
  return breaker;
};

test("of a thousand callers after the cooldown exactly three run, and none waits", () => {
  const breaker = tripped();
  breaker.pass(60_000);
  const admitted = Array.from({ length: 1000 }, () => breaker.ask()).filter((verdict) => verdict.admitted);
  assert.deepEqual(
    admitted.map((verdict) => verdict.admitted && verdict.token),
    [1, 2, 3].map((lease) => ({ epoch: 2, lease })),
  );
  assert.equal(breaker.state.counts.not_permitted, 997);
});

for (const sample of ["success", "ignored"] as const) {
  test(`the fourth lease is refused, and one ${sample} frees one`, () => {
    const [breaker, first] = probing({ successThreshold: 5 });
    breaker.pass(1000);
    breaker.take();
    breaker.take();
    assert.deepEqual(breaker.ask(), {
      admitted: false,
      code: "ERR_CB_HALF_OPEN",
      phase: "half_open",
      retryAfterMs: 5000,
    });
    breaker.end(first, sample);
    assert.deepEqual(breaker.told, [{ kind: "lease_ended", epoch: 2, lease: 1, outcome: sample }]);
    assert.deepEqual(breaker.take(), { epoch: 2, lease: 4 });
    assert.equal(breaker.ask().admitted, false);
  });
}

test("with all leases out the wait is the earliest one's end, five seconds at most", () => {
  const [breaker] = probing({ halfOpenMaxCalls: 2 });
  breaker.pass(10_000);
  breaker.take();
  const waits = [0, 15_999, 1, 4999].map((ms) => {
    breaker.pass(ms);
    const verdict = breaker.ask();
    return verdict.admitted ? -1 : verdict.retryAfterMs;
  });
  assert.deepEqual(waits, [5000, 5000, 5000, 1]);
});

test("R19 two probes that succeed close; a success without a lease does not", () => {
  const breaker = new BreakerDriver();
  const stranger = breaker.take();
  breaker.trip();
  const first = breaker.probe();
  breaker.end(first, "success");
  assert.equal(breaker.end(first, "success"), false, "a second report of one lease is no report");
  assert.deepEqual(breaker.told, []);
  assert.equal(breaker.end({ epoch: 2, lease: 99 }, "success"), false);
  assert.equal(breaker.end({ epoch: 2, lease: null }, "success"), true);
  assert.equal(breaker.end(stranger, "success"), true);
  assert.equal(breaker.state.phase, "half_open");
  breaker.end(breaker.take(), "success");
  assert.deepEqual(breaker.moves().at(-1), "half_open>closed probes_ok");
});

test("more successes than leases at once may be asked for", () => {
  const breaker = tripped({ successThreshold: 7, halfOpenMaxCalls: 1 });
  breaker.end(breaker.probe(), "success");
  for (let success = 0; success < 5; success += 1) breaker.end(breaker.take(), "success");
  assert.equal(breaker.state.phase, "half_open");
  breaker.end(breaker.take(), "success");
  assert.equal(breaker.state.phase, "closed");
});

test("minimum calls do not apply to probes", () => {
  const [breaker, first] = probing({ minimumCalls: 100_000 });
  breaker.end(first, "failure");
  assert.equal(breaker.state.phase, "open");
});

test("G1 a call from before the outage that fails late re-opens nothing, and the good probe counts", () => {
  const breaker = new BreakerDriver({ successThreshold: 1 });
  const late = breaker.take();
  breaker.trip();
  const probe = breaker.probe();
  assert.equal(breaker.end(late, "failure"), true);
  assert.equal(breaker.state.phase, "half_open");
  breaker.end(probe, "success");
  assert.equal(breaker.state.phase, "closed");
});

test("G2 a call from before the outage that succeeds late closes nothing, open or half-open", () => {
  const breaker = new BreakerDriver({ successThreshold: 1 });
  const [one, other] = [breaker.take(), breaker.take()];
  breaker.trip();
  assert.equal(breaker.end(one, "success"), true);
  assert.equal(breaker.state.phase, "open");
  breaker.probe();
  assert.equal(breaker.end(other, "success"), true);
  assert.equal(breaker.state.phase, "half_open");
});

test("a probe of an earlier half-open phase is late in the next", () => {
  const [breaker, old] = probing({ successThreshold: 1 });
  const failing = breaker.take();
  breaker.end(failing, "failure");
  assert.deepEqual(breaker.told.slice(0, 2), [
    { kind: "lease_ended", epoch: 2, lease: 2, outcome: "failure" },
    { kind: "lease_ended", epoch: 2, lease: 1, outcome: "void" },
  ]);
  breaker.probe();
  assert.equal(breaker.end(old, "success"), true);
  assert.equal(breaker.state.phase, "half_open");
});

test("G3 a probe that never ends fails when its lease does, and the breaker goes on", () => {
  const [breaker, lost] = probing();
  breaker.pass(30_999);
  assert.equal(breaker.look().phase, "half_open");
  breaker.pass(1);
  assert.equal(breaker.look().phase, "open");
  assert.deepEqual(breaker.told, [
    { kind: "lease_ended", epoch: 2, lease: 1, outcome: "expired" },
    {
      kind: "transition",
      from: "half_open",
      to: "open",
      reason: "lease_expired",
      epoch: 3,
      attempt: 1,
      cooldown_ms: 120_000,
    },
  ]);
  assert.equal(breaker.state.counts.failure, 6);
  assert.equal(breaker.end(lost, "success"), true);
  assert.equal(breaker.state.phase, "open");
  assert.deepEqual(breaker.probe(), { epoch: 4, lease: 1 });
});

test("a report at the very end of its lease is late, one 1 ms before it counts", () => {
  for (const [ms, late] of [
    [30_999, false],
    [31_000, true],
  ] as const) {
    const [breaker, token] = probing();
    breaker.pass(ms);
    assert.equal(breaker.end(token, "success"), late);
  }
});

test("a breaker nobody looked at for an hour opened when the lease ran out, and probes at once", () => {
  const [breaker] = probing();
  const granted = breaker.now;
  breaker.pass(3_600_000);
  assert.deepEqual(breaker.ask(), { admitted: true, token: { epoch: 4, lease: 1 } });
  assert.deepEqual(breaker.moves().slice(-2), ["half_open>open lease_expired", "open>half_open cooldown_over"]);
  assert.equal(breaker.state.counts.open_ms, 60_000 + 3_600_000 - 31_000);
  const looked = probing()[0];
  looked.now = granted + 100_000;
  looked.look();
  assert.equal(looked.until(), granted + 31_000 + 120_000);
});

test("the earliest of several leases is the one that fails it", () => {
  const [breaker] = probing();
  breaker.pass(5000);
  breaker.take();
  breaker.pass(26_000);
  breaker.look();
  assert.deepEqual(
    breaker.told.map((event) => (event.kind === "lease_ended" ? `${event.lease} ${event.outcome}` : event.kind)),
    ["1 expired", "2 void", "transition"],
  );
  assert.equal(breaker.state.counts.failure, 6, "one failure, however many leases");
});

test("G9 a probe whose caller left frees its lease and is no verdict", () => {
  const [breaker, first] = probing({ successThreshold: 1, halfOpenMaxCalls: 1 });
  breaker.end(first, "ignored");
  assert.equal(breaker.state.phase, "half_open");
  breaker.end(breaker.take(), "success");
  assert.equal(breaker.state.phase, "closed");
});

test("G5 our own bulkhead's refusals of probes re-open nothing before the time for a verdict is over", () => {
  const breaker = tripped({ maxHalfOpenMs: 60_000 });
  breaker.probe();
  for (let second = 0; second < 20; second += 1) {
    breaker.end(breaker.take(), "ignored");
    breaker.pass(1000);
  }
  assert.equal(breaker.state.phase, "half_open");
});

test("without a verdict it opens again after the longest half-open time, no attempt further", () => {
  const [breaker, first] = probing();
  const granted = breaker.now;
  breaker.end(first, "ignored");
  for (let ignored = 0; ignored < 2; ignored += 1) breaker.end(breaker.take(), "ignored");
  breaker.now = granted + 59_999;
  assert.equal(breaker.look().phase, "half_open");
  breaker.now = granted + 90_000;
  breaker.look();
  assert.equal(breaker.until(), granted + 60_000 + 60_000);
  assert.deepEqual(breaker.told, [
    {
      kind: "transition",
      from: "half_open",
      to: "open",
      reason: "stalled",
      epoch: 3,
      attempt: 0,
      cooldown_ms: 60_000,
    },
  ]);
});

test("low traffic alone never re-opens: two probes without a verdict in a year", () => {
  const [breaker, first] = probing();
  breaker.end(first, "ignored");
  breaker.pass(1000);
  breaker.end(breaker.take(), "ignored");
  breaker.pass(365 * 86_400_000);
  assert.equal(breaker.look().phase, "half_open");
  assert.equal(breaker.ask().admitted, true);
});

test("a lease that is given back unused brings the stall no nearer, however often", () => {
  const [breaker, first] = probing({ halfOpenMaxCalls: 1 });
  breaker.end(first, "unused");
  for (let second = 0; second < 300; second += 1) {
    breaker.pass(1000);
    breaker.end(breaker.take(), "unused");
  }
  assert.deepEqual([breaker.look().phase, breaker.state.counts.ignored], ["half_open", 301]);
});

test("the last of too many probes without a verdict, after the time for one, opens as of its end", () => {
  const [breaker, first] = probing({ halfOpenMaxCalls: 2 });
  breaker.end(first, "ignored");
  breaker.pass(100_000);
  const last = breaker.take();
  breaker.pass(5000);
  breaker.end(last, "ignored");
  assert.deepEqual(
    breaker.told.map(({ kind }) => kind),
    ["lease_ended", "transition"],
  );
  assert.equal(breaker.until(), breaker.now + 60_000);
});

test("a verdict starts the time for the next one anew, with the next lease", () => {
  const [breaker, first] = probing({ successThreshold: 3, halfOpenMaxCalls: 1 });
  breaker.end(first, "ignored");
  breaker.pass(50_000);
  breaker.end(breaker.take(), "success");
  breaker.pass(500_000);
  assert.equal(breaker.look().phase, "half_open");
  breaker.end(breaker.take(), "ignored");
  breaker.pass(59_999);
  assert.equal(breaker.look().phase, "half_open");
  breaker.pass(1);
  assert.equal(breaker.look().phase, "open");
});

const failures: readonly [Sample, Partial<BreakerLimits>, string][] = [
  ["failure", {}, "open"],
  ["slow", { slowCallMs: 1000 }, "open"],
  ["slow", {}, "half_open"],
  ["success", {}, "half_open"],
  ["ignored", {}, "half_open"],
];
for (const [sample, limits, phase] of failures) {
  test(`a probe that is ${sample} with the slow rule ${limits.slowCallMs === undefined ? "off" : "on"}: ${phase}`, () => {
    const [breaker, first] = probing(limits);
    breaker.take();
    breaker.end(first, sample);
    assert.equal(breaker.state.phase, phase);
    assert.equal(breaker.state.attempt, phase === "open" ? 1 : 0);
    const counted = sample === "slow" && phase !== "open" ? "success" : sample;
    assert.equal(breaker.state.counts[counted], counted === "failure" ? 6 : 1);
  });
}

test("each re-opening doubles the cooldown, up to its cap: 60, 120, 240, 250, 250 s and a fifth", () => {
  for (const [u, seconds] of [
    [0, [60, 120, 240, 250, 250]],
    [0.5, [66, 132, 264, 275, 275]],
  ] as const) {
    const breaker = new BreakerDriver();
    breaker.u = u;
    breaker.trip();
    const cooldowns = [breaker.cooldown()];
    for (let attempt = 1; attempt < 5; attempt += 1) {
      breaker.end(breaker.probe(), "failure");
      assert.equal(breaker.state.attempt, attempt);
      cooldowns.push(breaker.cooldown());
    }
    assert.deepEqual(
      cooldowns.map((ms) => Math.round(ms ?? 0)),
      seconds.map((length) => length * 1000),
    );
  }
});

test("a probe's failure may ask for a longer cooldown; it is the opening failure", () => {
  const [breaker, first] = probing();
  breaker.end(first, "failure", 200_000);
  assert.equal(breaker.cooldown(), 200_000);
});

test("G4 after closing, calls are let through in doubling numbers a second: 3, 6, 12, then all", () => {
  const breaker = recovered();
  const passed: number[] = [];
  for (let second = 0; second < 11; second += 1) {
    let admitted = 0;
    for (let call = 0; call < 5000; call += 1) {
      const verdict = breaker.ask();
      if (verdict.admitted) admitted += 1;
      else assert.deepEqual(verdict, { admitted: false, code: "ERR_CB_HALF_OPEN", phase: "ramp", retryAfterMs: 1000 });
    }
    passed.push(admitted);
    breaker.pass(1000);
  }
  assert.deepEqual(passed, [3, 6, 12, 24, 48, 96, 192, 384, 768, 1536, 5000]);
  assert.deepEqual(
    breaker.events.filter(({ kind }) => kind === "ramp_ended"),
    [{ kind: "ramp_ended", epoch: 3 }],
  );
});

test("closing leaves the attempt until the ramp is over; a trip before that escalates, one after it does not", () => {
  for (const [ms, cooldown] of [
    [9999, 240_000],
    [10_000, 60_000],
  ] as const) {
    const [breaker, first] = probing({ failureThreshold: 1 });
    breaker.end(first, "failure");
    breaker.end(breaker.probe(), "success");
    breaker.end(breaker.take(), "success");
    assert.equal(breaker.state.attempt, 1);
    breaker.pass(ms);
    breaker.run("F");
    assert.equal(breaker.cooldown(), cooldown);
  }
});

test("without a ramp closing lets everything through and begins at attempt 0", () => {
  const breaker = tripped({ rampMs: 0 });
  breaker.end(breaker.probe(), "failure");
  breaker.end(breaker.probe(), "success");
  breaker.end(breaker.take(), "success");
  assert.equal(breaker.state.attempt, 0);
  for (let call = 0; call < 1000; call += 1) assert.equal(breaker.ask().admitted, true);
  breaker.run("FFFFF");
  assert.equal(breaker.cooldown(), 60_000);
});

test("a breaker that closed has forgotten what opened it", () => {
  const breaker = recovered({ minimumCalls: 6, rampMs: 0 });
  breaker.run("FFFFS");
  assert.equal(breaker.state.phase, "closed");
  assert.deepEqual(viewBreaker(breaker.state, breaker.now, breaker.limits).window, { calls: 5, failures: 4, slow: 0 });
});

test("looking changes nothing and takes no lease, in any phase, at any time", () => {
  const breakers = [new BreakerDriver(), tripped(), probing()[0], recovered()];
  for (const breaker of breakers) {
    const before = JSON.stringify(breaker.state);
    for (const ms of [0, 1000, 60_000, 3_600_000]) viewBreaker(breaker.state, breaker.now + ms, breaker.limits);
    assert.equal(JSON.stringify(breaker.state), before);
  }
});

test("the public facts of each phase", () => {
  const [halfOpen, first] = probing();
  halfOpen.take();
  halfOpen.end(first, "success");
  const open = tripped();
  open.pass(19_001);
  const facts = (breaker: BreakerDriver, ms = 0) => {
    const { counts: _, window: __, ...view } = viewBreaker(breaker.state, breaker.now + ms, breaker.limits);
    return view;
  };
  const none = { success_count: 0, retry_after_seconds: null, attempt: 0, manual: null, leases: 0, ramp: false };
  const running = new BreakerDriver();
  running.run("SFF");
  assert.deepEqual(facts(running), { ...none, state: "CLOSED", failure_count: 2, epoch: 0 });
  assert.deepEqual(facts(open), { ...none, state: "OPEN", failure_count: 5, epoch: 1, retry_after_seconds: 41 });
  assert.deepEqual(facts(open, 50_000), { ...none, state: "OPEN", failure_count: 5, epoch: 1, retry_after_seconds: 0 });
  const two = { ...none, failure_count: 5, epoch: 2 };
  assert.deepEqual(facts(halfOpen), { ...two, state: "HALF_OPEN", success_count: 1, leases: 1 });
  assert.deepEqual(facts(halfOpen, 31_000), {
    ...none,
    state: "OPEN",
    failure_count: 6,
    epoch: 3,
    attempt: 1,
    retry_after_seconds: 120,
  });
  assert.deepEqual(facts(recovered()), { ...none, state: "CLOSED", failure_count: 0, epoch: 3, ramp: true });
  assert.equal(viewBreaker(open.state, open.now, open.limits).counts.open_ms, 19_001);
});
