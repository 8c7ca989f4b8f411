import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ask } from "../kit/ask.ts";
import { startEdgeWorld } from "../kit/whole.ts";
import { within } from "../kit/within.ts";

const world = await startEdgeWorld({ settleMs: 1000 });
after(() => world[Symbol.asyncDispose]());
const { once, thrice } = world.edges;

test("both edges stand before one sidecar, behind both proxies, and leave nothing behind", async () => {
  const replies = [await ask(once), await ask(thrice)];
  assert.deepEqual(
    replies.map(({ status }) => status),
    [200, 200],
  );
  assert.deepEqual([world.p1.counts().exchanges, world.studio.chats().length], [2, 2]);
  await world.settled();
});

test("nothing is settled while a chat is under way", async () => {
  world.studio.enqueue({ kind: "stream", pauses: [{ at: "head", gate: "held" }] });
  const asking = ask(once);
  await within(5000, () => "no chat has come to LM Studio", world.studio.gates("held").arrived());
  await assert.rejects(world.settled(), /LM Studio has .*"working":1/);
  world.studio.gates("held").open();
  assert.equal((await asking).status, 200);
  await world.settled();
});

test("nothing is settled while the box does not answer; reset heals it", async () => {
  await world.p1.set({ kind: "refuse" });
  await assert.rejects(world.settled(), /once does not answer a healthy request: .*ERR_CONN_UNAVAILABLE/);
  await world.reset();
  await world.settled();
});

test("the logs of all halves are at hand", async () => {
  await ask(once, { headers: { "x-request-id": "world-test-request-1" } });
  assert.match(await once.logged("world-test-request-1"), /"route":"\/v1\/captions","status":200/);
  assert.match(world.sidecar.log(), /world-test-request-1/);
});
