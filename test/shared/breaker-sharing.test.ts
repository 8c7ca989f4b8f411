import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  addSample,
  adoptSnapshot,
  applyDelta,
  countRefusal,
  emptyDelta,
  mergeDeltas,
  takeSnapshot,
  type BreakerDelta,
} from "../../shared/breaker-sharing.ts";
import { freshBreaker, type Sample } from "../../shared/breaker-state.ts";
import { viewBreaker } from "../../shared/breaker-view.ts";
import { BreakerDriver, frozen } from "../kit/breaker-driver.ts";

type Seen = Sample | "refused";
const kinds: readonly Seen[] = ["success", "failure", "failure", "slow", "ignored", "refused"];
const seen = fc.array(fc.constantFrom(...kinds), { maxLength: 12 });
const letters: Record<string, Sample> = { S: "success", F: "failure", O: "slow", I: "ignored" };

function deltaOf(samples: readonly Seen[], epoch = 0): BreakerDelta {
  return samples.reduce<BreakerDelta>(
    (delta, sample) => frozen(sample === "refused" ? countRefusal(delta) : addSample(delta, sample)),
    frozen(emptyDelta(epoch)),
  );
}
const fromText = (text: string, epoch = 0): BreakerDelta =>
  deltaOf(
    [...text].map((letter): Seen => letters[letter] ?? "refused"),
    epoch,
  );

const take = (breaker: BreakerDriver, delta: BreakerDelta): boolean =>
  breaker.keep(applyDelta(breaker.state, frozen(delta), breaker.now, breaker.limits, () => breaker.u)).late;

/** The runs of failures in what was seen, by counting. */
function runsOf(samples: readonly Seen[]): { head: number; tail: number; longest: number } {
  const text = samples
    .filter((sample) => sample !== "ignored" && sample !== "refused")
    .map((sample) => (sample === "failure" ? "F" : "."))
    .join("");
  return {
    head: /^F*/.exec(text)?.[0].length ?? 0,
    tail: /F*$/.exec(text)?.[0].length ?? 0,
    longest: Math.max(0, ...(text.match(/F+/g) ?? []).map((run) => run.length)),
  };
}

test("a delta knows its runs, and what is no call is not among its calls", () => {
  fc.assert(
    fc.property(seen, (samples) => {
      const { head, tail, longest } = runsOf(samples);
      const of = (kind: Seen): number => samples.filter((sample) => sample === kind).length;
      assert.deepEqual(deltaOf(samples, 7), {
        epoch: 7,
        calls: of("success") + of("failure") + of("slow"),
        failures: of("failure"),
        slow: of("slow"),
        ignored: of("ignored"),
        not_permitted: of("refused"),
        headRun: head,
        tailRun: tail,
        longestRun: longest,
        retryAfterMs: null,
      });
    }),
  );
});

test("merging is associative and loses no run, wherever the calls are cut", () => {
  fc.assert(
    fc.property(seen, seen, seen, (a, b, c) => {
      const [one, two, three] = [deltaOf(a), deltaOf(b), deltaOf(c)];
      const whole = deltaOf([...a, ...b, ...c]);
      assert.deepEqual(mergeDeltas(mergeDeltas(one, two), three), whole);
      assert.deepEqual(mergeDeltas(one, mergeDeltas(two, three)), whole);
    }),
    { numRuns: 500 },
  );
});

test("the longest wait a failure asked for survives merging", () => {
  const delta = (ms: number | null): BreakerDelta => addSample(emptyDelta(0), "failure", ms);
  assert.equal(mergeDeltas(delta(null), delta(null)).retryAfterMs, null);
  assert.equal(mergeDeltas(delta(5000), delta(null)).retryAfterMs, 5000);
  assert.equal(mergeDeltas(delta(5000), delta(9000)).retryAfterMs, 9000);
});

test("of two epochs' deltas the newer is left", () => {
  assert.deepEqual(mergeDeltas(fromText("FF", 3), fromText("S", 4)), fromText("S", 4));
  assert.deepEqual(mergeDeltas(fromText("FF", 4), fromText("S", 3)), fromText("FF", 4));
});

test("deltas open exactly where their calls, one by one, would", () => {
  fc.assert(
    fc.property(fc.array(seen, { maxLength: 8 }), fc.integer({ min: 1, max: 6 }), (parts, failureThreshold) => {
      const limits = { failureThreshold, failureRatio: null, minimumCalls: 100_000 };
      const [single, shared] = [new BreakerDriver(limits), new BreakerDriver(limits)];
      const whole = parts.flat();
      for (const part of parts) {
        for (const sample of part) if (sample !== "refused") single.end({ epoch: 0, lease: null }, sample);
        take(shared, deltaOf(part));
      }
      assert.equal(shared.state.phase, single.state.phase);
      assert.equal(shared.state.phase === "open", runsOf(whole).longest >= failureThreshold);
      if (shared.state.phase === "closed" && single.state.phase === "closed") {
        assert.deepEqual(shared.state.run, single.state.run);
        assert.deepEqual(shared.state.window, single.state.window);
      }
    }),
    { numRuns: 500 },
  );
});

const arrivals: readonly [string, readonly string[], string[]][] = [
  ["five failures in one delta open", ["FFFFF"], ["closed>open run"]],
  ["five over two isolates open", ["FF", "FFF"], ["closed>open run"]],
  ["five between successes of one delta open", ["SFFFFFS"], ["closed>open run"]],
  ["two at a tail and three at a head open", ["SSFF", "FFFSS"], ["closed>open run"]],
  ["four at a tail and none after stay", ["SSFFFF", "SF"], []],
  ["an isolate's success in between ends the run", ["FFFF", "S", "FFFF"], []],
  ["a delta without calls touches no run", ["FFFF", "I.I", "F"], ["closed>open run"]],
  ["half of thirty failed: the ratio opens", ["FS".repeat(15)], ["closed>open ratio"]],
  ["half of twenty-nine does not", ["FS".repeat(14), "F"], []],
];

for (const [law, deltas, moves] of arrivals) {
  test(`in order of arrival ${law}`, () => {
    const breaker = new BreakerDriver();
    for (const delta of deltas) take(breaker, fromText(delta));
    assert.deepEqual(breaker.moves(), moves);
  });
}

test("a run inside a noisy delta is held to its noise", () => {
  const breaker = new BreakerDriver({ failureRatio: null });
  take(breaker, fromText(`${"FSSSS".repeat(10)}FFFFFFFSS`));
  assert.deepEqual(breaker.moves(), []);
  take(breaker, fromText(`SSSS${"F".repeat(20)}`));
  assert.deepEqual(breaker.moves(), ["closed>open run"]);
});

test("a run at a delta's end needs what its calls before it make it need", () => {
  const [single, shared] = [new BreakerDriver({ failureRatio: null }), new BreakerDriver({ failureRatio: null })];
  const calls = `${"FSSSS".repeat(8)}FF`;
  single.run(calls);
  take(shared, fromText(calls));
  assert.deepEqual(shared.state, single.state);
  assert.equal(shared.state.phase === "closed" && shared.state.run.need, 12);
});

test("two isolates that saw the same outage open the breaker once; the second is late as a whole", () => {
  const breaker = new BreakerDriver();
  assert.equal(take(breaker, fromText("FFFFF")), false);
  const opened = breaker.state;
  breaker.pass(100);
  assert.equal(take(breaker, fromText("FFFFFFI")), true);
  assert.deepEqual(breaker.told, [{ kind: "late", epoch: 0, results: 7 }]);
  assert.deepEqual(breaker.moves(), ["closed>open run"]);
  assert.deepEqual({ ...breaker.state, counts: 0 }, { ...opened, at: 100, counts: 0 });
  assert.equal(breaker.state.counts.late, 7);
  assert.equal(breaker.state.counts.failure, 5);
});

test("an older epoch's failures do not open what has closed again, and its refusals are still counted", () => {
  const breaker = new BreakerDriver({ rampMs: 0, successThreshold: 1 });
  breaker.trip();
  breaker.end(breaker.probe(), "success");
  assert.equal(take(breaker, fromText("FFFFFFFF..", 1)), true);
  assert.equal(breaker.state.phase, "closed");
  assert.equal(breaker.state.counts.not_permitted, 2);
});

test("refusals alone are neither late nor an event", () => {
  const breaker = new BreakerDriver();
  breaker.trip();
  assert.equal(take(breaker, fromText("...", 0)), false);
  assert.deepEqual(breaker.told, []);
  assert.equal(breaker.state.counts.not_permitted, 3);
});

test("calls without a lease neither close nor open a half-open breaker", () => {
  for (const text of ["SSSSSS", "FFFFFFF"]) {
    const breaker = new BreakerDriver();
    breaker.trip();
    breaker.probe();
    assert.equal(take(breaker, fromText(text, 2)), true);
    assert.equal(breaker.state.phase, "half_open");
  }
});

test("a copy that went its own way is counted, and follows again", () => {
  const breaker = new BreakerDriver();
  assert.equal(take(breaker, fromText("..", 3)), false);
  assert.equal(breaker.state.epoch, 0, "refusals alone do not carry an epoch over");
  assert.equal(take(breaker, fromText("SFFF", 3)), false);
  assert.equal(breaker.state.epoch, 3);
  const own = freshBreaker(0, 3);
  assert.notEqual(adoptSnapshot(own, takeSnapshot(breaker.state, 0, 1), 0), own);
});

test("the wait a delta's failures asked for is its cooldown's floor", () => {
  const breaker = new BreakerDriver();
  take(breaker, mergeDeltas(fromText("FFFF"), addSample(emptyDelta(0), "failure", 100_000)));
  assert.equal(breaker.cooldown(), 100_000);
});

test("a slow answer in a delta is a good one while the slow rule is off", () => {
  const off = new BreakerDriver({ minimumCalls: 4 });
  take(off, fromText("OOOO"));
  assert.deepEqual(off.moves(), []);
  assert.deepEqual([off.state.counts.success, off.state.counts.slow], [4, 0]);
  const on = new BreakerDriver({ minimumCalls: 4, slowCallMs: 1 });
  take(on, fromText("OOOO"));
  assert.deepEqual(on.moves(), ["closed>open slow"]);
});

test("switched off, deltas are counted and change no phase", () => {
  const breaker = new BreakerDriver({ enabled: false });
  take(breaker, fromText("FFFFFFFFFFI."));
  assert.deepEqual(breaker.moves(), []);
  const { failure, ignored, not_permitted: refused } = breaker.state.counts;
  assert.deepEqual([failure, ignored, refused], [10, 1, 1]);
});

test("a snapshot has no window, and its times are ms from now on", () => {
  const breaker = new BreakerDriver();
  breaker.pass(5000);
  breaker.run("SFF");
  breaker.pass(300);
  const closed = takeSnapshot(breaker.state, breaker.now, 4);
  assert.ok(!("window" in closed));
  assert.equal(closed.phase === "closed" && closed.run.length, 2);
  assert.equal(closed.share, 4);
  breaker.run("FFF");
  breaker.pass(20_000);
  const open = takeSnapshot(breaker.state, breaker.now, 4);
  assert.equal(open.phase === "open" && open.until, 40_000);
  breaker.pass(40_000);
  breaker.take();
  breaker.pass(1000);
  const probing = takeSnapshot(breaker.state, breaker.now, 4);
  assert.deepEqual(probing.phase === "half_open" && probing.leases, [{ id: 1, expires: 30_000 }]);
  assert.deepEqual(JSON.parse(JSON.stringify(probing)), probing);
});

test("an isolate takes a snapshot over, its deadlines on its own clock, unless its own epoch is newer", () => {
  const truth = new BreakerDriver();
  truth.pass(1_000_000);
  truth.trip();
  truth.pass(20_000);
  const snapshot = frozen(takeSnapshot(truth.state, truth.now, 2));
  const cold = adoptSnapshot(frozen(freshBreaker(0)), snapshot, 700);
  assert.equal(cold.phase === "open" && cold.until, 40_700);
  const isolate = new BreakerDriver({}, cold);
  isolate.now = 40_699;
  assert.equal(isolate.ask().admitted, false);
  isolate.pass(1);
  assert.equal(isolate.ask().admitted, true);
  assert.equal(isolate.state.epoch, 2);
  const ahead = isolate.state;
  assert.equal(adoptSnapshot(ahead, snapshot, 41_000), ahead);
  const level = { ...ahead, epoch: 1 };
  assert.equal(adoptSnapshot(level, snapshot, 41_000).phase, "open", "of its own epoch the snapshot is the truth");
});

test("an isolate goes on with the run of all, and its own window, while nothing changed", () => {
  const truth = new BreakerDriver();
  truth.pass(500_000);
  take(truth, fromText("SFFFF"));
  const isolate = new BreakerDriver();
  isolate.run("SSS");
  isolate.pass(100_000);
  isolate.state = adoptSnapshot(isolate.state, takeSnapshot(truth.state, truth.now, 1), isolate.now);
  assert.equal(viewBreaker(isolate.state, 0, isolate.limits).failure_count, 4);
  assert.equal(isolate.state.phase === "closed" && isolate.state.window.calls, 3);
  isolate.run("F");
  assert.deepEqual(isolate.moves(), ["closed>open run"], "the fifth in order of arrival, as far as it was told");
});

test("a ramp is shared out: an isolate lets its part through, however often it is told", () => {
  const truth = new BreakerDriver({ successThreshold: 1 });
  truth.trip();
  truth.end(truth.probe(), "success");
  const isolate = new BreakerDriver();
  let admitted = 0;
  for (let call = 0; call < 100; call += 1) {
    isolate.state = adoptSnapshot(isolate.state, takeSnapshot(truth.state, truth.now + call, 3), isolate.now);
    if (isolate.ask().admitted) admitted += 1;
    isolate.pass(1);
  }
  assert.equal(admitted, 1);
  isolate.now = 1000;
  for (let call = 0; call < 100; call += 1) if (isolate.ask().admitted) admitted += 1;
  assert.equal(admitted, 3);
  const told = takeSnapshot(truth.state, truth.now, 0);
  assert.equal(told.share, 1);
});
