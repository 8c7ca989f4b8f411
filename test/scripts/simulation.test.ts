import assert from "node:assert/strict";
import { after, test } from "node:test";
import { readBreakerLimits } from "../../shared/breaker-limits.ts";
import { readConfig } from "../../shared/config.ts";
import type { Violation } from "../../scripts/simulation/ledger.ts";
import { openThread } from "../../scripts/simulation/apart.ts";
import type { Outcome, OutageStats, Stats } from "../../scripts/simulation/stats.ts";

/** Chaos: one request costs some 120 µs, so this rate keeps all of it under half a minute. */
const seeds = 200;
const minutes = 10;
const rate = 1;

const thread = openThread();
after(() => thread.close());

/** The guide's limits, which all scenarios but chaos run with. */
const limits = guideLimits();
const { failureThreshold: threshold, halfOpenMaxCalls: maxProbes } = limits;

/** Calls to the box that are under way at 50 a second when one of them fails: each takes 120 ms at most. */
const underWay = 6;
/** Calls an isolate begins at 10 a second until its first failure has been told and answered: one in most runs. */
const leakEach = 4;

test("chaos: no law breaks in 200 seeds of 10 virtual minutes, whatever fails, and every breaker closes again", async () => {
  const violations: Violation[] = [];
  let requests = 0;
  let opens = 0;
  let live = 0;
  for (let seed = 1; seed <= seeds; seed += 1) {
    const outcome = await thread.play("chaos", { minutes, rate, seed });
    violations.push(...outcome.violations);
    requests += outcome.stats.requests;
    opens += outcome.stats.opens;
    live += outcome.stats.answered.live ?? 0;
  }
  assert.deepEqual(violations, []);
  // What is never tried holds by itself: the breakers must have had their work, and the box its good times.
  assert.ok(opens > 5 * seeds, `${opens} openings`);
  assert.ok(live > requests / 3 && live < (requests * 9) / 10, `${live} of ${requests} answered live`);
});

test("the same seed gives the same run, another seed another", async () => {
  const play = (seed: number): Promise<Outcome> => thread.play("chaos", { minutes, rate, seed });
  const first = await play(11);
  assert.deepEqual(await play(11), first);
  assert.notDeepEqual((await play(12)).stats, first.stats);
});

test("F25: at 20 % random failures 95 % are answered live, the breaker stays closed, and retries cost a quarter at most", async () => {
  for (const perSecond of [10, 50]) {
    const { liveShare, refusedShare, callsPerRequest, opens, requests } = lawful(
      await thread.play("flaky", { seed: perSecond, rate: perSecond, share: 0.2, requests: 10_000 }),
    );
    const seen = `${requests} requests at ${perSecond}/s: ${liveShare} live, ${callsPerRequest} calls each`;
    assert.ok(requests >= 10_000 && liveShare >= 0.95 && callsPerRequest <= 1.25, seen);
    assert.ok(callsPerRequest > 1.2, `${seen}: nearly every failure is worth a retry that can be paid for`);
    assert.deepEqual([opens, refusedShare], [0, 0], seen);
  }
});

test("F25: with all calls failing the breaker leaves next to no calls to make", async () => {
  const { callsPerRequest, liveShare, refusedShare } = lawful(await thread.play("failing", { seed: 1, minutes: 5 }));
  assert.ok(callsPerRequest <= 0.02 && liveShare === 0 && refusedShare > 0.99, `${callsPerRequest} ${refusedShare}`);
});

test("F26: 5 s up and 5 s down for 10 minutes are 3 transitions a minute at most; it closes 10 s after the cooldown at the latest", async () => {
  for (const seed of [1, 2]) {
    const stats = lawful(await thread.play("flap", { seed }));
    assert.ok(stats.transitionsPerMinute <= 3, `seed ${seed}: ${stats.transitionsPerMinute} a minute`);
    const { closedAfterMs, lastCooldownMs } = stats;
    assert.ok(closedAfterMs !== null && lastCooldownMs !== null, `seed ${seed}: it did not close`);
    assert.ok(
      closedAfterMs <= lastCooldownMs + 10_000,
      `seed ${seed}: ${closedAfterMs} ms, cooldown ${lastCooldownMs}`,
    );
    assert.ok(
      lastCooldownMs > 4 * limits.cooldownMs,
      `seed ${seed}: the cooldown escalates, it was ${lastCooldownMs} ms`,
    );
  }
});

test("F27: an outage of 60 s at 50 a second costs the threshold, the leases, and what began before its isolate knew", async () => {
  for (const seed of [1, 2, 3]) {
    const stats = lawful(await thread.play("outage", { seed }));
    const { requests, calls, probes, leaked } = outageOf(stats);
    const seen = `seed ${seed}: ${calls} calls, ${probes} probes, ${leaked} leaked, ${requests} requests`;
    assert.ok(requests > 2500, seen);
    assert.ok(calls <= threshold + underWay + probes + leaked && probes <= maxProbes, seen);
    assert.ok(leaked <= 5 * leakEach, seen);
    assert.ok(stats.callsPerRequest <= 1.1, seen);
    assert.ok((stats.recoveredMs ?? Infinity) <= 8000, `${seed}: ${stats.recoveredMs} ms to 95 % of the goodput`);
  }
});

test("F27: one isolate leaks nothing: the copy that counted is the copy that refuses", async () => {
  const { calls, leaked } = outageOf(lawful(await thread.play("outage", { seed: 4, isolates: 1 })));
  assert.ok(calls <= threshold + underWay && leaked === 0, `${calls} calls, ${leaked} leaked`);
  const slow = outageOf(lawful(await thread.play("outage", { seed: 4, isolates: 1, rate: 2 })));
  assert.ok(slow.calls <= threshold, `${slow.calls} calls, one after the other`);
});

for (const objectMode of ["unreachable", "slow"] as const) {
  test(`F27, F49: with the object ${objectMode} each isolate's own copy bounds the calls of an outage`, async () => {
    const { calls, requests } = outageOf(lawful(await thread.play("outage", { seed: 5, objectMode })));
    assert.ok(calls <= 5 * threshold + underWay, `${calls} calls of ${requests} requests`);
  });
}

test("F28: 1,000 callers at a recovery are 3 probes at once, then 3, 6, 12 … in each second", async () => {
  for (const isolates of [1, 3]) {
    const { peakProbes, ramp } = lawful(await thread.play("recovery", { seed: isolates, isolates, callers: 1000 }));
    assert.equal(peakProbes, maxProbes);
    const excess = ramp.filter((count, second) => count > maxProbes * 2 ** second);
    assert.deepEqual(excess, [], `${isolates} isolates: ${ramp.join(", ")}`);
    assert.ok((ramp[4] ?? 0) > 20, `the ramp lets them in: ${ramp.join(", ")}`);
  }
});

test("F28: more isolates than calls in a second let one through each, and no more", async () => {
  const { peakProbes, ramp } = lawful(await thread.play("recovery", { seed: 1, isolates: 5, callers: 1000 }));
  assert.equal(peakProbes, maxProbes);
  const excess = ramp.filter((count, second) => count > Math.max(5, maxProbes * 2 ** second));
  assert.deepEqual(excess, [], ramp.join(", "));
});

test("F50: five isolates report the same outage, each report carried out twice, and it opens once", async () => {
  const stats = lawful(await thread.play("outage", { seed: 6, repeated: 1, seconds: 30 }));
  assert.equal(stats.opens, 1);
});

test("F49: without the object an isolate sends one probe at a time", async () => {
  const options = { seed: 7, isolates: 1, objectMode: "unreachable", seconds: 100 } as const;
  const { probes, requests } = outageOf(lawful(await thread.play("outage", options)));
  assert.equal(probes, 1, `of ${requests} requests, 50 a second: one cooldown has ended`);
});

test("F52: an object started anew while open and cold isolates refuse for the rest; only calls begun before the first word leak", async () => {
  const rounds = [1, 2, 3];
  let leaks = 0;
  for (const seed of rounds) {
    const stats = lawful(await thread.play("restart", { seed }));
    const { calls, leaked, requests } = outageOf(stats);
    assert.ok(
      requests > 900 && calls === leaked,
      `seed ${seed}: ${calls} calls, ${leaked} leaked of ${requests} requests`,
    );
    assert.equal(stats.opens, 1, "an open breaker stays the one it is");
    leaks += leaked;
  }
  // A cold isolate asks as its first act: its first call is as likely to come after the answer as before it.
  assert.ok(leaks < 5 * rounds.length, `${leaks} calls leaked of ${5 * rounds.length} cold isolates`);
});

function lawful({ violations, stats }: Outcome): Stats {
  assert.deepEqual(violations, []);
  return stats;
}

function outageOf({ outage }: Stats): OutageStats {
  if (outage === null) assert.fail("a scenario without an outage");
  return outage;
}

function guideLimits(): ReturnType<typeof readBreakerLimits> {
  const reading = readConfig({});
  if (!reading.ok) assert.fail("the defaults are a configuration");
  return readBreakerLimits(reading.config);
}
