import assert from "node:assert/strict";
import { test } from "node:test";
import { createVirtualTime } from "../../scripts/simulation/virtual-time.ts";

test("timers fire at their moment, in order of being due and then of being started", async () => {
  const time = createVirtualTime();
  const seen: [string, number][] = [];
  const note = (name: string) => () => void seen.push([name, time.now()]);
  for (const [name, ms] of [
    ["c", 30],
    ["a", 10],
    ["b", 20],
    ["a2", 10],
    ["now", 0],
  ] as const) {
    time.startTimer(ms, note(name));
  }
  await time.run(25);
  assert.deepEqual(seen, [
    ["now", 0],
    ["a", 10],
    ["a2", 10],
    ["b", 20],
  ]);
  assert.deepEqual([time.now(), time.pending()], [25, 1]);
  await time.run(100);
  assert.deepEqual([seen.at(-1), time.now(), time.pending()], [["c", 30], 100, 0]);
});

test("a stopped timer never fires; promises go on before the next timer", async () => {
  const time = createVirtualTime();
  const seen: number[] = [];
  const stop = time.startTimer(5, () => seen.push(-1));
  stop();
  stop();
  const walk = async (): Promise<void> => {
    for (let step = 0; step < 5; step += 1) {
      await time.sleep(10);
      seen.push(time.now());
    }
  };
  void walk();
  await time.run(1000);
  assert.deepEqual([seen, time.pending()], [[10, 20, 30, 40, 50], 0]);
});

test("a thousand timers in any order fire sorted", async () => {
  const time = createVirtualTime();
  const seen: number[] = [];
  for (let index = 0; index < 1000; index += 1) {
    time.startTimer((index * 7919) % 1009, () => seen.push(time.now()));
  }
  await time.run(2000);
  assert.deepEqual(
    seen,
    [...seen].sort((left, right) => left - right),
  );
  assert.equal(seen.length, 1000);
});
