import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { deposit, freshRetryBudget, readTokens, takeToken, type RetryBudget } from "../../shared/retry-budget.ts";

/** Takes until none is left; the number taken. */
function drain(budget: RetryBudget, now: number): { next: RetryBudget; taken: number } {
  let next = budget;
  for (let taken = 0; ; taken += 1) {
    const step = takeToken(next, now);
    if (!step.taken) return { next: step.next, taken };
    next = step.next;
  }
}

test("a new budget pays for ten retries at once, and not for an eleventh", () => {
  assert.equal(drain(freshRetryBudget(0), 0).taken, 10);
});

test("a token is whole or none: at 0.9 there is none, at 1 there is one", () => {
  const { next } = drain(freshRetryBudget(0), 0);
  assert.equal(takeToken(next, 9999).taken, false);
  const paid = takeToken(next, 10_000);
  assert.deepEqual([paid.taken, paid.next], [true, { tokens: 0, at: 10_000 }]);
});

test("a token that is not there costs nothing: asking again and again does not stop the trickle", () => {
  let { next } = drain(freshRetryBudget(0), 0);
  for (let now = 0; now < 10_000; now += 1000) ({ next } = takeToken(next, now));
  assert.equal(takeToken(next, 10_000).taken, true);
});

test("four successes pay for one retry", () => {
  let { next } = drain(freshRetryBudget(0), 0);
  for (let call = 0; call < 3; call += 1) ({ next } = deposit(next, 0));
  assert.equal(takeToken(next, 0).taken, false);
  ({ next } = deposit(next, 0));
  assert.equal(takeToken(next, 0).taken, true);
});

test("no success and no hour lifts it above ten", () => {
  const full = deposit(freshRetryBudget(0), 0).next;
  assert.equal(readTokens(full, 0), 10);
  assert.equal(readTokens(full, 3_600_000), 10);
  assert.equal(drain(full, 3_600_000).taken, 10);
});

test("a clock that stepped back pays nothing, now or when it has caught up", () => {
  const { next } = drain(freshRetryBudget(50_000), 50_000);
  const back = takeToken(next, 10_000);
  assert.deepEqual([back.taken, readTokens(back.next, 50_000), readTokens(back.next, 60_000)], [false, 0, 1]);
});

test("reading takes nothing, and the state is plain JSON", () => {
  const budget = takeToken(freshRetryBudget(0), 2500).next;
  assert.equal(readTokens(budget, 5000), 9.25);
  assert.deepEqual(JSON.parse(JSON.stringify(budget)), budget);
  assert.deepEqual(budget, { tokens: 9, at: 2500 });
});

test("it stays within 0 and 10 whatever happens", () => {
  const steps = fc.array(fc.tuple(fc.boolean(), fc.integer({ min: -5000, max: 60_000 })), { maxLength: 200 });
  fc.assert(
    fc.property(steps, (events) => {
      let budget = freshRetryBudget(0);
      let now = 0;
      for (const [success, elapsed] of events) {
        now += elapsed;
        budget = success ? deposit(budget, now).next : takeToken(budget, now).next;
        assert.ok(budget.tokens >= 0 && budget.tokens <= 10, JSON.stringify(budget));
      }
    }),
  );
});

/** mulberry32: small, seeded, good enough to toss coins with. */
function coins(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d_2b_79_f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

type Traffic = { calls: number; retries: number; successes: number; byArithmetic: number };

/** The same rules in whole ten-thousandths of a token: 10 at most, 1 a retry, 0.25 a success, 0.0001 a ms. */
function openLedger(): { pay(now: number): boolean; earn(now: number): void } {
  let units = 100_000;
  let at = 0;
  const add = (now: number, more: number): void => {
    units = Math.min(100_000, Math.min(100_000, units + now - at) + more);
    at = now;
  };
  return {
    earn: (now) => add(now, 2500),
    pay(now) {
      add(now, 0);
      if (units < 10_000) return false;
      units -= 10_000;
      return true;
    },
  };
}

/** Requests of at most three calls, each of which fails with `rate`, spread over `spanMs`. */
function send(requests: number, rate: number, spanMs: number, seed: number): Traffic {
  const random = coins(seed);
  const ledger = openLedger();
  let budget = freshRetryBudget(0);
  const traffic: Traffic = { calls: 0, retries: 0, successes: 0, byArithmetic: 0 };
  for (let request = 0; request < requests; request += 1) {
    const now = Math.floor((request * spanMs) / requests);
    for (let attempt = 1; ; attempt += 1) {
      traffic.calls += 1;
      if (random() >= rate) {
        traffic.successes += 1;
        budget = deposit(budget, now).next;
        ledger.earn(now);
        break;
      }
      if (attempt === 3) break;
      if (ledger.pay(now)) traffic.byArithmetic += 1;
      const paid = takeToken(budget, now);
      budget = paid.next;
      if (!paid.taken) break;
      traffic.retries += 1;
    }
  }
  return traffic;
}

for (const percent of [0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100]) {
  test(`10,000 requests at ${percent} % failures: retries within 1 of the arithmetic, 1.25 calls a request`, () => {
    for (const [spanMs, seed] of [
      [0, 20_261_124 + percent],
      [600_000, 4711 + percent],
    ] as const) {
      const { calls, retries, successes, byArithmetic } = send(10_000, percent / 100, spanMs, seed);
      assert.ok(Math.abs(retries - byArithmetic) <= 1, `seed ${seed}: ${retries} retries, not ${byArithmetic}`);
      assert.ok(retries <= 10 + 0.25 * successes + spanMs / 10_000, `seed ${seed}: ${retries} retries`);
      assert.ok(calls <= 10_000 * 1.25 + 10 + spanMs / 10_000, `seed ${seed}: ${calls} calls`);
    }
  });
}

for (const minutes of [1, 10, 100]) {
  test(`in an outage of ${minutes} min only the trickle refills: 10 retries and one every ten seconds`, () => {
    const { retries, successes } = send(10_000, 1, minutes * 60_000, 7);
    assert.equal(successes, 0);
    assert.ok(Math.abs(retries - (10 + minutes * 6)) <= 1, String(retries));
  });
}
