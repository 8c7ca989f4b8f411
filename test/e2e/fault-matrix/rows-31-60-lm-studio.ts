import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once as onceEvent } from "node:events";
import { breakerNames } from "../../../shared/breaker-state.ts";
import { ask, freshPicture } from "../../kit/ask.ts";
import { CATALOGS } from "../../kit/lm-studio/catalog.ts";
import type { Script } from "../../kit/lm-studio/modes.ts";
import { startEdgeWorld } from "../../kit/whole.ts";
import {
  callsOf,
  closeBreakers,
  poll,
  quickSettings,
  readBreakers,
  readCounts,
  standard,
  tell,
  tellCalls,
  tellSource,
} from "./observe.ts";
import type { Row } from "./row.ts";
import { metricOf, tellSamples, untilTrue } from "./rows-31-60-sight.ts";
import { ahead, forgetListing, keepWorld, world } from "./rows-31-60-worlds.ts";

const { studio, p2 } = world;
const { once, thrice } = world.edges;

/** A failure and a success that come when their breaker is in another epoch already. */
const older: Row = {
  id: "F31",
  fault: "failure or success from an older epoch",
  expected: [
    "answers: 200 caption, 503 ERR_API_OVERLOAD",
    "late results: sidecar 2, lm_studio_api 2",
    "state but for the late results: identical",
  ],
  async run() {
    await world.reset();
    const gate = studio.gates("older epoch");
    const reply = { kind: "reply", status: 500, body: "{}", pauses: [{ at: "status", gate: gate.name }] } as const;
    studio.enqueue({ kind: "stream", pauses: [{ at: "status", gate: gate.name }] });
    const good = ask(once, { query: { fallback: "none" } });
    await gate.arrived(1);
    studio.enqueue(reply);
    const bad = ask(once, { query: { fallback: "none" } });
    await gate.arrived(2);
    await closeBreakers(once);
    const { breakers } = await readBreakers(once);
    gate.open();
    const answers = `answers: ${tell(await good)}, ${tell(await bad)}`;
    // Reset has emptied the counters.
    const counted = await poll(
      () => readCounts(once),
      (counts) => breakerNames.every((name) => counts[name]["late"] === 2),
    );
    const late = `late results: ${breakerNames.map((name) => `${name} ${counted[name]["late"]}`).join(", ")}`;
    const after = (await readBreakers(once)).breakers;
    const bare = (facts: typeof breakers): string =>
      JSON.stringify([facts.sidecar, facts.lm_studio_api].map(({ counts, ...rest }) => [rest, { ...counts, late: 0 }]));
    await world.reset();
    await world.settled("once");
    return [
      answers,
      late,
      `state but for the late results: ${bare(breakers) === bare(after) ? "identical" : `${bare(breakers)} ${bare(after)}`}`,
    ];
  },
};

/** The configured model is being loaded: the caller that began it apart, nobody's wait is LM Studio's failure. */
const loading: Row = {
  id: "F32",
  fault: "model loading 40 s",
  expected: [
    "the one that began the load: 503 ERR_API_OVERLOAD",
    "while it loads: 503 ERR_API_OVERLOAD, Retry-After between 15 and 20",
    "samples: sidecar 10 success, lm_studio_api 10 ignored",
    "three attempts: 503 ERR_API_OVERLOAD after 1 call",
    "ladder: with an entry cache, without describe",
    "load calls: 1; lm_studio_api CLOSED",
    "loaded: 200 caption",
  ],
  async run() {
    await world.reset();
    const kept = freshPicture();
    assert.equal((await ask(once, { image: kept })).status, 200);
    const loads = studio.counts().loads;
    studio.have(CATALOGS.nothingLoaded);
    studio.loadBy({ kind: "load", gate: "loading" });
    forgetListing();
    const bare = { query: { fallback: "none" } };
    const first = await ask(once, bare);
    await closeBreakers(once);
    const before = await readCounts(once);
    const replies = [];
    for (let n = 0; n < 10; n += 1) replies.push(await ask(once, bare));
    const waits = replies.map((reply) => Number(reply.headers.get("retry-after")));
    const fair = waits.every((seconds) => seconds >= 15 && seconds <= 20);
    const told = new Set(replies.map((reply) => tell(reply)));
    const samples = await tellSamples(once, before, { sidecar: "10 success", lm_studio_api: "10 ignored" });
    const repeated = await ask(thrice, bare);
    const withEntry = await ask(once, { image: kept });
    const without = await ask(once);
    const { breakers } = await readBreakers(once);
    const begun = studio.counts().loads - loads;
    studio.gates("loading").open();
    const loaded = await poll(
      () => ask(once, bare),
      ({ status }) => status === 200,
    );
    studio.gates("loading").shut();
    await world.reset();
    forgetListing();
    await world.settled("once", "thrice");
    return [
      `the one that began the load: ${tell(first)}`,
      `while it loads: ${[...told].join(" or ")}, Retry-After ${fair ? "between 15 and 20" : waits.join(" ")}`,
      samples,
      `three attempts: ${tellCalls(repeated)}`,
      `ladder: with an entry ${tellSource(withEntry)}, without ${tellSource(without)}`,
      `load calls: ${begun}; lm_studio_api ${breakers.lm_studio_api.state}`,
      `loaded: ${tell(loaded)}`,
    ];
  },
};

/** LM Studio takes the call and never says a word: its permit stays out. In a world of its own, which stays stuck. */
async function silent(): Promise<Row> {
  const stuck = await keepWorld(startEdgeWorld({ settings: { ...quickSettings, timeout_first_token_seconds: 0.4 } }));
  const gate = stuck.studio.gates("silence");
  const permits = (state: string): Promise<number> =>
    metricOf(stuck.sidecar, `pixel_permits{stage="lm_studio",state="${state}"}`);
  return standard(stuck, {
    id: "F33",
    fault: "accepts, never a chunk",
    inject: () => stuck.studio.answer({ kind: "stream", pauses: [{ at: "status", gate: gate.name }] }),
    async release() {
      gate.open();
      await stuck.studio.until(() => stuck.studio.counts().working === 0);
      gate.shut();
      await untilTrue("a permit is out", async () => (await permits("draining")) === 0);
    },
    expect: {
      status: 504,
      code: "ERR_TIMEOUT_RESPONSE",
      samples: { sidecar: "success", lm_studio_api: "failure" },
      retry: "no",
      ladder: "C D",
    },
    more: {
      expected: [
        "permit: draining, then lost",
        "readyz: 503, lm_studio ERR_TIMEOUT_RESPONSE",
        "the other permits: 200 caption",
        "the lost one: back by a call that succeeds",
      ],
      async run() {
        const at = stuck.edges.once;
        await ask(at, { query: { fallback: "none" } });
        const draining = await permits("draining");
        await untilTrue("no permit is lost", async () => (await permits("lost")) === 1);
        const ready = await ask(at, { method: "GET", path: "/readyz" });
        const { dependencies } = ready.body as { dependencies: { lm_studio: { code: string } } };
        gate.open();
        stuck.studio.answer({ kind: "stream" });
        const next = await ask(at, { query: { fallback: "none" } });
        await untilTrue("the permit stays lost", async () => (await permits("lost")) === 0, 15_000);
        return [
          `permit: ${draining === 1 ? "draining" : draining}, then lost`,
          `readyz: ${ready.status}, lm_studio ${dependencies.lm_studio.code}`,
          `the other permits: ${tell(next)}`,
          "the lost one: back by a call that succeeds",
        ];
      },
    },
  });
}

/** LM Studio as a process that dies in the middle of its answer. */
const killed: Row = {
  id: "F34",
  fault: "LM Studio killed mid-stream",
  expected: [
    "once: 502 ERR_API_INVALID_RESPONSE",
    "samples: sidecar success, lm_studio_api failure",
    "three attempts, it stays dead: 503 ERR_RETRY_EXHAUSTED after 3 calls",
    "ladder: with an entry cache, without describe",
    "after its restart: 200 caption",
  ],
  async run() {
    await world.reset();
    const kept = freshPicture();
    const empty = await readCounts(once);
    assert.equal((await ask(once, { image: kept })).status, 200);
    await tellSamples(once, empty, { sidecar: "success", lm_studio_api: "success" });
    const bare = { query: { fallback: "none" } };
    const before = await readCounts(once);
    const single = await dying(() => ask(once, bare));
    const samples = await tellSamples(once, before, { sidecar: "success", lm_studio_api: "failure" });
    const several = await dying(() => ask(thrice, bare));
    const withEntry = await dying(() => ask(once, { image: kept }));
    const without = await dying(() => ask(once));
    p2.aim(studio.port);
    await closeBreakers(once);
    const next = await ask(once, bare);
    await world.reset();
    await world.settled("once", "thrice");
    return [
      `once: ${tell(single)}`,
      samples,
      `three attempts, it stays dead: ${tell(several)} after ${callsOf(several)} calls`,
      `ladder: with an entry ${tellSource(withEntry)}, without ${tellSource(without)}`,
      `after its restart: ${tell(next)}`,
    ];
  },
};

/** What a question gets whose LM Studio is killed after its first token. */
async function dying<T>(question: () => Promise<T>): Promise<T> {
  const script: Script = { chat: { kind: "stream", pauses: [{ at: { tokens: 1 }, gate: "never" }] } };
  const file = new URL("../../kit/lm-studio-process.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, [file, JSON.stringify(script)], { stdio: ["pipe", "pipe", "inherit"] });
  const [said] = (await onceEvent(child.stdout, "data")) as [Buffer];
  p2.aim((JSON.parse(said.toString()) as { port: number }).port);
  const first = p2.connections.length;
  const asking = question();
  await p2.until(() => p2.connections.slice(first).some(({ down }) => down > 200));
  child.kill("SIGKILL");
  await onceEvent(child, "exit");
  return asking;
}

/** Rows of LM Studio's own faults, and of results that come too late. */
export async function lmStudioRows(): Promise<Row[]> {
  return [older, loading, ahead(await silent()), killed];
}
