import assert from "node:assert/strict";
import { test } from "node:test";
import { startSleep } from "../../shared/sleep.ts";

/** A clock moved by hand; its timers fire when told to, early too. */
function handClock() {
  const timers: { ms: number; elapsed: () => void }[] = [];
  let at = 0;
  return {
    timers,
    now: () => at,
    startTimer: (ms: number, elapsed: () => void) => {
      const timer = { ms, elapsed };
      timers.push(timer);
      return () => void timers.splice(timers.indexOf(timer), 1);
    },
    advance: (ms: number) => {
      at += ms;
      for (const timer of timers.splice(0)) timer.elapsed();
    },
  };
}

const ended = async (done: Promise<void>): Promise<boolean> =>
  Promise.race([done.then(() => true), new Promise<boolean>((resolve) => setImmediate(() => resolve(false)))]);

test("a wait ends when its time is over; a timer that fires early is started again for the rest", async () => {
  const clock = handClock();
  const { done } = startSleep(100, clock);
  clock.advance(60);
  assert.deepEqual([await ended(done), clock.timers.map(({ ms }) => ms)], [false, [40]]);
  clock.advance(40);
  assert.equal(await ended(done), true);
});

test("a wait longer than a timer can hold is made of several, and does not end at once", async () => {
  const clock = handClock();
  const { done } = startSleep(2 ** 31 + 352, clock);
  assert.deepEqual(
    clock.timers.map(({ ms }) => ms),
    [2 ** 31 - 1],
  );
  clock.advance(2 ** 31 - 1);
  assert.deepEqual([await ended(done), clock.timers.map(({ ms }) => ms)], [false, [353]]);
  clock.advance(353);
  assert.equal(await ended(done), true);
});

test("a cancelled wait ends at once and leaves no timer", async () => {
  const clock = handClock();
  const { done, cancel } = startSleep(1000, clock);
  cancel();
  assert.deepEqual([await ended(done), clock.timers.length], [true, 0]);
});

for (const ms of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
  test(`a wait of ${ms} ms is none`, async () => {
    const clock = handClock();
    assert.deepEqual([await ended(startSleep(ms, clock).done), clock.timers.length], [true, 0]);
  });
}
