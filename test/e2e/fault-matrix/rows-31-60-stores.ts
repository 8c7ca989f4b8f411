import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { AuthorityPort } from "../../../edge/objects/authority-protocol.ts";
import { createVirtualTime } from "../../../scripts/simulation/virtual-time.ts";
import type { BreakerName } from "../../../shared/breaker-state.ts";
import { startAuthorityKit, startIsolateKit } from "../../kit/authority.ts";
import { ask, freshPicture, type Reply } from "../../kit/ask.ts";
import { createCacheStores } from "../../kit/cache-stores.ts";
import { failureBody, liveBody, marked } from "../../kit/edge.ts";
import { secret } from "../../kit/stack.ts";
import { readBreakers, readCounts, tell, tellSource } from "./observe.ts";
import type { Row } from "./row.ts";
import { startNodeEdge, type NodeEdge } from "./rows-31-60-node-edge.ts";
import { silentAuthority, tellAll } from "./rows-31-60-sight.ts";
import { world } from "./rows-31-60-worlds.ts";

const none = { query: { fallback: "none" } };
const never = (): Promise<never> => new Promise(() => undefined);

/** Ways of the object to be of no use. */
const ports: Readonly<Record<string, AuthorityPort>> = {
  down: silentAuthority,
  overloaded: portOf(() => Promise.reject(Object.assign(new Error("overloaded"), { overloaded: true }))),
  slow: portOf(never),
};

function portOf(answer: () => Promise<never>): AuthorityPort {
  return { report: answer, acquire: answer, act: answer, read: answer, bumpCacheEpoch: answer };
}

type Box = { well: boolean; calls: number };

/** An edge over a box that answers at once, and a clock that can be put forward. */
function edgeOver(
  authority: AuthorityPort,
  stores: ReturnType<typeof createCacheStores>,
  settings: Readonly<Record<string, string | number>> = {},
): { edge: NodeEdge; box: Box; wait: (ms: number) => void } {
  const box = { well: true, calls: 0 };
  let aheadMs = 0;
  const edge = startNodeEdge({
    settings: { sidecar_secret: secret, retry_max_attempts: 1, fallback_chain: "cache,default", ...settings },
    now: () => Date.now() + aheadMs,
    objects: { authority, shards: stores.shards, similar: stores.similar },
    fetch: (_, init) => {
      box.calls += 1;
      return Promise.resolve(box.well ? marked(captionOf(init)) : marked(failureBody("ERR_ENC_FORWARD_FAILED"), 503));
    },
  });
  return {
    edge,
    box,
    wait(ms) {
      aheadMs += ms;
    },
  };
}

/** A caption of the very picture that was sent: only such a one is kept. */
function captionOf({ body }: RequestInit): object {
  const bytes = body instanceof Uint8Array ? body : new Uint8Array();
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  return { ...liveBody, image: { ...liveBody.image, sha256 } };
}

const objectDown: Row = {
  id: "F49",
  fault: "object down, overloaded, 5 s slow",
  expected: ["down", "overloaded", "slow"].flatMap((how) => [
    `${how}: 5 x 200 caption, added: at most 50 ms`,
    `${how}, five failures: own copy opens, then 503 ERR_CB_OPEN`,
    `${how}, cooldown over: a probe within 250 ms, 200 caption`,
    `${how}: store errors counted`,
  ]),
  async run() {
    const lines = [];
    for (const [how, port] of Object.entries(ports)) {
      const { edge: own, box, wait } = edgeOver(port, createCacheStores(), { circuit_breaker_success_threshold: 1 });
      using edge = own;
      using alone = startNodeEdge({ fetch: (_, init) => Promise.resolve(marked(captionOf(init))) });
      const timed = async (at: NodeEdge): Promise<{ replies: Reply[]; medianMs: number }> => {
        await at.ask(none);
        const replies = [];
        for (let n = 0; n < 5; n += 1) replies.push(await at.ask(none));
        const times = replies.map(({ elapsedMs }) => elapsedMs).sort((left, right) => left - right);
        return { replies, medianMs: times[2] ?? Infinity };
      };
      const base = await timed(alone);
      const { replies, medianMs } = await timed(edge);
      const added = medianMs - base.medianMs;
      lines.push(`${how}: ${tellAll(replies)}, added: ${added <= 50 ? "at most 50 ms" : `${added} ms`}`);
      box.well = false;
      for (let n = 0; n < 5; n += 1) await edge.ask(none);
      const calls = box.calls;
      const refused = await edge.ask(none);
      const opened = box.calls === calls ? "own copy opens" : "nothing opens";
      lines.push(`${how}, five failures: ${opened}, then ${tell(refused)}`);
      box.well = true;
      // Longer than any cooldown of the first time, and than the rest after a failed call of the object.
      wait(80_000);
      const probe = await edge.ask(none);
      const inTime = probe.elapsedMs <= 250 + 100 ? "a probe within 250 ms" : `a probe after ${probe.elapsedMs} ms`;
      lines.push(`${how}, cooldown over: ${inTime}, ${tell(probe)}`);
      const status = await edge.ask({ method: "GET", path: "/v1/status" });
      const { store_errors: errors } = (status.body as { isolate: { store_errors: Record<string, number> } }).isolate;
      const counted = Object.values(errors).some((count) => count > 0);
      lines.push(`${how}: store errors ${counted ? "counted" : JSON.stringify(errors)}`);
    }
    return lines;
  },
};

/** One trip that two isolates see, and reports that the platform delivers twice. */
const reported: Row = {
  id: "F50",
  fault: "two isolates report the same trip; a report twice",
  expected: ["two isolates: closed > open: run; epoch + 1", "each report twice: closed > open: run; epoch + 1"],
  async run() {
    const lines = [];
    for (const repeatMs of [null, 40]) {
      const time = createVirtualTime();
      const object = startAuthorityKit(time);
      object.delayMs = 20;
      object.repeatMs = repeatMs;
      const isolates = [startIsolateKit(time, object.port), startIsolateKit(time, object.port)];
      for (const { breakers } of isolates) breakers.refresh();
      await time.run(100);
      const { epoch } = object.core().read().reading.breakers.sidecar;
      for (let n = 0; n < 5; n += 1) {
        const admitted = await Promise.all(isolates.map(({ breakers }) => breakers.admit("sidecar")));
        for (const [at, admission] of admitted.entries()) {
          const isolate = isolates[at];
          if (admission.admitted) isolate?.breakers.settle("sidecar", admission.token, "failure", null);
        }
      }
      await time.run(5000);
      const after = object.core().read().reading.breakers.sidecar.epoch;
      const how = repeatMs === null ? "two isolates" : "each report twice";
      lines.push(`${how}: ${object.transitions("sidecar").join(", ")}; epoch + ${after - epoch}`);
    }
    return lines;
  },
};

const shardDown: Row = {
  id: "F51",
  fault: "cache shard down; entry corrupt, expired, bad mac",
  expected: [
    ...["failing", "throwing", "silent"].map((how) => `shard ${how}: live 200 lm_studio, box down: 200 default`),
    ...["corrupt", "bad mac"].map((how) => `entry ${how}: box down 200 default, live 200 lm_studio`),
    "entry expired: box down 200 default",
    "counted: error",
  ],
  async run() {
    const lines = [];
    const settings = {
      fallback_default_value: "no words",
      fallback_cache_ttl: 1,
      fallback_cache_stale_seconds: 100,
      circuit_breaker_enabled: "false",
    };
    const source = (reply: Reply): string => `${reply.status} ${tellSource(reply)}`;
    for (const mood of ["failing", "throwing", "silent"] as const) {
      const stores = createCacheStores();
      const { edge, box } = edgeOver(silentAuthority, stores, settings);
      using open = edge;
      stores.mood.shards = mood;
      const live = await open.ask();
      box.well = false;
      const fallen = await open.ask();
      lines.push(`shard ${mood}: live ${source(live)}, box down: ${source(fallen)}`);
    }
    let errors = 0;
    const changes = {
      corrupt: (value: string): string => value.slice(0, -9),
      "bad mac": (value: string): string =>
        value.replace(/"mac":"(.)/, (_, first) => `"mac":"${first === "0" ? "1" : "0"}`),
    };
    for (const [how, change] of Object.entries(changes)) {
      const stores = createCacheStores();
      const first = edgeOver(silentAuthority, stores, settings);
      using writer = first.edge;
      const image = freshPicture();
      await writer.ask({ image });
      await stored(stores);
      // Another isolate: what the first has checked it still believes for a minute.
      const second = edgeOver(silentAuthority, stores, settings);
      using reader = second.edge;
      stores.tamper(change);
      second.box.well = false;
      const fallen = await reader.ask({ image });
      second.box.well = true;
      const live = await reader.ask({ image });
      lines.push(`entry ${how}: box down ${source(fallen)}, live ${source(live)}`);
      const status = await reader.ask({ method: "GET", path: "/v1/status" });
      errors += (status.body as { isolate: { cache: { error: number } } }).isolate.cache.error;
    }
    const stores = createCacheStores();
    const { edge, box, wait } = edgeOver(silentAuthority, stores, settings);
    using open = edge;
    const image = freshPicture();
    await open.ask({ image });
    await stored(stores);
    wait(102_000);
    box.well = false;
    lines.push(`entry expired: box down ${source(await open.ask({ image }))}`);
    lines.push(`counted: ${errors > 0 ? "error" : errors}`);
    return lines;
  },
};

async function stored(stores: ReturnType<typeof createCacheStores>): Promise<void> {
  const until = performance.now() + 3000;
  while (stores.rows().length === 0) {
    assert.ok(performance.now() < until, "nothing is stored");
    await setImmediate();
  }
}

const { studio } = world;
const { once } = world.edges;

const restarted: Row = {
  id: "F52",
  fault: "object restarted while open; cold isolate",
  expected: [
    "restarted: OPEN, same epoch, rest within 1 s",
    "asked: 503 ERR_CB_OPEN, Retry-After within 1 s",
    "ladder: with an entry cache, without describe",
    "calls of LM Studio while open: 0",
    "cold isolate: 3 calls begun before the first word, then refused",
  ],
  async run() {
    await world.reset();
    const kept = freshPicture();
    assert.equal((await ask(once, { image: kept })).status, 200);
    studio.answer({ kind: "reply", status: 500, body: "{}" });
    for (let n = 0; n < 5; n += 1) await ask(once, none);
    const open = (facts: Awaited<ReturnType<typeof readBreakers>>["breakers"]["sidecar"]): boolean =>
      facts.state === "OPEN";
    let before = (await readBreakers(once)).breakers.lm_studio_api;
    for (const until = performance.now() + 3000; !open(before) && performance.now() < until;) {
      before = (await readBreakers(once)).breakers.lm_studio_api;
    }
    const at = performance.now();
    await once.evict("AUTHORITY", "upstream:main");
    const after = (await readBreakers(once)).breakers.lm_studio_api;
    const rest = (before.retry_after_seconds ?? 0) - (performance.now() - at) / 1000;
    const near = (seconds: number): string => (Math.abs(seconds - rest) <= 1 ? "within 1 s" : `${seconds} of ${rest}`);
    const chats = studio.chats().length;
    const refused = await ask(once, none);
    const withEntry = await ask(once, { image: kept });
    const without = await ask(once);
    const calls = studio.chats().length - chats;
    assert.equal((await readCounts(once)).lm_studio_api["opens"], 1);
    await world.reset();
    await world.settled("once");
    return [
      `restarted: ${after.state}, ${after.epoch === before.epoch ? "same epoch" : `epoch ${after.epoch} of ${before.epoch}`}, rest ${near(after.retry_after_seconds ?? 0)}`,
      `asked: ${tell(refused)}, Retry-After ${near(Number(refused.headers.get("retry-after")))}`,
      `ladder: with an entry ${tellSource(withEntry)}, without ${tellSource(without)}`,
      `calls of LM Studio while open: ${calls}`,
      await coldIsolate(),
    ];
  },
};

/** An isolate that begins while the object is open: what it lets through before it knows. */
async function coldIsolate(): Promise<string> {
  const name: BreakerName = "sidecar";
  const time = createVirtualTime();
  const object = startAuthorityKit(time);
  object.delayMs = 40;
  object.core().act(name, { kind: "open", reason: null, forMs: 60_000 }, "test");
  const { breakers } = startIsolateKit(time, object.port);
  breakers.refresh();
  let begun = 0;
  for (let n = 0; n < 3; n += 1) if ((await breakers.admit(name)).admitted) begun += 1;
  await time.run(41);
  const later = await Promise.all(Array.from({ length: 10 }, () => breakers.admit(name)));
  const refused = later.every(({ admitted }) => !admitted);
  return `cold isolate: ${begun} calls begun before the first word, then ${refused ? "refused" : "let through"}`;
}

/** Rows of what keeps state: the object of the breakers, and the cache. */
export const storeRows: readonly Row[] = [objectDown, reported, shardDown, restarted];
