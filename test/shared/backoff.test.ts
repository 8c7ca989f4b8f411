import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { backoffMs, delayMs, readBackoffLimits, type BackoffLimits } from "../../shared/backoff.ts";
import { readRetryLimits } from "../../shared/retry.ts";
import { configWith } from "../kit/settings.ts";

const base: BackoffLimits = { strategy: "exponential", initialMs: 1000, maxMs: 30_000, multiplier: 2, jitter: false };
const strategies = ["exponential", "linear", "fixed", "immediate"] as const;
const half = (): number => 0.5;

/** Delays before the second, third, … call. */
const delays = (count: number, limits: BackoffLimits): number[] =>
  Array.from({ length: count }, (_, n) => delayMs(n, limits, null, half));

test("R1 the defaults are 3 calls, 1 s, doubled, 30 s at most, jitter, exponential", () => {
  assert.deepEqual(readRetryLimits(configWith()), {
    maxAttempts: 3,
    backoff: { strategy: "exponential", initialMs: 1000, maxMs: 30_000, multiplier: 2, jitter: true },
  });
});

test("every key of the configuration reaches the limits", () => {
  const settings = { retry_strategy: "linear", retry_initial_delay: 0, retry_max_delay: 7.5, retry_jitter: "false" };
  assert.deepEqual(readBackoffLimits(configWith({ ...settings, retry_backoff_multiplier: 3 })), {
    strategy: "linear",
    initialMs: 0,
    maxMs: 7500,
    multiplier: 3,
    jitter: false,
  });
});

const values: readonly [string, Partial<BackoffLimits>, number[]][] = [
  ["R2 exponential grows by its factor", {}, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]],
  ["R2 exponential with factor 3", { multiplier: 3, initialMs: 100 }, [100, 300, 900, 2700]],
  ["R2 exponential with factor 1 stays", { multiplier: 1 }, [1000, 1000, 1000]],
  ["R3 linear grows by its first delay", { strategy: "linear" }, [1000, 2000, 3000, 4000]],
  ["R4 fixed stays", { strategy: "fixed", initialMs: 2000 }, [2000, 2000, 2000]],
  ["R5 immediate is no wait", { strategy: "immediate" }, [0, 0, 0]],
  ["R5 immediate with jitter is no wait", { strategy: "immediate", jitter: true }, [0, 0, 0]],
  ["R6 the cap holds from the first delay on", { initialMs: 10_000, maxMs: 5000 }, [5000, 5000]],
  ["R6 the cap holds for linear", { strategy: "linear", initialMs: 10_000, maxMs: 5000 }, [5000, 5000]],
  ["R6 the cap holds for fixed", { strategy: "fixed", initialMs: 10_000, maxMs: 5000 }, [5000, 5000]],
  ["a first delay of 0 is 0", { initialMs: 0 }, [0, 0, 0]],
  ["a cap of 0 is 0", { maxMs: 0 }, [0, 0, 0]],
];

for (const [law, limits, expected] of values) {
  test(law, () => assert.deepEqual(delays(expected.length, { ...base, ...limits }), expected));
}

test("B2 what cannot be computed is the cap, never a wait of 0 or NaN", () => {
  const exponential = [1e6, Number.POSITIVE_INFINITY, Number.NaN].map((n) => backoffMs(n, base));
  assert.deepEqual(exponential, [30_000, 30_000, 30_000]);
  const linear = [1e308, Number.NaN].map((n) => backoffMs(n, { ...base, strategy: "linear", initialMs: 1e6 }));
  assert.deepEqual(linear, [30_000, 30_000]);
  assert.equal(backoffMs(0, { ...base, strategy: "fixed", initialMs: Number.NaN }), 30_000);
});

test("B2 a negative count is the first, a negative first delay is none", () => {
  assert.equal(backoffMs(-3, base), 1000);
  assert.equal(backoffMs(-3, { ...base, strategy: "linear" }), 1000);
  assert.equal(backoffMs(0, { ...base, initialMs: -5 }), 0);
});

const limitsOf = fc.record({
  strategy: fc.constantFrom(...strategies),
  initialMs: fc.double({ min: 0, max: 600_000, noNaN: true }),
  maxMs: fc.double({ min: 0, max: 3_600_000, noNaN: true }),
  multiplier: fc.double({ min: 1, max: 100, noNaN: true }),
  jitter: fc.boolean(),
});
const counts = fc.oneof(fc.nat(50), fc.double());
const draws = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

test("B2 R7 no delay of our own is above the cap or under half of the capped delay, jitter or not", () => {
  fc.assert(
    fc.property(limitsOf, counts, draws, (limits, n, draw) => {
      const delay = delayMs(n, limits, null, () => draw);
      const capped = backoffMs(n, limits);
      assert.ok(delay >= capped / 2 && delay <= capped && capped <= limits.maxMs, `${delay} of ${capped}`);
    }),
  );
});

test("R7 jitter spreads evenly over the upper half: mean within 1 %, both ends reached", () => {
  const limits = { ...base, jitter: true };
  const steps = 10_000;
  const drawn = Array.from({ length: steps }, (_, step) => delayMs(2, limits, null, () => step / steps));
  const mean = drawn.reduce((sum, delay) => sum + delay, 0) / steps;
  assert.ok(Math.abs(mean - 3000) < 30, String(mean));
  assert.equal(Math.min(...drawn), 2000);
  assert.ok(Math.max(...drawn) > 3999 && Math.max(...drawn) <= 4000);
});

test("R7 two callers with different draws wait differently; without jitter alike", () => {
  const pair = (limits: BackoffLimits): number[] => [0.1, 0.9].map((draw) => delayMs(0, limits, null, () => draw));
  assert.deepEqual(pair({ ...base, jitter: true }), [550, 950]);
  assert.deepEqual(pair(base), [1000, 1000]);
});

const asked: readonly [string, number | null, number, number][] = [
  ["none", null, 0, 500],
  ["shorter than our own delay", 300, 0, 500],
  ["as long as our own delay", 500, 0, 500],
  ["longer than our own delay", 2000, 0, 2000],
  ["spread upwards only", 2000, 0.5, 2100],
  ["a broken number of ms, rounded up", 2000.25, 0, 2001],
  ["longer than the cap", 120_000, 0, 120_000],
  ["longer than the cap, spread", 120_000, 0.5, 126_000],
  ["zero", 0, 0, 500],
  ["negative", -1, 0, 500],
  ["NaN", Number.NaN, 0, 500],
  ["endless", Number.POSITIVE_INFINITY, 0, 500],
];

for (const [what, retryAfterMs, draw, expected] of asked) {
  test(`B2 Retry-After: ${what}`, () => {
    assert.equal(
      delayMs(0, { ...base, jitter: true }, retryAfterMs, () => draw),
      expected,
    );
  });
}

test("B2 a wait that was asked for is never cut and never ended early, by any strategy, cap or draw", () => {
  const waits = fc.double({ min: 0, max: 604_800_000, noNaN: true });
  fc.assert(
    fc.property(limitsOf, fc.nat(20), waits, draws, (limits, n, retryAfterMs, draw) => {
      const delay = delayMs(n, limits, retryAfterMs, () => draw);
      assert.ok(delay >= retryAfterMs, `${delay} < ${retryAfterMs}`);
      assert.ok(delay <= Math.max(backoffMs(n, limits), Math.ceil(retryAfterMs * 1.1)));
    }),
  );
});
