import assert from "node:assert/strict";
import { test } from "node:test";
import { createPixelBudget } from "../../sidecar/pixel-budget.ts";

const never = new AbortController().signal;

test("what fits starts at once, what does not waits its turn", async () => {
  const budget = createPixelBudget(10);
  const releaseFirst = await budget.take(6, never);
  const started: string[] = [];
  const second = budget.take(6, never).then((release) => {
    started.push("second");
    return release;
  });
  const third = budget.take(4, never).then((release) => {
    started.push("third");
    return release;
  });
  assert.deepEqual([budget.inWork(), started], [6, []]);
  releaseFirst();
  const releases = await Promise.all([second, third]);
  assert.deepEqual([budget.inWork(), started], [10, ["second", "third"]]);
  for (const release of releases) release();
  assert.equal(budget.inWork(), 0);
});

test("one heavier than the limit runs alone", async () => {
  const budget = createPixelBudget(10);
  const release = await budget.take(25, never);
  assert.equal(budget.inWork(), 25);
  release();
});

test("a waiter who leaves lets the next one in, and a double release counts once", async () => {
  const budget = createPixelBudget(10);
  const release = await budget.take(8, never);
  const leave = new AbortController();
  const heavy = budget.take(9, leave.signal);
  const light = budget.take(2, never);
  leave.abort(new Error("left"));
  await assert.rejects(heavy, /left/);
  const releaseLight = await light;
  release();
  release();
  assert.equal(budget.inWork(), 2);
  releaseLight();
});

test("who has left before does not get in", async () => {
  await assert.rejects(createPixelBudget(10).take(1, AbortSignal.abort(new Error("gone"))), /gone/);
});
