import assert from "node:assert/strict";
import { test } from "node:test";
import { startDeadline } from "../../edge/deadline.ts";

/** A wall clock and one timer, both moved by hand. */
function handClock() {
  const clock = { now: 1_000_000, ring: (): void => undefined };
  const deps = {
    now: () => clock.now,
    startTimer: (_: number, elapsed: () => void) => {
      clock.ring = elapsed;
      return () => undefined;
    },
  };
  return { clock, deps };
}

test("what is left shrinks as time passes, and is never negative", () => {
  const { clock, deps } = handClock();
  const { remainingMs } = startDeadline(deps, clock.now, 500);
  const seen = [0, 200, 499, 500, 9999].map((ms) => {
    clock.now = 1_000_000 + ms;
    return remainingMs();
  });
  assert.deepEqual(seen, [500, 300, 1, 0, 0]);
});

test("a clock that steps back gives no time back: what has rung is over", () => {
  const { clock, deps } = handClock();
  const deadline = startDeadline(deps, clock.now, 500);
  clock.ring();
  clock.now -= 86_400_000;
  assert.deepEqual([deadline.signal.aborted, deadline.remainingMs()], [true, 0]);
});
