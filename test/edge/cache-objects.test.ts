import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { ShardRow, SimilarEntry } from "../../edge/cache-ports.ts";
import { startSmallWorker, type SmallWorker } from "../kit/small-worker.ts";

/**
 * The real objects in workerd, each with two more doors: its tables, and its alarm. A call comes in as JSON
 * `{ binding, name, method, args }`; `/search` times the search among made vectors; `/cache` is one isolate's cache
 * over the objects, made anew for each call `{ method, args }`.
 */
const worker = `
  import { CacheShard as Shard } from "./edge/objects/cache-shard.ts";
  import { SimilarIndex as Index } from "./edge/objects/similar-index.ts";
  import { openCacheShards, openSimilarIndexes } from "./edge/cache-ports.ts";
  import { createCaptionCache } from "./edge/caption-cache.ts";
  import { platform } from "./edge/platform.ts";
  import { findNearest, unitVector } from "./shared/vector-search.ts";
  const open = (Base) => class extends Base {
    sql(query, ...args) { return this.ctx.storage.sql.exec(query, ...args).toArray(); }
    nextAlarm() { return this.ctx.storage.getAlarm(); }
    async ring() { await this.ctx.storage.deleteAlarm(); await this.alarm(); return this.ctx.storage.getAlarm(); }
  };
  export const CacheShard = open(Shard);
  export const SimilarIndex = open(Index);
  function search(dimensions) {
    const count = 10_000;
    let state = 1;
    const vectors = new Float32Array(count * dimensions).map(() => {
      state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
      return state / 2 ** 31;
    });
    for (let at = 0; at < vectors.length; at += dimensions) vectors.set(unitVector(vectors.subarray(at, at + dimensions)), at);
    const query = vectors.slice(7777 * dimensions, 7778 * dimensions);
    const rounds = 20;
    const times = Array.from({ length: 10 }, () => {
      const start = performance.now();
      let found;
      for (let round = 0; round < rounds; round += 1) found = findNearest({ vectors, count, query, floor: 0, accepts: () => true });
      return { ms: (performance.now() - start) / rounds, index: found.index };
    }).sort((left, right) => left.ms - right.ms);
    return { dimensions, index: times[0].index, best: times[0].ms, median: times[5].ms, worst: times[9].ms };
  }
  export default {
    async fetch(request, env) {
      if (new URL(request.url).pathname === "/search") return Response.json([search(128), search(512)]);
      const { binding, name, method, args } = await request.json();
      if (new URL(request.url).pathname === "/cache") {
        const cache = createCaptionCache({
          ...platform,
          config: {
            fallback_cache_enabled: true, fallback_cache_ttl: 60, fallback_cache_stale_seconds: 600,
            fallback_cache_max_size: 100, fallback_similarity_floor: null,
          },
          shards: openCacheShards(env.CACHE),
          similar: openSimilarIndexes(env.SIMILAR),
          secret: "a secret of at least 32 characters.",
          log: () => undefined,
        });
        return Response.json((await cache[method](...args)) ?? null);
      }
      try {
        return Response.json((await env[binding].getByName(name)[method](...args)) ?? null);
      } catch (error) {
        return Response.json({ threw: String(error) });
      }
    },
  };`;

let workerd: SmallWorker;

before(async () => {
  workerd = await startSmallWorker({ source: worker, objects: { CACHE: "CacheShard", SIMILAR: "SimilarIndex" } });
});

after(() => workerd.close());

type Call = (method: string, ...args: unknown[]) => Promise<unknown>;
const on =
  (binding: "CACHE" | "SIMILAR", name: string): Call =>
  async (method, ...args) => {
    const body = JSON.stringify({ binding, name, method, args });
    return (await fetch(workerd.url, { method: "POST", body })).json();
  };
const evict = (className: "CacheShard" | "SimilarIndex", name: string): Promise<void> => workerd.evict(className, name);

const row = (key: string, own: Partial<ShardRow> = {}): ShardRow => ({
  key,
  tenant: "t",
  image: "i",
  stale_until: 1e12,
  value: `value of ${key}`,
  ...own,
});

test("a shard gives what was put, also after its isolate ended, and writes one row for it", async () => {
  const shard = on("CACHE", "v1:0");
  assert.deepEqual(await shard("get", "a", 0), { ok: true, stored: null });
  // The first of a tenant writes its name down too; the row of the caption is one.
  for (const [key, entries] of [
    ["a", 1],
    ["b", 2],
    ["a", 2],
  ] as const) {
    assert.deepEqual(await shard("put", row(key), 10, 0), { ok: true, entries, evicted: 0, rowsWritten: 1 });
  }
  await evict("CacheShard", "v1:0");
  assert.deepEqual(await shard("get", "a", 1), { ok: true, stored: { value: "value of a", hits: 1 } });
  assert.deepEqual(await shard("get", "c", 1), { ok: true, stored: null });
});

test("a shard keeps to its bound, the least recently used first, and writes a use once in 5 min", async () => {
  const shard = on("CACHE", "v1:1");
  for (const [at, key] of ["a", "b", "c"].entries()) await shard("put", row(key), 3, at);
  await shard("get", "a", 299_999);
  assert.deepEqual(await shard("sql", "SELECT key, used, hits FROM entries WHERE key = 'a'"), [
    { key: "a", used: 0, hits: 0 },
  ]);
  await shard("get", "a", 300_000);
  assert.deepEqual(await shard("sql", "SELECT key, used, hits FROM entries WHERE key = 'a'"), [
    { key: "a", used: 300_000, hits: 2 },
  ]);
  await evict("CacheShard", "v1:1");
  assert.deepEqual(await shard("put", row("d"), 3, 300_001), { ok: true, entries: 3, evicted: 1, rowsWritten: 1 });
  assert.deepEqual(await shard("sql", "SELECT key FROM entries ORDER BY key"), [
    { key: "a" },
    { key: "c" },
    { key: "d" },
  ]);
});

test("a shard purges a picture, a tenant, all, and drops a key", async () => {
  const shard = on("CACHE", "v1:2");
  for (const [key, tenant, image] of [
    ["a", "t1", "i1"],
    ["b", "t1", "i2"],
    ["c", "t2", "i1"],
    ["d", "t2", "i2"],
    ["e", "t2", "i2"],
  ]) {
    await shard("put", row(String(key), { tenant: String(tenant), image: String(image) }), 9, 0);
  }
  const tenants = ["t1", "t2"];
  assert.deepEqual(await shard("drop", "e"), { ok: true });
  assert.deepEqual(await shard("purge", { kind: "image", tenant: "t1", sha256: "i1" }), {
    ok: true,
    removed: 1,
    tenants,
  });
  assert.deepEqual(await shard("purge", { kind: "tenant", tenant: "t2" }), { ok: true, removed: 2, tenants });
  await evict("CacheShard", "v1:2");
  assert.deepEqual(await shard("purge", { kind: "all" }), { ok: true, removed: 1, tenants });
  assert.deepEqual(await shard("get", "b", 0), { ok: true, stored: null });
});

test("a shard's alarm comes within the hour, sweeps what has ended, and comes again while anything is left", async () => {
  const shard = on("CACHE", "v1:3");
  const now = Date.now();
  await shard("put", row("old", { stale_until: now - 1 }), 9, now);
  await shard("put", row("new", { stale_until: now + 1e9 }), 9, now);
  const due = await shard("nextAlarm");
  assert.ok(typeof due === "number" && due > now && due <= Date.now() + 3_600_000);
  assert.ok(typeof (await shard("ring")) === "number");
  assert.deepEqual(await shard("sql", "SELECT key FROM entries"), [{ key: "new" }]);
  await shard("drop", "new");
  assert.equal(await shard("ring"), null);
});

for (const [className, binding] of [
  ["CacheShard", "CACHE"],
  ["SimilarIndex", "SIMILAR"],
] as const) {
  test(`F51 a ${className} whose tables cannot be made fails without a throw, and recovers`, async () => {
    const object = on(binding, "broken");
    const isShard = className === "CacheShard";
    const call = (): Promise<unknown> => (isShard ? object("get", "a", 0) : object("find", query(0), 0));
    assert.equal(((await call()) as { ok: boolean }).ok, true);
    // An index of a table's name: `CREATE TABLE IF NOT EXISTS` fails on it.
    await object("sql", "DROP TABLE entries");
    await object("sql", "CREATE TABLE other (x)");
    await object("sql", "CREATE INDEX entries ON other (x)");
    await evict(className, "broken");
    const failure = { ok: false, code: "store_failed" };
    assert.deepEqual(await call(), failure);
    assert.deepEqual(await object("purge", isShard ? { kind: "all" } : null), failure);
    assert.deepEqual(await (isShard ? object("put", row("a"), 9, 0) : object("add", entry("a", 0), 9)), failure);
    await object("ring");
    await object("sql", "DROP INDEX entries");
    assert.equal(((await call()) as { ok: boolean }).ok, true);
  });
}

function base64(values: Float32Array): string {
  return Buffer.from(values.buffer).toString("base64");
}

function towards(degrees: number): string {
  const angle = (degrees * Math.PI) / 180;
  // Twice as long as a unit vector: the object makes it one.
  return base64(Float32Array.of(2 * Math.cos(angle), 2 * Math.sin(angle)));
}

function entry(key: string, degrees: number, own: Partial<SimilarEntry> = {}): SimilarEntry {
  const rest = { asked: "plain", sha256: `p ${key}`, stale_until: 1e12, encoder: "x@1", vector: towards(degrees) };
  return { key, value: `value of ${key}`, ...rest, ...own };
}

function query(degrees: number): { asked: string; encoder: string; vector: string; floor: number } {
  return { asked: "plain", encoder: "x@1", vector: towards(degrees), floor: 0.9 };
}

test("an index finds the nearest, also after its isolate ended, and forgets what is purged", async () => {
  const index = on("SIMILAR", "tenant");
  assert.deepEqual(await index("find", query(0), 0), { ok: true, found: null });
  for (const [at, degrees] of [0, 30, 60].entries()) {
    assert.deepEqual(await index("add", entry(`k${degrees}`, degrees), 9), { ok: true, entries: at + 1, evicted: 0 });
  }
  for (const evicted of [false, true]) {
    if (evicted) await evict("SimilarIndex", "tenant");
    const { found } = (await index("find", query(31), 0)) as {
      found: { key: string; value: string; similarity: number };
    };
    assert.deepEqual([found.key, found.value], ["k30", "value of k30"]);
    assert.ok(Math.abs(found.similarity - Math.cos(Math.PI / 180)) < 1e-6);
  }
  assert.deepEqual(await index("purge", "p k30"), { ok: true, removed: 1 });
  assert.deepEqual(await index("find", query(31), 0), { ok: true, found: null });
  assert.deepEqual(await index("drop", "k60"), { ok: true });
  await evict("SimilarIndex", "tenant");
  assert.deepEqual(await index("find", query(60), 0), { ok: true, found: null });
  assert.deepEqual(await index("purge", null), { ok: true, removed: 1 });
  assert.deepEqual(await index("sql", "SELECT COUNT(*) AS rows FROM chunks"), [{ rows: 0 }]);
});

test("an index keeps to its limit, the oldest first, and refuses what is no vector", async () => {
  const index = on("SIMILAR", "small");
  for (const [at, key] of ["a", "b", "c"].entries()) await index("add", entry(key, at * 40), 2);
  assert.deepEqual(await index("sql", "SELECT key FROM entries ORDER BY key"), [{ key: "b" }, { key: "c" }]);
  const bad = { ok: false, code: "bad_vector" };
  for (const vector of [
    "",
    "AAAA",
    "no base64",
    base64(Float32Array.of(0, 0)),
    base64(Float32Array.of(Number.NaN, 1)),
  ]) {
    assert.deepEqual(await index("add", { ...entry("x", 0), vector }, 2), bad);
    assert.deepEqual(await index("find", { ...query(0), vector }, 0), bad);
  }
  assert.deepEqual(await index("add", { ...entry("x", 0), vector: base64(Float32Array.of(1, 0, 0)) }, 2), bad);
});

test("an index's alarm sweeps what has ended", async () => {
  const index = on("SIMILAR", "swept");
  const now = Date.now();
  await index("add", entry("old", 0, { stale_until: now - 1 }), 9);
  assert.equal(typeof (await index("nextAlarm")), "number");
  assert.equal(await index("ring"), null);
  assert.deepEqual(await index("sql", "SELECT key FROM entries"), []);
});

test("among 10,000 vectors the right one is found; the times are told, and held to in the bench", async (t) => {
  const rows = (await (await fetch(new URL("/search", workerd.url))).json()) as Record<string, number>[];
  for (const { dimensions, index, best = 0, median = 0, worst = 0 } of rows) {
    assert.equal(index, 7777);
    t.diagnostic(
      `10,000 x ${dimensions}: ${best.toFixed(2)} ms, median ${median.toFixed(2)}, worst ${worst.toFixed(2)}`,
    );
  }
});

test("the cache works over the real objects: kept by one isolate, found by another, purged by a third", async () => {
  const cache = async (method: string, ...args: unknown[]): Promise<unknown> =>
    (await fetch(new URL("/cache", workerd.url), { method: "POST", body: JSON.stringify({ method, args }) })).json();
  const wishes = { model: null, prompt: null, max_tokens: 1, temperature: 0, top_p: 1, seed: null };
  const question = { tenant: "whole", sha256: "ab".repeat(32), wishes };
  const answer = {
    source: "lm_studio",
    finish: "stop",
    collapsed: false,
    caption: "A boat.",
    route: "vision",
    model: "m",
    image: { format: "png", width: 4, height: 4, sha256: question.sha256 },
    tags: [],
    usage: { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 },
  };
  const vector = { encoder: "x@1", floor: 0.9, base64: towards(0) };
  const look = { allowStale: false, lastModel: "m" };
  const other = { ...question, sha256: "cd".repeat(32) };
  assert.deepEqual(await cache("find", question, look), { state: "miss" });
  await cache("keep", question, answer, vector, false);
  const found = (await cache("find", question, look)) as { state: string; entry: { caption: string } };
  assert.deepEqual([found.state, found.entry.caption], ["fresh", "A boat."]);
  assert.deepEqual(await cache("find", { ...question, tenant: "other" }, look), { state: "miss" });
  const alike = (await cache("similarTo", other, vector)) as { state: string; entry: { caption: string } };
  assert.deepEqual([alike.state, alike.entry.caption], ["similar", "A boat."]);
  assert.deepEqual(await cache("similarTo", { ...other, tenant: "other" }, vector), { state: "miss" });
  const purged = await cache("purge", { kind: "tenant", tenant: "whole" });
  assert.deepEqual(purged, { removed: 1, vectors: 1, failed: 0 });
  assert.deepEqual(await cache("find", question, look), { state: "miss" });
  assert.deepEqual(await cache("similarTo", other, vector), { state: "miss" });
});
