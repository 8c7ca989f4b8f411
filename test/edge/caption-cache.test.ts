import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { openCacheShards, openSimilarIndexes } from "../../edge/cache-ports.ts";
import { cacheLimits, createCaptionCache, type CaptionCache, type KeptAnswer } from "../../edge/caption-cache.ts";
import type { CacheQuestion, CacheWishes } from "../../shared/cache-key.ts";
import type { SidecarVector } from "../../shared/wire.ts";
import { createCacheStores, type CacheStores, type Mood } from "../kit/cache-stores.ts";

const settings = {
  fallback_cache_enabled: true,
  fallback_cache_ttl: 60,
  fallback_cache_stale_seconds: 600,
  fallback_cache_max_size: 1000,
  fallback_similarity_floor: null,
};
const wishes: CacheWishes = {
  model: null,
  prompt: null,
  max_tokens: 256,
  temperature: 0.7,
  top_p: 0.9,
  seed: null,
};
const picture = (digit: string): string => digit.repeat(64);
const boat: CacheQuestion = { tenant: "a", sha256: picture("a"), wishes };
const look = { allowStale: false, lastModel: null };
const fallback = { allowStale: true, lastModel: null };

/** A live answer to a question. */
const live = (question: CacheQuestion, caption = "A boat.", model = "m"): KeptAnswer => ({
  source: "lm_studio",
  finish: "stop",
  collapsed: false,
  caption,
  route: "vision",
  model,
  image: { format: "png", width: 4, height: 4, sha256: question.sha256 },
  tags: [{ label: "blue", score: 0.5 }],
  usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
});

/** A direction in the plane as a vector of the sidecar's. */
const towards = (degrees: number, encoder = "pixels@1", floor: number | null = 0.9): SidecarVector => {
  const angle = (degrees * Math.PI) / 180;
  const base64 = Buffer.from(Float32Array.of(Math.cos(angle), Math.sin(angle)).buffer).toString("base64");
  return { encoder, floor, base64 };
};

type Bench = {
  cache: CaptionCache;
  stores: CacheStores;
  /** Another isolate over the same stores. */
  isolate: (over?: Partial<typeof settings>, secret?: string) => CaptionCache;
  clock: { now: number };
  /** Timers that run, longest wait first asked for. */
  timers: { ms: number; elapsed: () => void }[];
  lines: { message: string; reason: unknown }[];
};

const secret = "a secret of at least 32 characters.";

function setUp(over: Partial<typeof settings> = {}): Bench {
  const stores = createCacheStores();
  const clock = { now: 1_790_000_000_000 };
  const timers: Bench["timers"] = [];
  const lines: Bench["lines"] = [];
  const isolate: Bench["isolate"] = (differing = {}, text = secret) =>
    createCaptionCache({
      config: { ...settings, ...over, ...differing },
      shards: stores.shards,
      similar: stores.similar,
      now: () => clock.now,
      secret: text,
      startTimer: (ms, elapsed) => {
        const timer = { ms, elapsed };
        timers.push(timer);
        return () => {
          if (timers.includes(timer)) timers.splice(timers.indexOf(timer), 1);
        };
      },
      log: (_level, message, fields) => void lines.push({ message, reason: fields?.extra?.["reason"] }),
    });
  return { cache: isolate(), stores, isolate, clock, timers, lines };
}

const stateOf = async (cache: CaptionCache, question: CacheQuestion, how = look): Promise<string> =>
  (await cache.find(question, how)).state;
const captionOf = async (cache: CaptionCache, question: CacheQuestion, how = fallback): Promise<string | null> => {
  const found = await cache.find(question, how);
  return found.state === "fresh" || found.state === "stale" ? found.entry.caption : null;
};
/** Lets every promise that can settle do so; the platform's hashing takes a few turns. */
const settle = async (done: () => boolean): Promise<void> => {
  for (let turn = 0; turn < 10_000 && !done(); turn += 1) await new Promise(setImmediate);
  assert.ok(done());
};

test("B7 a live answer is in the cache afterwards, for this isolate and every other", async () => {
  const { cache, isolate } = setUp();
  assert.equal(await stateOf(cache, boat), "miss");
  await cache.keep(boat, live(boat), null, false);
  for (const each of [cache, isolate()]) {
    const found = await each.find(boat, look);
    assert.ok(found.state === "fresh");
    const { caption, tags, image, model, route, usage } = found.entry;
    const { source: _source, finish: _finish, collapsed: _collapsed, ...kept } = live(boat);
    assert.deepEqual({ caption, tags, image, model, route, usage }, kept);
    assert.deepEqual([found.ageSeconds, found.ttlSeconds], [0, 60]);
  }
  assert.deepEqual([cache.counts().hit, cache.counts().miss, isolate().counts().hit], [1, 1, 0]);
});

/** Seconds after it was stored, known model: state before a call, and its age and ttl. */
const ages: readonly [string, number, string | null, string, number[]][] = [
  ["R28 just before its ttl", 59, null, "fresh", [59, 1]],
  ["R29 at its ttl", 60, null, "stale", [60, -1]],
  ["R29 long after", 90, "m", "stale", [90, -30]],
  ["of the model the sidecar last reported", 10, "m", "fresh", [10, 50]],
  ["of another model", 10, "n", "stale", [10, -1]],
  ["just before its end", 599, "n", "stale", [599, -539]],
  ["S18 at its end", 600, null, "miss", []],
  ["S18 after its end", 601, "m", "miss", []],
  ["R30 after the clock stepped back a day", -86_400, null, "fresh", [0, 60]],
];

for (const [name, seconds, lastModel, state, figures] of ages) {
  for (const [place, other] of [
    ["memory", false],
    ["its shard", true],
  ] as const) {
    test(`an entry ${name} is ${state}, out of ${place}`, async () => {
      const { cache, isolate, clock } = setUp();
      await cache.keep(boat, live(boat), null, false);
      clock.now += seconds * 1000;
      const found = await (other ? isolate() : cache).find(boat, { allowStale: true, lastModel });
      assert.equal(found.state, state);
      assert.deepEqual("entry" in found ? [found.ageSeconds, found.ttlSeconds] : [], figures);
    });
  }
}

test("a stale entry is told before a call too, and counted as the miss it is", async () => {
  const { cache, clock } = setUp();
  await cache.keep(boat, live(boat), null, false);
  clock.now += 90_000;
  assert.equal(await stateOf(cache, boat, look), "stale");
  assert.equal(await stateOf(cache, boat, fallback), "stale");
  const { hit, stale, miss, bypass, error } = cache.counts();
  assert.deepEqual({ hit, stale, miss, bypass, error }, { hit: 0, stale: 1, miss: 1, bypass: 0, error: 0 });
});

test("C29 a ttl of zero is never fresh, and still stands in", async () => {
  const { cache } = setUp({ fallback_cache_ttl: 0 });
  await cache.keep(boat, live(boat), null, false);
  assert.equal(await stateOf(cache, boat), "stale");
});

test("what was stale in memory is fresh again once another isolate stored it anew", async () => {
  const { cache, isolate, clock } = setUp();
  await cache.keep(boat, live(boat, "Old."), null, false);
  clock.now += 61_000;
  await isolate().keep(boat, live(boat, "New."), null, false);
  assert.equal(await captionOf(cache, boat, look), "New.");
});

const refused: readonly [string, Partial<KeptAnswer>, boolean][] = [
  ["a stored answer", { source: "cache" }, false],
  ["a similar picture's", { source: "similar" }, false],
  ["a description", { source: "describe" }, false],
  ["the default text", { source: "default" }, false],
  ["a cut answer", { finish: "length" }, false],
  ["a blank answer", { caption: " " }, false],
  ["a shared answer", { collapsed: true }, false],
  ["an answer asked for with no-store", {}, true],
  ["an answer about another picture", { image: { ...live(boat).image, sha256: picture("b") } }, false],
];

for (const [name, own, noStore] of refused) {
  test(`B7 ${name} is never stored`, async () => {
    const { cache, stores } = setUp();
    const answer = { ...live(boat), ...own };
    assert.equal(cache.keeps(boat, answer, noStore), false);
    await cache.keep(boat, answer, towards(0), noStore);
    assert.deepEqual(stores.rows(), []);
    assert.deepEqual(stores.calls, []);
    assert.equal(await stateOf(cache, boat), "miss");
  });
}

const off: readonly [string, Partial<typeof settings>, string?][] = [
  ["switched off", { fallback_cache_enabled: false }],
  ["of no entries", { fallback_cache_max_size: 0 }],
  ["of no time", { fallback_cache_ttl: 0, fallback_cache_stale_seconds: 0 }],
  ["without a secret", {}, ""],
];

for (const [name, over, text = secret] of off) {
  test(`C25 a cache ${name} asks no store, and counts a bypass`, async () => {
    const { isolate, stores } = setUp();
    await isolate().keep(boat, live(boat), towards(0), false);
    const before = stores.calls.length;
    const cache = isolate(over, text);
    assert.equal(cache.on, false);
    assert.equal(cache.keeps(boat, live(boat), false), false);
    await cache.keep(boat, live(boat), towards(0), false);
    assert.equal(await stateOf(cache, boat, fallback), "miss");
    assert.equal((await cache.similarTo(boat, towards(0))).state, "miss");
    assert.deepEqual([stores.calls.length - before, cache.counts().bypass, cache.counts().miss], [0, 1, 0]);
  });
}

/** Questions that are close to each other, so that equal ones come up too. */
const question: fc.Arbitrary<CacheQuestion> = fc.record({
  tenant: fc.constantFrom("a", "b"),
  sha256: fc.constantFrom(picture("a"), picture("b")),
  wishes: fc.record({
    model: fc.constantFrom(null, "auto", "m"),
    prompt: fc.constantFrom(null, "", "null"),
    max_tokens: fc.constantFrom(0, 256),
    temperature: fc.constantFrom(0, 0.7),
    top_p: fc.constantFrom(0, 0.9),
    seed: fc.constantFrom(null, 0, 1),
  }),
});

test("S17 a cached answer never crosses tenants, pictures, prompts, models or options", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(question, { minLength: 1, maxLength: 12 }), question, async (stored, asked) => {
      const { cache, isolate } = setUp();
      const last = new Map<string, string>();
      for (const [index, each] of stored.entries()) {
        await cache.keep(each, live(each, `Answer ${index}.`), towards(index), false);
        last.set(JSON.stringify(each), `Answer ${index}.`);
      }
      const expected = last.get(JSON.stringify(asked)) ?? null;
      assert.equal(await captionOf(cache, asked), expected);
      assert.equal(await captionOf(isolate(), asked), expected);
    }),
    { numRuns: 150 },
  );
});

test("S17 a similar picture's answer never crosses tenants, prompts, models, options or encoders", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(question, fc.constantFrom("x@1", "x@2")), { minLength: 1, maxLength: 12 }),
      question,
      fc.constantFrom("x@1", "x@2"),
      async (stored, asked, encoder) => {
        const { cache } = setUp();
        const answers = new Map<string, { question: CacheQuestion; encoder: string }>();
        for (const [index, [each, made]] of stored.entries()) {
          await cache.keep(each, live(each, `Answer ${index}.`), towards(0, made), false);
          answers.set(`Answer ${index}.`, { question: each, encoder: made });
        }
        const same = (each: { question: CacheQuestion; encoder: string }): boolean =>
          each.question.tenant === asked.tenant &&
          JSON.stringify(each.question.wishes) === JSON.stringify(asked.wishes) &&
          each.encoder === encoder;
        // The same question asked again with another encoder replaces its vector.
        const current = new Map([...answers.values()].map((each) => [JSON.stringify(each.question), each]));
        const found = await cache.similarTo(asked, towards(0, encoder));
        assert.equal(found.state, [...current.values()].some(same) ? "similar" : "miss");
        const source = found.state === "similar" ? answers.get(found.entry.caption) : undefined;
        if (found.state === "similar") assert.ok(source !== undefined && same(source));
      },
    ),
    { numRuns: 150 },
  );
});

const forgeries: readonly [string, (value: string) => string][] = [
  ["another caption", (value) => value.replace("A boat.", "A bomb.")],
  ["a longer life", (value) => value.replace(/"stale_until":\d+/, '"stale_until":9999999999999')],
  ["another time of making", (value) => value.replace(/"created":\d+/, '"created":9999999999999')],
  ["another version", (value) => value.replace('"v":1', '"v":2')],
  ["another mac", (value) => value.replace(/"mac":"[0-9a-f]{64}"/, `"mac":"${"0".repeat(64)}"`)],
  ["broken JSON", (value) => value.slice(1)],
  ["nothing", () => ""],
];

for (const [name, change] of forgeries) {
  test(`S18 a stored entry with ${name} is deleted, a miss, and counted as error`, async () => {
    const { cache, isolate, stores } = setUp();
    await cache.keep(boat, live(boat), null, false);
    stores.tamper(change);
    const other = isolate();
    assert.equal(await stateOf(other, boat, fallback), "error");
    assert.deepEqual(stores.rows(), []);
    assert.equal(await stateOf(other, boat, fallback), "miss");
    assert.deepEqual([other.counts().error, other.counts().miss, other.counts().hit], [1, 1, 0]);
  });

  test(`S18 a similar picture's entry with ${name} is deleted, no answer, and counted as error`, async () => {
    const { cache, stores } = setUp();
    await cache.keep(boat, live(boat), towards(0), false);
    stores.tamper(change);
    assert.equal((await cache.similarTo(boat, towards(0))).state, "error");
    assert.equal((await cache.similarTo(boat, towards(0))).state, "miss");
    assert.equal(cache.counts().error, 1);
  });
}

test("S18 an entry put under another key, by whoever can write to the store, is deleted and a miss", async () => {
  const { cache, isolate, stores } = setUp();
  const bird: CacheQuestion = { ...boat, wishes: { ...wishes, prompt: "Which bird?" } };
  await cache.keep(boat, live(boat), null, false);
  const [row] = stores.rows();
  await cache.keep(bird, live(bird, "A bird."), null, false);
  stores.tamper(() => row?.value ?? "");
  assert.equal(await stateOf(isolate(), bird, fallback), "error");
  assert.equal(stores.rows().length, 1);
});

test("S17 an entry under another tenant's key is no answer: its mac names its tenant", async () => {
  const { cache, isolate, stores } = setUp();
  const theirs = { ...boat, tenant: "b" };
  await cache.keep(boat, live(boat), null, false);
  const ours = stores.rows()[0];
  await cache.keep(theirs, live(theirs), null, false);
  const key = stores.rows().find((row) => row.tenant === "b")?.key ?? "";
  stores.tamper(() => (ours?.value ?? "").replace(ours?.key ?? "", key));
  assert.equal(await stateOf(isolate(), theirs, fallback), "error");
});

test("another secret reads nothing of what the first one wrote", async () => {
  const { cache, isolate } = setUp();
  await cache.keep(boat, live(boat), towards(0), false);
  const other = isolate({}, "another secret of 32 characters....");
  assert.equal(await stateOf(other, boat), "miss");
  assert.equal((await other.similarTo(boat, towards(0))).state, "miss");
});

test("keys and stored rows do not show tenant keys, prompts or the secret", async () => {
  const { cache, stores } = setUp();
  const told = { ...boat, wishes: { ...wishes, prompt: "Is this Ada's boat?" } };
  await cache.keep(told, live(told), null, false);
  const [row] = stores.rows();
  assert.match(row?.key ?? "", /^[0-9a-f]{64}$/);
  assert.doesNotMatch(JSON.stringify(row), /Ada|secret/);
});

for (const mood of ["failing", "throwing"] satisfies Mood[]) {
  test(`F51 a ${mood} shard is a miss, counted as error, and never stops a request`, async () => {
    const { cache, isolate, stores, timers, lines } = setUp();
    stores.mood.shards = mood;
    stores.mood.similar = mood;
    assert.equal(await stateOf(cache, boat), "error");
    await cache.keep(boat, live(boat), towards(0), false);
    assert.equal((await isolate().similarTo(boat, towards(0))).state, "error");
    assert.deepEqual([cache.counts().error, cache.counts().failedWrites, timers.length], [1, 2, 0]);
    assert.deepEqual(new Set(lines.map(({ message }) => message)), new Set(["cache store failed"]));
    // What this isolate made itself it still has.
    assert.equal(await captionOf(cache, boat, look), "A boat.");
  });
}

test("F51 a shard that never answers is a miss after 150 ms, a similar index after 300", async () => {
  const { cache, stores, timers, lines } = setUp();
  stores.mood.shards = "silent";
  stores.mood.similar = "silent";
  for (const [ms, ask] of [
    [150, () => stateOf(cache, boat)],
    [300, async () => (await cache.similarTo(boat, towards(0))).state],
  ] as const) {
    const answer = ask();
    await settle(() => timers.length === 1 && stores.calls.length > 0);
    assert.deepEqual(
      timers.map((timer) => timer.ms),
      [ms],
    );
    timers[0]?.elapsed();
    assert.equal(await answer, "error");
    timers.length = 0;
  }
  assert.deepEqual(
    lines.map(({ reason }) => reason),
    ["late", "late"],
  );
  assert.equal(cache.counts().error, 2);
  assert.deepEqual([cacheLimits.lookupMs, cacheLimits.similarMs], [150, 300]);
});

test("a shard that answers in time leaves no timer behind", async () => {
  const { cache, timers } = setUp();
  await cache.keep(boat, live(boat), towards(0), false);
  await stateOf(cache, { ...boat, tenant: "b" });
  await cache.similarTo(boat, towards(0));
  await cache.purge({ kind: "all" });
  assert.deepEqual(timers, []);
});

test("with the shard down, a stale entry of this isolate's memory still stands in, but is not fresh", async () => {
  const { cache, stores, clock } = setUp({ fallback_cache_ttl: 10 });
  await cache.keep(boat, live(boat), null, false);
  clock.now += 20_000;
  stores.mood.shards = "throwing";
  assert.equal(await stateOf(cache, boat, look), "error");
  assert.equal(await stateOf(cache, boat, fallback), "stale");
});

test("memory answers for 60 s without a call, then the shard is asked again", async () => {
  const { cache, stores, clock } = setUp({ fallback_cache_ttl: 3600 });
  await cache.keep(boat, live(boat), null, false);
  const before = stores.calls.length;
  clock.now += 59_999;
  assert.equal(await stateOf(cache, boat), "fresh");
  assert.equal(stores.calls.length, before);
  clock.now += 1;
  assert.equal(await stateOf(cache, boat), "fresh");
  assert.equal(stores.calls.length, before + 1);
});

test("C27 who changes an answer changes nothing for the next", async () => {
  const { cache } = setUp();
  const answer = live(boat);
  await cache.keep(boat, answer, null, false);
  answer.tags.length = 0;
  const first = await cache.find(boat, look);
  assert.ok(first.state === "fresh");
  first.entry.caption = "Changed.";
  first.entry.tags.length = 0;
  const second = await cache.find(boat, look);
  assert.ok(second.state === "fresh");
  assert.deepEqual([second.entry.caption, second.entry.tags.length], ["A boat.", 1]);
});

test("another cache epoch empties the memory, the same one keeps it", async () => {
  const { cache, isolate, stores } = setUp();
  cache.setEpoch(7);
  await cache.keep(boat, live(boat), null, false);
  await isolate().purge({ kind: "tenant", tenant: "a" });
  cache.setEpoch(7);
  assert.equal(await stateOf(cache, boat), "fresh");
  cache.setEpoch(8);
  const before = stores.calls.length;
  assert.equal(await stateOf(cache, boat), "miss");
  assert.equal(stores.calls.length, before + 1);
});

const purges: readonly [string, Parameters<CaptionCache["purge"]>[0], string[], number][] = [
  ["all", { kind: "all" }, [], 4],
  ["a tenant", { kind: "tenant", tenant: "a" }, ["b a", "b b"], 2],
  ["a picture", { kind: "image", tenant: "a", sha256: picture("a") }, ["a b", "b a", "b b"], 1],
  ["nobody's", { kind: "tenant", tenant: "nobody" }, ["a a", "a b", "b a", "b b"], 0],
];

for (const [name, scope, left, removed] of purges) {
  test(`a purge of ${name} reaches memory, every shard, and the vectors`, async () => {
    const { cache, isolate } = setUp();
    const questions = ["a", "b"].flatMap((tenant) =>
      ["a", "b"].map((digit): CacheQuestion => ({ tenant, sha256: picture(digit), wishes })),
    );
    for (const [index, each] of questions.entries()) {
      await cache.keep(each, live(each, `${each.tenant} ${each.sha256.charAt(0)}`), towards(index * 80), false);
    }
    assert.deepEqual(await cache.purge(scope), { removed, vectors: removed, failed: 0 });
    for (const each of [cache, isolate()]) {
      const captions = await Promise.all(questions.map((asked) => captionOf(each, asked)));
      assert.deepEqual(
        captions.filter((caption) => caption !== null),
        left,
      );
      const similar = await Promise.all(questions.map((asked, index) => each.similarTo(asked, towards(index * 80))));
      assert.deepEqual(
        similar.flatMap((found) => (found.state === "similar" ? [found.entry.caption] : [])),
        left,
      );
    }
  });
}

test("a purge says how many stores did not answer", async () => {
  const { cache, stores } = setUp();
  stores.mood.shards = "failing";
  assert.deepEqual(await cache.purge({ kind: "tenant", tenant: "a" }), { removed: 0, vectors: 0, failed: 16 });
  stores.mood.similar = "throwing";
  assert.deepEqual(await cache.purge({ kind: "tenant", tenant: "a" }), { removed: 0, vectors: 0, failed: 17 });
});

test("a look that was under way during a purge is not held after it", async () => {
  const { cache, isolate, stores } = setUp();
  const maker = isolate();
  await maker.keep(boat, live(boat), null, false);
  const shard = stores.shards(10);
  const genuine = { ...shard };
  shard.get = async (key, nowMs) => {
    const answer = await genuine.get(key, nowMs);
    // The answer has left the shard; the purge overtakes it.
    await cache.purge({ kind: "tenant", tenant: "a" });
    return answer;
  };
  await stateOf(cache, boat);
  Object.assign(shard, genuine);
  assert.equal(await stateOf(cache, boat), "miss");
});

test("a bound of the configuration holds over all shards together, the least recently used goes first", async () => {
  const { cache, stores, clock } = setUp({ fallback_cache_max_size: 20 });
  for (let index = 0; index < 64; index += 1) {
    clock.now += 1;
    const each = { ...boat, sha256: picture((index % 16).toString(16)), tenant: String(index) };
    await cache.keep(each, live(each), null, false);
  }
  const tenants = stores.rows().map(({ tenant }) => Number(tenant));
  assert.deepEqual(
    tenants.toSorted((left, right) => left - right),
    [48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63],
  );
  assert.equal(cache.counts().evicted, 48);
});

test("a cache of three entries stores three, and not four", async () => {
  const { cache, stores } = setUp({ fallback_cache_max_size: 3 });
  for (const digit of ["0", "1", "2"]) {
    const each = { ...boat, sha256: picture(digit) };
    await cache.keep(each, live(each), null, false);
  }
  assert.equal(stores.rows().length, 3);
  const fourth = { ...boat, sha256: picture("3") };
  await cache.keep(fourth, live(fourth), null, false);
  assert.equal(stores.rows().length, 3);
});

const likenesses: readonly [string, number, number | null, number | null, string][] = [
  ["at 20 degrees and a floor of 0.9", 20, 0.9, null, "similar"],
  ["at 30 degrees and a floor of 0.9", 30, 0.9, null, "miss"],
  ["where the manifest names no floor", 0, null, null, "miss"],
  ["under the owner's own floor", 20, 0.9, 0.99, "miss"],
  ["over the owner's floor of zero", 80, 0.9, 0, "similar"],
  ["over the owner's floor where the manifest names none", 20, null, 0.5, "similar"],
];

for (const [name, degrees, manifest, own, state] of likenesses) {
  test(`a picture ${name} is ${state}`, async () => {
    const { isolate } = setUp();
    const cache = createFloored(isolate, own);
    await cache.keep(boat, live(boat), towards(0), false);
    const asked = { ...boat, sha256: picture("b") };
    const found = await cache.similarTo(asked, towards(degrees, "pixels@1", manifest));
    assert.equal(found.state, state);
    if (found.state !== "similar") return;
    assert.ok(Math.abs(found.similarity - Math.cos((degrees * Math.PI) / 180)) < 1e-6);
    assert.equal(found.entry.image.sha256, boat.sha256);
  });
}

function createFloored(isolate: Bench["isolate"], floor: number | null): CaptionCache {
  return isolate({ fallback_similarity_floor: floor as null });
}

test("a similar picture's answer ends with its entry, and tells its age", async () => {
  const { cache, clock } = setUp();
  await cache.keep(boat, live(boat), towards(0), false);
  clock.now += 599_000;
  const found = await cache.similarTo(boat, towards(0));
  assert.ok(found.state === "similar");
  assert.deepEqual([found.ageSeconds, found.ttlSeconds], [599, -539]);
  clock.now += 1000;
  assert.equal((await cache.similarTo(boat, towards(0))).state, "miss");
});

test("S18 a similar picture's answer ends by today's configuration, whatever its index still holds", async () => {
  const { cache, isolate, clock } = setUp();
  await cache.keep(boat, live(boat), towards(0), false);
  clock.now += 100_000;
  assert.equal((await isolate().similarTo(boat, towards(0))).state, "similar");
  assert.equal((await isolate({ fallback_cache_stale_seconds: 100 }).similarTo(boat, towards(0))).state, "miss");
});

/** An index that takes one question for another, by what it looks for instead. */
const confusions: readonly [string, CacheQuestion, string][] = [
  ["other wishes", { ...boat, wishes: { ...wishes, prompt: "Which boat?" } }, "pixels@1"],
  ["another encoder", boat, "pixels@2"],
];

for (const [name, asked, encoder] of confusions) {
  test(`S18 a genuine answer to ${name}, given by an index that mixed them up, is no answer`, async () => {
    const { cache, stores } = setUp();
    await cache.keep(boat, live(boat), towards(0, "pixels@1"), false);
    const index = stores.similar("a");
    const genuine = { ...index };
    let kept: Parameters<typeof genuine.find>[0] | null = null;
    index.find = (query, nowMs) => {
      kept ??= query;
      return genuine.find(kept, nowMs);
    };
    assert.equal((await cache.similarTo(boat, towards(0, "pixels@1"))).state, "similar");
    assert.equal((await cache.similarTo(asked, towards(0, encoder))).state, "error");
  });
}

test("an answer without a vector is cached, and asks no index", async () => {
  const { cache, stores } = setUp();
  await cache.keep(boat, live(boat), null, false);
  assert.deepEqual(stores.calls, ["put 10"]);
});

test("a vector that is none is a failed write, and the caption is kept all the same", async () => {
  const { cache } = setUp();
  await cache.keep(boat, live(boat), { encoder: "pixels@1", floor: 0.9, base64: "AAAA" }, false);
  assert.equal(cache.counts().failedWrites, 1);
  assert.equal(await captionOf(cache, boat), "A boat.");
});

test("a bypass is counted and asks nobody", () => {
  const { cache, stores } = setUp();
  cache.bypass();
  assert.equal(cache.counts().bypass, 1);
  assert.deepEqual(stores.calls, []);
});

test("each call to a store takes a stub of its own, by the shard's or the tenant's name", async () => {
  const stores = createCacheStores();
  const names: string[] = [];
  const shard = openCacheShards({
    getByName(name) {
      names.push(name);
      return stores.shards(0);
    },
  })(15);
  await shard.get("k", 0);
  await shard.put({ key: "k", tenant: "t", image: "i", stale_until: 1, value: "" }, 1, 0);
  await shard.drop("k");
  await shard.purge({ kind: "all" });
  const index = openSimilarIndexes({
    getByName(name) {
      names.push(name);
      return stores.similar("t");
    },
  })("tenant");
  await index.find({ asked: "x", encoder: "e", vector: "", floor: 0 }, 0);
  await index.drop("k");
  await index.purge(null);
  assert.deepEqual(names, ["v1:f", "v1:f", "v1:f", "v1:f", "tenant", "tenant", "tenant"]);
});
