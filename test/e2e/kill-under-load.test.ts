import assert from "node:assert/strict";
import { test } from "node:test";
import { breakerNames, type BreakerName } from "../../shared/breaker-state.ts";
import { captionSchema } from "../../shared/wire.ts";
import { ask, freshPicture, type Reply } from "../kit/ask.ts";
import { startEdgeWorld, type World, type WorldEdge } from "../kit/whole.ts";
import { within } from "../kit/within.ts";
import { errorOf, poll, readBreakers, type BreakerFacts } from "./fault-matrix/observe.ts";

const timeoutSeconds = 6;
/** No answer may be later than its deadline and this, in ms. */
const boundMs = timeoutSeconds * 1000 + 300;
const settings = {
  timeout_seconds: timeoutSeconds,
  timeout_connect_seconds: 2,
  timeout_first_token_seconds: 4,
  timeout_idle_seconds: 4,
  retry_initial_delay: 0.1,
  circuit_breaker_cooldown_seconds: 60,
};
/** Both are asked at once: half of the load with retries, half without. */
const edges = { once: { retry_max_attempts: 1 }, thrice: { retry_max_attempts: 3 } } as const;
type LoadedWorld = World<keyof typeof edges>;

type Load = { ids: string[]; replies: Promise<Reply[]>; answered: () => number };

/** Fifty requests at once, each with a picture and an id of its own; each edge has half of them. */
function startLoad(world: LoadedWorld, name: string): Load {
  let answered = 0;
  const ids = Array.from({ length: 50 }, (_, n) => `${name}-${n}`);
  const asking = ids.map(async (id, n) => {
    const edge = n % 2 === 0 ? world.edges.once : world.edges.thrice;
    const reply = await ask(edge, { image: freshPicture(), headers: { "x-request-id": id } });
    answered += 1;
    return reply;
  });
  const replies = within(boundMs, () => `${50 - answered} of ${name} hang`, Promise.all(asking));
  return { ids, replies, answered: () => answered };
}

/** Asserts that each request had one answer of its own kind, in time, and that its edge has written one line of it. */
async function checkAnswers(world: LoadedWorld, { ids, replies }: Load): Promise<Map<string, number>> {
  const kinds = new Map<string, number>();
  for (const [n, reply] of (await replies).entries()) {
    const id = ids[n] ?? "";
    assert.equal(reply.headers.get("x-request-id"), id);
    assert.ok(reply.elapsedMs <= boundMs, `${id} was answered after ${reply.elapsedMs} ms`);
    const caption = captionSchema.safeParse(reply.body);
    const kind = caption.success ? caption.data.source : errorOf(reply)?.code;
    assert.ok(kind !== undefined, `${id} has no typed answer: ${reply.status} ${reply.text}`);
    if (caption.success) assert.equal(caption.data.degraded, caption.data.source !== "lm_studio");
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    const edge: WorldEdge = n % 2 === 0 ? world.edges.once : world.edges.thrice;
    await edge.logged(`"request_id":"${id}"`);
    const lines = (): string[] =>
      edge.lines.filter((line) => line.includes(`"message":"request"`) && line.includes(`"request_id":"${id}"`));
    const seen = await poll(
      async () => lines().length,
      (count) => count > 0,
    );
    assert.equal(seen, 1, `${id} was answered ${seen} times`);
  }
  return kinds;
}

/** Ended calls of a breaker, each counted once whatever it said. */
const ended = ({ counts }: BreakerFacts): number =>
  ["success", "failure", "slow", "ignored", "late"].reduce((sum, kind) => sum + (counts[kind] ?? 0), 0);

/** Calls that an edge has made of the box, as its access lines tell. */
function callsOf(edge: WorldEdge): number {
  return edge.lines
    .filter((line) => line.includes('"message":"request"') && line.includes('"route":"/v1/captions"'))
    .reduce((sum, line) => sum + Number(/"attempts":(\d+)/.exec(line)?.[1] ?? 0), 0);
}

/** The counters of LM Studio's breaker, which is asked by captions alone, once they add up to the calls made. */
async function checkSums(edge: WorldEdge, calls: number): Promise<Record<BreakerName, BreakerFacts>> {
  const read = async (): Promise<Record<BreakerName, BreakerFacts>> => (await readBreakers(edge)).breakers;
  const facts = await poll(read, ({ lm_studio_api: lmStudio }) => ended(lmStudio) === calls);
  assert.equal(ended(facts.lm_studio_api), calls, JSON.stringify(facts));
  for (const name of breakerNames) assert.equal(facts[name].leases, 0);
  return facts;
}

test("the sidecar killed under fifty requests: each is answered once and in time, and afterwards all goes on", async () => {
  await using world = await startEdgeWorld({ sidecar: "outside", settings, edges, p1: {} });
  const { studio, sidecar } = world;
  const gate = studio.gates("load");
  studio.answer({ kind: "stream", pauses: [{ at: "head", gate: gate.name }] });
  const load = startLoad(world, "killed");
  // Four captions get through, the others are in the middle of it: at LM Studio, in line, or on their way.
  await gate.arrived(4);
  gate.step(4);
  await gate.arrived(8);
  const pid = sidecar.pid();
  assert.ok(pid !== undefined);
  process.kill(pid, "SIGKILL");
  gate.open();
  const kinds = await checkAnswers(world, load);
  assert.ok((kinds.get("lm_studio") ?? 0) >= 4 && kinds.size >= 2, JSON.stringify([...kinds]));
  await sidecar.noticed("the sidecar is back");
  for (const edge of [world.edges.once, world.edges.thrice]) {
    const { sidecar: box, lm_studio_api: lmStudio } = await checkSums(edge, callsOf(edge));
    // Twenty calls broken off: far more than the five in a row that open.
    assert.deepEqual([edge.name, box.state, lmStudio.state], [edge.name, "OPEN", "CLOSED"]);
    assert.deepEqual([box.counts["opens"], lmStudio.counts["failure"]], [1, 0]);
    const refused = await ask(edge, { query: { fallback: "none" } });
    assert.equal(errorOf(refused)?.code, "ERR_CB_OPEN");
  }
  await world.reset();
  await world.settled();
  for (const edge of [world.edges.once, world.edges.thrice]) {
    const { breakers } = await readBreakers(edge);
    assert.deepEqual([breakers.sidecar.state, breakers.lm_studio_api.state], ["CLOSED", "CLOSED"]);
  }
});

test("the breakers' object ended under fifty requests: closed it stays closed, open it stays open with its rest", async () => {
  await using world = await startEdgeWorld({ settings, edges });
  const { studio } = world;
  const both = [world.edges.once, world.edges.thrice];
  const evict = async (): Promise<void> => {
    await Promise.all(both.map((edge) => edge.evict("AUTHORITY", "upstream:main")));
  };

  const gate = studio.gates("load");
  studio.answer({ kind: "stream", pauses: [{ at: "head", gate: gate.name }] });
  const closed = startLoad(world, "closed");
  await gate.arrived(4);
  gate.step(4);
  await gate.arrived(8);
  await evict();
  gate.open();
  const kinds = await checkAnswers(world, closed);
  assert.deepEqual([...kinds], [["lm_studio", 50]]);
  for (const edge of both) {
    const { breakers } = await readBreakers(edge);
    assert.deepEqual([breakers.sidecar.state, breakers.lm_studio_api.state], ["CLOSED", "CLOSED"]);
  }

  await world.reset();
  studio.answer({ kind: "reply", status: 500, body: "{}" });
  for (const edge of both) for (let n = 0; n < 5; n += 1) await ask(edge, { query: { fallback: "none" } });
  const isOpen = async (edge: WorldEdge): Promise<BreakerFacts> =>
    poll(
      async () => (await readBreakers(edge)).breakers.lm_studio_api,
      ({ state }) => state === "OPEN",
    );
  const before = await Promise.all(both.map((edge) => isOpen(edge)));
  const at = performance.now();
  const chats = studio.chats().length;
  const open = startLoad(world, "open");
  // In the middle of the load: some have their answer, the others have not.
  await poll(
    async () => new Promise<number>((resolve) => setImmediate(() => resolve(open.answered()))),
    (count) => count > 0,
  );
  assert.ok(open.answered() < 50, "the load was over before the object ended");
  await evict();
  const fallen = await checkAnswers(world, open);
  assert.deepEqual([...fallen], [["describe", 50]]);
  assert.equal(studio.chats().length, chats);
  for (const [n, edge] of both.entries()) {
    const { lm_studio_api: after } = (await readBreakers(edge)).breakers;
    const was = before[n];
    assert.ok(was !== undefined);
    const rest = (was.retry_after_seconds ?? 0) - (performance.now() - at) / 1000;
    assert.deepEqual([after.state, after.epoch, after.attempt], ["OPEN", was.epoch, was.attempt]);
    const left = after.retry_after_seconds ?? Infinity;
    assert.ok(Math.abs(left - rest) <= 1, `${edge.name}: ${left} s of ${rest} s are left`);
  }
  await world.reset();
  await world.settled();
});
