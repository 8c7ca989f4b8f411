import assert from "node:assert/strict";
import { test } from "node:test";
import { act } from "../../shared/breaker.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import { freshBreaker, type Sample } from "../../shared/breaker-state.ts";
import { viewBreaker } from "../../shared/breaker-view.ts";
import { BreakerDriver } from "../kit/breaker-driver.ts";

const quiet = { failureRatio: null, minimumCalls: 100_000 } as const;
const slowRule = { slowCallMs: 1000, minimumCalls: 4, slowRatio: 0.5, failureRatio: null } as const;
const day = 86_400_000;

test("R15 a breaker starts closed and lets everything through", () => {
  const breaker = new BreakerDriver();
  assert.equal(breaker.state.phase, "closed");
  assert.deepEqual(breaker.ask(), { admitted: true, token: { epoch: 0, lease: null } });
  assert.deepEqual(breaker.events, []);
});

// Where a row's calls leave a closed breaker: still closed, or open and why.
const openings: readonly [string, Partial<BreakerLimits>, string, string | null][] = [
  ["R16 the third of three failures opens", { failureThreshold: 3 }, "FFF", "run"],
  ["R16 two of three leave it closed", { failureThreshold: 3 }, "FF", null],
  ["R16 a success in between sets the run to 0", { failureThreshold: 3 }, "FFSFF", null],
  ["R16 and three after it open", { failureThreshold: 3 }, "FFSFFF", "run"],
  ["four of five failures leave it closed", {}, "FFFF", null],
  ["five of five open", {}, "FFFFF", "run"],
  ["one failure opens at a threshold of one", { failureThreshold: 1 }, "SF", "run"],
  ["ignored calls do not end a run", {}, "FFIIFIFIF", "run"],
  ["ignored calls are no failures", {}, "I".repeat(200), null],
  ["G5 our own bulkhead's refusals among successes open nothing", {}, "SISIIIIIIIIIIIIIIIII".repeat(9), null],
  ["a slow answer ends a run", { ...slowRule, minimumCalls: 100, failureThreshold: 3 }, "FFOFF", null],
  ["a slow answer ends a run where no answer is slow", { ...quiet, failureThreshold: 3 }, "FFOFF", null],
  ["exactly at the ratio opens", { minimumCalls: 10 }, "FSFSFSFSFS", "ratio"],
  ["one call under the ratio does not", { minimumCalls: 10 }, "FSFSFSFSSS", null],
  ["at the ratio, one call under the minimum, does not", { minimumCalls: 11 }, "FSFSFSFSFS", null],
  ["at the ratio and the minimum a success may be the call that opens", { minimumCalls: 4 }, "FFSS", "ratio"],
  ["without a ratio only runs open", { failureRatio: null, minimumCalls: 2 }, "FFFFS".repeat(20), null],
  ["exactly at the slow ratio opens", slowRule, "SSOO", "slow"],
  ["one call under the slow ratio does not", slowRule, "SSSO", null],
  ["slow calls under the minimum do not", slowRule, "OOO", null],
  ["without the slow rule slow answers are good answers", { minimumCalls: 4, slowRatio: 0.5 }, "O".repeat(50), null],
  ["slow answers are no failures to the ratio", { ...slowRule, failureRatio: 0.5, slowRatio: 0.9 }, "SSOO", null],
  ["a run counts before a ratio", { minimumCalls: 5 }, "FFFFF", "run"],
];

for (const [law, limits, calls, reason] of openings) {
  test(law, () => {
    const breaker = new BreakerDriver(limits);
    breaker.run(calls);
    assert.deepEqual(breaker.moves(), reason === null ? [] : [`closed>open ${reason}`]);
    assert.equal(breaker.state.phase, reason === null ? "closed" : "open");
  });
}

test("failures spread over the window open as well as failures in a row", () => {
  const breaker = new BreakerDriver({ minimumCalls: 10 });
  for (const sample of "FSFSFSFSF") {
    breaker.run(sample);
    breaker.pass(5000);
  }
  breaker.run("S");
  assert.deepEqual(breaker.moves(), ["closed>open ratio"]);
});

test("what has left the window no longer counts", () => {
  const breaker = new BreakerDriver({ minimumCalls: 10, failureThreshold: 9 });
  breaker.run("FFFFS");
  for (let second = 0; second < 60; second += 6) {
    breaker.pass(6000);
    breaker.run("I");
  }
  breaker.run("FFFFS");
  assert.deepEqual(breaker.moves(), []);
});

test("a window rotates without a new epoch and without an event", () => {
  const breaker = new BreakerDriver();
  const token = breaker.take();
  for (let second = 0; second < 300; second += 7) {
    breaker.pass(7000);
    breaker.run("S");
  }
  assert.equal(breaker.state.epoch, 0);
  assert.deepEqual(breaker.events, []);
  assert.equal(breaker.end(token, "failure"), false);
});

test("G10 a call longer than the window counts when it ends", () => {
  const breaker = new BreakerDriver({ failureThreshold: 2 });
  const tokens = [breaker.take(), breaker.take()];
  breaker.pass(10 * 60_000);
  for (const token of tokens) breaker.end(token, "failure");
  assert.deepEqual(breaker.moves(), ["closed>open run"]);
});

for (const [gap, opens] of [
  [59_999, true],
  [60_000, false],
  [3_600_000, false],
] as const) {
  test(`G6 four failures, ${gap} ms of nothing, one failure: ${opens ? "opens" : "stays closed"}`, () => {
    const breaker = new BreakerDriver();
    breaker.run("FFFF");
    breaker.pass(gap);
    // A call that says nothing is no sign of life.
    breaker.run("I");
    breaker.run("F");
    assert.equal(breaker.state.phase === "open", opens);
    if (!opens) {
      assert.deepEqual(viewBreaker(breaker.state, breaker.now, breaker.limits).window, {
        calls: 1,
        failures: 1,
        slow: 0,
      });
    }
  });
}

test("sparse failures, each a window after the other, never open", () => {
  const breaker = new BreakerDriver();
  for (let failure = 0; failure < 50; failure += 1) {
    breaker.run("F");
    breaker.pass(60_000);
  }
  assert.deepEqual(breaker.moves(), []);
});

// The window before the run: single failures, each with a success after it. Then failures until it opens.
const noise: readonly [failed: number, calls: number, threshold: number, need: number][] = [
  [0, 200, 5, 5],
  [5, 200, 5, 5],
  [10, 200, 5, 7],
  [20, 200, 5, 8],
  [40, 200, 5, 12],
  [80, 200, 5, 20],
  [98, 200, 5, 20],
  [40, 200, 20, 20],
  [40, 200, 2, 8],
  [12, 30, 5, 20],
  [11, 29, 5, 5],
];

for (const [failed, calls, threshold, need] of noise) {
  test(`with ${failed} of ${calls} calls failed before it, a run of ${need} opens at a threshold of ${threshold}`, () => {
    const breaker = new BreakerDriver({ failureThreshold: threshold, failureRatio: null });
    breaker.run("FS".repeat(failed) + "S".repeat(calls - 2 * failed));
    assert.equal(viewBreaker(breaker.state, 0, breaker.limits).window?.failures, failed);
    breaker.run("F".repeat(need - 1));
    assert.equal(breaker.state.phase, "closed");
    breaker.run("F");
    assert.deepEqual(breaker.moves(), ["closed>open run"]);
  });
}

test("how many failures open is fixed when the run begins", () => {
  const breaker = new BreakerDriver({ minimumCalls: 10, failureRatio: null });
  breaker.run("SSSSFSSSS");
  breaker.run("FFFFF");
  assert.deepEqual(breaker.moves(), ["closed>open run"], "its own failures made the run's window noisy");
});

test("R17 an open breaker refuses, with the rest of its cooldown", () => {
  const breaker = new BreakerDriver();
  breaker.trip();
  breaker.pass(18_500);
  assert.deepEqual(breaker.ask(), {
    admitted: false,
    code: "ERR_CB_OPEN",
    phase: "open",
    retryAfterMs: 41_500,
  });
  assert.deepEqual(breaker.told, [
    { kind: "refused", code: "ERR_CB_OPEN", phase: "open", epoch: 1, retry_after_ms: 41_500 },
  ]);
  assert.equal(breaker.state.counts.not_permitted, 1);
});

test("refusing is no sample: an open breaker that refuses a thousand calls is open no longer for it", () => {
  const breaker = new BreakerDriver();
  breaker.trip();
  for (let call = 0; call < 1000; call += 1) {
    breaker.pass(59);
    assert.equal(breaker.ask().admitted, false);
  }
  assert.equal(breaker.until(), 60_000);
  assert.equal(breaker.state.counts.failure, 5);
  assert.equal(breaker.state.counts.not_permitted, 1000);
});

test("R18 it refuses 1 ms before the cooldown ends, and leases at it", () => {
  const breaker = new BreakerDriver();
  breaker.u = 0.5;
  breaker.trip();
  assert.equal(breaker.until(), 66_000);
  breaker.pass(65_999);
  assert.equal(breaker.ask().admitted, false);
  viewBreaker(breaker.state, 66_000, breaker.limits);
  breaker.pass(1);
  assert.deepEqual(breaker.ask(), { admitted: true, token: { epoch: 2, lease: 1 } });
  assert.deepEqual(breaker.moves(), ["closed>open run", "open>half_open cooldown_over"]);
});

test("failures while open are late and never prolong it, in sum or one by one", () => {
  const breaker = new BreakerDriver({ failureThreshold: 1 });
  const tokens = Array.from({ length: 20 }, () => breaker.take());
  for (const [index, token] of tokens.entries()) {
    breaker.pass(1000);
    assert.equal(breaker.end(token, "failure", 250_000), index > 0);
  }
  assert.equal(breaker.until(), 251_000);
  assert.deepEqual(breaker.moves(), ["closed>open run"]);
  assert.equal(breaker.state.counts.late, 19);
  assert.equal(breaker.state.counts.failure, 1);
});

test("the opening failure's own wait is the cooldown's floor, and a success's is nothing", () => {
  const asked = new BreakerDriver({ failureThreshold: 1 });
  asked.end(asked.take(), "failure", 100_000);
  assert.equal(asked.cooldown(), 100_000);
  const long = new BreakerDriver({ failureThreshold: 1 });
  long.end(long.take(), "failure", 4_000_000);
  assert.equal(long.cooldown(), 300_000);
  const none = new BreakerDriver({ minimumCalls: 4 });
  none.run("FFS");
  none.end(none.take(), "success", 100_000);
  assert.equal(none.cooldown(), 60_000);
});

// Every state and every outcome: the phase after it, whether it came late, and what was counted.
const closed = (): [BreakerDriver, ReturnType<BreakerDriver["take"]>] => {
  const breaker = new BreakerDriver({ failureThreshold: 1, slowCallMs: 1, minimumCalls: 2, slowRatio: 0.5 });
  return [breaker, breaker.take()];
};
const open = (): ReturnType<typeof closed> => {
  const [breaker, token] = closed();
  breaker.trip();
  return [breaker, token];
};
const unheld = (): ReturnType<typeof closed> => {
  const [breaker] = open();
  // What a breaker lets through while it is switched off has the epoch of a phase that lets nothing through.
  return [breaker, { epoch: breaker.state.epoch, lease: null }];
};
const held = (): ReturnType<typeof closed> => {
  const [breaker] = open();
  return [breaker, breaker.probe()];
};
const stale = (): ReturnType<typeof closed> => {
  const [breaker, token] = open();
  breaker.probe();
  return [breaker, token];
};
const samples: readonly Sample[] = ["success", "failure", "slow", "ignored"];
const outcomes: readonly [string, typeof closed, Record<Sample, string>, boolean][] = [
  ["closed", closed, { success: "closed", failure: "open", slow: "closed", ignored: "closed" }, false],
  ["open", open, { success: "open", failure: "open", slow: "open", ignored: "open" }, true],
  ["open, of its epoch", unheld, { success: "open", failure: "open", slow: "open", ignored: "open" }, true],
  ["half-open, held", held, { success: "half_open", failure: "open", slow: "open", ignored: "half_open" }, false],
  [
    "half-open, of another epoch",
    stale,
    { success: "half_open", failure: "half_open", slow: "half_open", ignored: "half_open" },
    true,
  ],
];

for (const [name, make, after, late] of outcomes) {
  for (const sample of samples) {
    test(`${sample} in ${name}: ${after[sample]}${late ? ", late" : ""}`, () => {
      const [breaker, token] = make();
      const before = breaker.state;
      assert.equal(breaker.end(token, sample), late);
      assert.equal(breaker.state.phase, after[sample]);
      const counted = late ? "late" : sample;
      assert.equal(breaker.state.counts[counted], before.counts[counted] + 1);
      if (late) {
        assert.deepEqual({ ...breaker.state, counts: 0 }, { ...before, counts: 0 });
        assert.deepEqual(breaker.told, [{ kind: "late", epoch: token.epoch, results: 1 }]);
      }
    });
  }
}

test("time that steps back stands still: a cooldown is neither longer nor shorter for it", () => {
  const breaker = new BreakerDriver();
  breaker.pass(day);
  breaker.trip();
  breaker.pass(-day);
  assert.deepEqual(breaker.ask(), { admitted: false, code: "ERR_CB_OPEN", phase: "open", retryAfterMs: 60_000 });
  assert.equal(breaker.state.at, day);
  breaker.now = day + 60_000;
  assert.equal(breaker.ask().admitted, true);
});

test("a breaker switched off counts everything, refuses nothing and stays as it is", () => {
  const breaker = new BreakerDriver({ enabled: false, failureThreshold: 1, minimumCalls: 2 });
  breaker.run("FFFFFFFFSI");
  assert.deepEqual(breaker.events, []);
  assert.equal(breaker.state.phase, "closed");
  const { success, failure, ignored, not_permitted: refused } = breaker.state.counts;
  assert.deepEqual([success, failure, ignored, refused], [1, 8, 1, 0]);
  breaker.run("FF");
  const view = viewBreaker(breaker.state, 0, breaker.limits);
  assert.equal(view.failure_count, 2);
  assert.deepEqual(view.window, { calls: 11, failures: 10, slow: 0 });
  breaker.act({ kind: "open", reason: "off is off", forMs: null });
  assert.deepEqual(breaker.ask(), { admitted: true, token: { epoch: 0, lease: null } });
});

test("a breaker switched off while open refuses nothing, and its reports count", () => {
  const opened = new BreakerDriver();
  opened.trip();
  const breaker = new BreakerDriver({ enabled: false }, opened.state);
  breaker.run("SF");
  assert.equal(breaker.state.phase, "open");
  assert.equal(breaker.state.counts.success, 1);
  assert.equal(breaker.state.counts.failure, 6);
  assert.deepEqual(breaker.events, []);
});

test("a breaker switched off while half-open or in a ramp stays there: no deadline falls due", () => {
  const [halfOpen] = held();
  const recovered = new BreakerDriver({ failureThreshold: 1, successThreshold: 1 });
  recovered.trip();
  recovered.end(recovered.probe(), "success");
  for (const { state, limits } of [halfOpen, recovered]) {
    const off = new BreakerDriver({ ...limits, enabled: false }, state);
    off.now = state.at + day;
    assert.deepEqual(off.look(), { ...state, at: off.now });
    for (let call = 0; call < 100; call += 1) assert.equal(off.ask().admitted, true);
    assert.deepEqual(off.events, []);
  }
});

const deeds = ["close", "reset"] as const;
for (const kind of deeds) {
  for (const [name, make] of [
    ["closed", closed],
    ["open", open],
    ["half-open", held],
  ] as const) {
    test(`R20 ${kind} closes from ${name}: an epoch on, attempt 0, no ramp, nothing left of the run`, () => {
      const [breaker, token] = make();
      const { epoch, counts, phase } = breaker.state;
      breaker.act({ kind });
      const fresh = freshBreaker(breaker.now, epoch + 1);
      const closes = phase === "closed" ? counts.closes : counts.closes + 1;
      assert.deepEqual(
        { ...breaker.state, counts: 0 },
        { ...fresh, counts: 0 },
        "closed is as good as new but for what was counted",
      );
      if (kind === "reset") assert.deepEqual(breaker.state.counts, fresh.counts);
      else assert.deepEqual({ ...breaker.state.counts, open_ms: 0 }, { ...counts, closes, open_ms: 0 });
      assert.equal(breaker.end(token, "failure"), true, "a result of the old epoch is ignored");
      assert.equal(breaker.state.phase, "closed");
      const told = breaker.events.findLast((event) => event.kind === "transition");
      assert.deepEqual(told, {
        kind: "transition",
        from: phase,
        to: "closed",
        reason: "manual",
        epoch: epoch + 1,
        attempt: 0,
        cooldown_ms: null,
      });
    });
  }
}

test("opened by hand without an end it stays open, whatever succeeds and however long", () => {
  const breaker = new BreakerDriver();
  const token = breaker.take();
  breaker.act({ kind: "open", reason: "maintenance", forMs: null });
  breaker.pass(400 * day);
  assert.equal(breaker.end(token, "success"), true);
  assert.deepEqual(breaker.ask(), { admitted: false, code: "ERR_CB_OPEN", phase: "open", retryAfterMs: null });
  const view = viewBreaker(breaker.state, breaker.now, breaker.limits);
  assert.deepEqual([view.state, view.manual, view.retry_after_seconds], ["OPEN", { reason: "maintenance" }, null]);
});

test("opened by hand with an end it probes at it, as usual; opening again replaces what was asked", () => {
  const breaker = new BreakerDriver();
  breaker.act({ kind: "open", reason: "first", forMs: 500_000 });
  breaker.pass(10_000);
  breaker.act({ kind: "open", reason: "second", forMs: 5000 });
  assert.deepEqual(breaker.told, [
    {
      kind: "transition",
      from: "open",
      to: "open",
      reason: "manual",
      epoch: 2,
      attempt: 0,
      cooldown_ms: 5000,
    },
  ]);
  assert.equal(breaker.state.counts.opens, 1);
  breaker.pass(4999);
  assert.equal(breaker.ask().admitted, false);
  breaker.pass(1);
  assert.deepEqual(breaker.ask(), { admitted: true, token: { epoch: 3, lease: 1 } });
  assert.equal(breaker.state.counts.open_ms, 15_000);
});

test("opening by hand beats a cooldown, and takes the probes of a half-open breaker's epoch", () => {
  const [breaker, token] = held();
  breaker.act({ kind: "open", reason: null, forMs: null });
  assert.deepEqual(
    breaker.told.map(({ kind }) => kind),
    ["lease_ended", "transition"],
  );
  assert.equal(breaker.end(token, "success"), true);
  assert.equal(breaker.state.phase, "open");
});

test("opening by hand keeps the attempt: what probes after it escalates from there", () => {
  const [breaker, token] = held();
  breaker.end(token, "failure");
  breaker.act({ kind: "open", reason: null, forMs: 1000 });
  breaker.end(breaker.probe(), "failure");
  assert.deepEqual([breaker.state.attempt, breaker.cooldown()], [2, 240_000]);
});

test("an act first applies what fell due: the lease that ran out an hour ago is told before it", () => {
  const [breaker] = held();
  breaker.pass(3_600_000);
  const { next, events } = act(breaker.state, { kind: "close" }, breaker.now, breaker.limits);
  assert.deepEqual(
    events.map((event) => (event.kind === "transition" ? `${event.from}>${event.to} ${event.reason}` : event.kind)),
    ["lease_ended", "half_open>open lease_expired", "open>closed manual"],
  );
  assert.equal(next.counts.open_ms, 60_000 + 3_600_000 - 31_000);
});

test("every transition is told once, with its epoch", () => {
  const breaker = new BreakerDriver({ failureThreshold: 1, successThreshold: 1 });
  for (let round = 0; round < 5; round += 1) {
    breaker.trip();
    breaker.end(breaker.probe(), "success");
    breaker.pass(10_000);
  }
  const epochs = breaker.events.flatMap((event) => (event.kind === "transition" ? [event.epoch] : []));
  assert.deepEqual(
    epochs,
    Array.from({ length: 15 }, (_, index) => index + 1),
  );
  const { opens, closes, half_opens: halfOpens } = breaker.state.counts;
  assert.deepEqual([opens, closes, halfOpens], [5, 5, 5]);
});
