import assert from "node:assert/strict";
import { test } from "node:test";
import { cooldownMs, leaseMs, rampAllowance, readBreakerLimits, wholeSeconds } from "../../shared/breaker-limits.ts";
import { readConfig } from "../../shared/config.ts";
import { guideLimits } from "../kit/breaker-driver.ts";

const limitsOf = (flags: Record<string, string>) => {
  const reading = readConfig({}, flags);
  assert.ok(reading.ok, JSON.stringify(reading));
  return readBreakerLimits(reading.config);
};

test("the defaults are the guide's, and what is unset follows the timeout", () => {
  assert.deepEqual(limitsOf({}), guideLimits);
});

const derived: readonly [string, Record<string, string>, Partial<typeof guideLimits>][] = [
  [
    "a long timeout stretches window, probe and half-open time",
    { timeout: "120" },
    { windowMs: 240_000, probeTimeoutMs: 120_000, maxHalfOpenMs: 240_000 },
  ],
  [
    "a short timeout leaves the window at a minute",
    { timeout: "5" },
    { windowMs: 60_000, probeTimeoutMs: 5000, maxHalfOpenMs: 10_000 },
  ],
  [
    "a probe timeout of its own carries the half-open time",
    { circuit_breaker_probe_timeout_seconds: "4" },
    { probeTimeoutMs: 4000, maxHalfOpenMs: 8000 },
  ],
  [
    "what is set is taken",
    {
      circuit_breaker_enabled: "false",
      circuit_breaker_window_seconds: "90.5",
      circuit_breaker_failure_ratio: "none",
      circuit_breaker_slow_call_seconds: "1.5",
      circuit_breaker_max_half_open_seconds: "45",
      circuit_breaker_ramp_seconds: "0",
    },
    { enabled: false, windowMs: 90_500, failureRatio: null, slowCallMs: 1500, maxHalfOpenMs: 45_000, rampMs: 0 },
  ],
];

for (const [law, flags, changed] of derived) {
  test(law, () => {
    assert.deepEqual(limitsOf(flags), { ...guideLimits, ...changed });
  });
}

const almostOne = 1 - 2 ** -53;
const cooldowns: readonly [attempt: number, from: number, to: number][] = [
  [0, 60_000, 72_000],
  [1, 120_000, 144_000],
  [2, 240_000, 288_000],
  [3, 250_000, 300_000],
  [4, 250_000, 300_000],
  [5000, 250_000, 300_000],
];

for (const [attempt, from, to] of cooldowns) {
  test(`the cooldown of attempt ${attempt} is ${from / 1000} to ${to / 1000} s`, () => {
    assert.equal(
      cooldownMs(attempt, null, guideLimits, () => 0),
      from,
    );
    assert.ok(Math.abs(cooldownMs(attempt, null, guideLimits, () => almostOne) - to) < 1e-6);
    assert.ok(Math.abs(cooldownMs(attempt, null, guideLimits, () => 0.5) - (from + to) / 2) < 1e-6);
  });
}

const edges: readonly [string, number, number | null, Partial<typeof guideLimits>, number, number][] = [
  ["with the cap at the base every cooldown is the base", 3, null, { maxCooldownMs: 60_000 }, 60_000, 60_000],
  ["with the cap just over the base none is under the base", 0, null, { maxCooldownMs: 66_000 }, 60_000, 66_000],
  ["a wait that was asked for raises it", 0, 100_000, {}, 100_000, 100_000],
  ["a shorter wait that was asked for does not lower it", 0, 20_000, {}, 60_000, 72_000],
  ["a wait that was asked for raises it to the cap at most", 0, 4_000_000, {}, 300_000, 300_000],
];

for (const [law, attempt, floor, changes, lowest, highest] of edges) {
  test(law, () => {
    const limits = { ...guideLimits, ...changes };
    assert.equal(
      cooldownMs(attempt, floor, limits, () => 0),
      lowest,
    );
    assert.equal(Math.round(cooldownMs(attempt, floor, limits, () => almostOne)), highest);
  });
}

test("a lease outlives its probe's deadline by a second", () => {
  assert.equal(leaseMs(guideLimits), 31_000);
});

test("a ramp doubles each second, isolates share it, and each may take one", () => {
  const allowed = (share: number) => [0, 1, 2, 3].map((second) => rampAllowance(second, share, guideLimits));
  assert.deepEqual(allowed(1), [3, 6, 12, 24]);
  assert.deepEqual(allowed(2), [1, 3, 6, 12]);
  assert.deepEqual(allowed(5), [1, 1, 2, 4]);
});

test("a wait is told in whole seconds, rounded up, at least one", () => {
  assert.deepEqual([0, 1, 1000, 1001, 59_999.5].map(wholeSeconds), [1, 1, 1, 2, 60]);
});
