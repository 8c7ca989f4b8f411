import assert from "node:assert/strict";
import { test } from "node:test";
import { restoreBreaker, saveBreaker } from "../../shared/breaker-restore.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import { freshBreaker, type BreakerState } from "../../shared/breaker-state.ts";
import { viewBreaker } from "../../shared/breaker-view.ts";
import { BreakerDriver, guideLimits } from "../kit/breaker-driver.ts";

const wall = 1_790_000_000_000;
const day = 86_400_000;

/** The breaker after its process ended and, with the wall clock `gap` ms on, another began whose own clock shows `now`. */
function restart(breaker: BreakerDriver, gap: number, limits: Partial<BreakerLimits> = {}, now = 250): BreakerDriver {
  const saved: unknown = JSON.parse(JSON.stringify(saveBreaker(breaker.state, breaker.now, wall)));
  const of = { ...breaker.limits, ...limits };
  const { state, events } = restoreBreaker(saved, now, wall + gap, of);
  const next = new BreakerDriver(of, state);
  next.now = now;
  next.told = events;
  return next;
}

const opened = (limits: Partial<BreakerLimits> = {}): BreakerDriver => {
  const breaker = new BreakerDriver(limits);
  breaker.pass(5_000_000);
  breaker.trip();
  return breaker;
};
const halfOpened = (limits: Partial<BreakerLimits> = {}): BreakerDriver => {
  const breaker = opened(limits);
  breaker.probe();
  return breaker;
};

test("saved and restored at once, a breaker is the same in every phase, on any clock", () => {
  const running = new BreakerDriver();
  running.run("SSFSF");
  running.pass(7000);
  running.run("F");
  for (const breaker of [new BreakerDriver(), running, opened(), halfOpened()]) {
    const { state } = restart(breaker, 0, {}, breaker.now);
    assert.deepEqual(state, breaker.state);
    const moved = restart(breaker, 0, {}, 77);
    const back = restart(moved, 0, {}, breaker.now);
    assert.deepEqual(back.state, breaker.state);
  }
});

test("G8 with 50 of 300 ms left, 50 ms are left: not the whole cooldown again", () => {
  const breaker = opened({ cooldownMs: 300, maxCooldownMs: 300 });
  breaker.pass(250);
  const restored = restart(breaker, 0);
  assert.deepEqual(restored.ask(), { admitted: false, code: "ERR_CB_OPEN", phase: "open", retryAfterMs: 50 });
  restored.pass(50);
  assert.equal(restored.ask().admitted, true);
});

// 40 s of the cooldown are left when it is saved.
const cooldowns: readonly [string, number, Partial<BreakerLimits>, number][] = [
  ["15 s later 25 are left", 15_000, {}, 25_000],
  ["40 s later none are", 40_000, {}, 0],
  ["a step forward of a day at worst probes early", day, {}, 0],
  ["G7 a step back of a day does not lengthen it", -day, {}, 40_000],
  ["a step back of 1 ms does not lengthen it", -1, {}, 40_000],
  ["today's shorter cap cuts it", 0, { cooldownMs: 10_000, maxCooldownMs: 12_000 }, 12_000],
  ["today's longer cooldown does not lengthen it", 0, { cooldownMs: 100_000 }, 40_000],
];

for (const [law, gap, limits, left] of cooldowns) {
  test(`of a cooldown with 40 s left, ${law}`, () => {
    const breaker = opened();
    breaker.pass(20_000);
    const restored = restart(breaker, gap, limits);
    assert.equal(restored.until(), restored.now + left);
    assert.equal(restored.state.epoch, breaker.state.epoch);
    assert.deepEqual(restored.told, []);
  });
}

const manual: readonly [string, number | null, number, number | null][] = [
  ["without an end has none", null, day, null],
  ["keeps an end beyond the cap", 3_600_000, 600_000, 3_000_000],
  ["is not lengthened by a step back", 3_600_000, -day, 3_600_000],
  ["ends while nobody looked", 60_000, day, 0],
];

for (const [law, forMs, gap, left] of manual) {
  test(`a breaker opened by hand, restored, ${law}`, () => {
    const breaker = new BreakerDriver();
    breaker.act({ kind: "open", reason: "new GPU", forMs });
    const restored = restart(breaker, gap);
    assert.equal(restored.until(), left === null ? null : restored.now + left);
    const view = viewBreaker(restored.state, restored.now, restored.limits);
    assert.deepEqual(view.manual, { reason: "new GPU" });
  });
}

// The lease has 21 s of 31 left when it is saved.
const leases: readonly [string, number, Partial<BreakerLimits>, number][] = [
  ["5 s later 16 are left", 5000, {}, 16_000],
  ["a step forward of a day ends it now", day, {}, 0],
  ["G7 a step back of a day does not lengthen it", -day, {}, 21_000],
  ["today's shorter probe timeout cuts it", 0, { probeTimeoutMs: 3000 }, 4000],
];

for (const [law, gap, limits, left] of leases) {
  test(`of a lease with 21 s left, ${law}, and its probe still reports`, () => {
    const breaker = halfOpened({ successThreshold: 1 });
    breaker.pass(10_000);
    const restored = restart(breaker, gap, limits);
    const { state, now } = restored;
    assert.deepEqual(state.phase === "half_open" && state.leases, [{ id: 1, expires: now + left }]);
    if (left === 0) {
      assert.equal(restored.look().phase, "open");
      assert.equal(restored.until(), now + 120_000);
      return;
    }
    assert.equal(restored.end({ epoch: 2, lease: 1 }, "success"), false);
    assert.equal(restored.state.phase, "closed");
  });
}

const stalls: readonly [string, number, number][] = [
  ["5 s later 45 are left", 5000, 45_000],
  ["a step forward of a day ends it now", day, 0],
  ["a step back of a day does not lengthen it", -day, 50_000],
];
for (const [law, gap, left] of stalls) {
  test(`of the time for a verdict with 50 s left, ${law}`, () => {
    const breaker = halfOpened();
    breaker.end({ epoch: 2, lease: 1 }, "ignored");
    for (let call = 0; call < 2; call += 1) breaker.end(breaker.take(), "ignored");
    breaker.pass(10_000);
    const restored = restart(breaker, gap);
    restored.pass(left - 1);
    if (left > 0) assert.equal(restored.look().phase, "half_open");
    restored.pass(1);
    assert.equal(restored.look().phase, "open");
  });
}

// Four failures in a row, then a restart after `gap`, then a fifth.
const windows: readonly [string, number, boolean][] = [
  ["at once", 0, true],
  ["59.999 s later", 59_999, true],
  ["a window later", 60_000, false],
  ["a day later", day, false],
  ["with a clock that stepped back 1 ms", -1, false],
  ["with a clock that stepped back a day", -day, false],
];

for (const [when, gap, opens] of windows) {
  test(`four failures, a restart ${when}, one failure: ${opens ? "opens" : "stays closed"}`, () => {
    const breaker = new BreakerDriver();
    breaker.pass(123_456);
    breaker.run("FFFF");
    const restored = restart(breaker, gap);
    assert.equal(viewBreaker(restored.state, restored.now, restored.limits).failure_count, opens ? 4 : 0);
    restored.run("F");
    assert.equal(restored.state.phase === "open", opens);
  });
}

test("a window goes on after a restart where it was: calls leave it when they would have", () => {
  const breaker = new BreakerDriver({ failureThreshold: 9 });
  breaker.run("FFFS");
  breaker.pass(30_000);
  breaker.run("FS");
  const restored = restart(breaker, 20_000);
  const window = () => viewBreaker(restored.state, restored.now, restored.limits).window;
  assert.deepEqual(window(), { calls: 6, failures: 4, slow: 0 });
  restored.pass(10_000);
  assert.deepEqual(window(), { calls: 2, failures: 1, slow: 0 });
  restored.pass(30_000);
  assert.deepEqual(window(), { calls: 0, failures: 0, slow: 0 });
});

for (const gap of [0, 5000, day, -day]) {
  test(`a ramp starts over after a restart, the attempt kept: ${gap} ms later`, () => {
    const breaker = halfOpened({ successThreshold: 1 });
    breaker.end({ epoch: 2, lease: 1 }, "failure");
    breaker.end(breaker.probe(), "success");
    breaker.pass(7500);
    breaker.ask();
    const restored = restart(breaker, gap);
    const passed = Array.from({ length: 10 }, () => restored.ask()).filter((verdict) => verdict.admitted).length;
    assert.equal(passed, 3);
    restored.pass(9999);
    assert.equal(restored.look().attempt, 1);
    restored.pass(1);
    assert.equal(restored.look().attempt, 0);
  });
}

test("a ramp that is switched off today is over", () => {
  const breaker = halfOpened({ successThreshold: 1 });
  breaker.end({ epoch: 2, lease: 1 }, "failure");
  breaker.end(breaker.probe(), "success");
  const { state } = restart(breaker, 0, { rampMs: 0 });
  assert.deepEqual([state.attempt, state.phase === "closed" && state.ramp], [0, null]);
});

test("the epoch is kept, so reports of before the restart still count, and older ones are still late", () => {
  const breaker = opened({ rampMs: 0, successThreshold: 1 });
  breaker.end(breaker.probe(), "success");
  const token = breaker.take();
  const restored = restart(breaker, 1000);
  assert.equal(restored.end(token, "failure"), false);
  assert.equal(restored.end({ epoch: 0, lease: null }, "failure"), true);
});

test("open time goes on while nobody runs", () => {
  const breaker = opened();
  breaker.pass(10_000);
  const restored = restart(breaker, 3000);
  assert.equal(viewBreaker(restored.state, restored.now, restored.limits).counts.open_ms, 13_000);
});

const good = saveBreaker(freshBreaker(0, 8), 0, wall);
const unreadable: readonly [string, unknown][] = [
  ["a text", "{"],
  ["a number", 7],
  ["another version", { ...good, v: 2 }],
  ["no state", { v: 1, saved_at: wall }],
  ["an unknown phase", { ...good, state: { ...good.state, phase: "ajar" } }],
  ["an epoch that is no number", { ...good, state: { ...good.state, epoch: "8" } }],
  ["a time that is no number", { ...good, saved_at: null }],
  ["a window of eleven buckets", { ...good, state: { ...good.state, window: { ...emptyBuckets(11) } } }],
];

function emptyBuckets(length: number): Record<string, unknown> {
  const bucket = { calls: 0, failures: 0, slow: 0 };
  return { ...bucket, start: 0, past: Array.from({ length: length - 1 }, () => bucket) };
}

for (const [name, saved] of unreadable) {
  test(`${name} is no state: closed, in an epoch of clock seconds, and told`, () => {
    const { state, events } = restoreBreaker(saved, 42, wall + 999, guideLimits);
    assert.deepEqual(state, freshBreaker(42, 1_790_000_000));
    assert.deepEqual(events, [{ kind: "state_discarded", epoch: 1_790_000_000 }]);
  });
}

test("nothing saved is nothing lost", () => {
  const { state, events } = restoreBreaker(undefined, 42, wall, guideLimits);
  assert.deepEqual(state, freshBreaker(42, 1_790_000_000));
  assert.deepEqual(events, []);
});

test("a field of a later version is passed over", () => {
  const { state, events } = restoreBreaker({ ...good, mood: "calm" }, 0, wall, guideLimits);
  assert.deepEqual([state.epoch, events], [8, []]);
});

test("a breaker that is switched off today leaves open and half-open behind, told as restored", () => {
  for (const breaker of [opened(), halfOpened()]) {
    const { state, told } = restart(breaker, 1000, { enabled: false });
    const from: BreakerState["phase"] = breaker.state.phase;
    assert.equal(state.phase, "closed");
    assert.deepEqual(told, [
      {
        kind: "transition",
        from,
        to: "closed",
        reason: "restored",
        epoch: breaker.state.epoch + 1,
        attempt: 0,
        cooldown_ms: null,
      },
    ]);
  }
});
