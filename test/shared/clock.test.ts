import assert from "node:assert/strict";
import { test } from "node:test";
import { startClock, tick } from "../../shared/clock.ts";

const day = 86_400_000;
const walks: readonly [string, readonly number[], readonly number[]][] = [
  ["stands while the wall clock stands", [1000, 1000], [0, 0]],
  ["moves with the wall clock", [1001, 1500, 4000], [1, 500, 3000]],
  ["waits out a step back of a day, then counts on from there", [2000, 2000 - day, 2500 - day], [1000, 1000, 1500]],
  ["takes a step forward as time", [1000 + day, 1500 + day], [day, day + 500]],
  ["gains nothing from a clock that rocks", [900, 1000, 900, 1000], [0, 100, 100, 200]],
];

for (const [law, readings, elapsed] of walks) {
  test(`a clock ${law}`, () => {
    let clock = startClock(1000);
    assert.equal(clock.elapsedMs, 0);
    assert.deepEqual(
      readings.map((wallMs) => (clock = tick(clock, wallMs)).elapsedMs),
      elapsed,
    );
  });
}
