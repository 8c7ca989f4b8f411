import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  entryTimes,
  judgeEntry,
  macText,
  mayStore,
  pickVictims,
  readEntry,
  type CacheEntry,
  type CacheTimes,
  type Keepable,
} from "../../shared/cache-entry.ts";

const entry: CacheEntry = {
  v: 1,
  key: "a".repeat(64),
  asked: "b".repeat(64),
  caption: "A boat.",
  tags: [{ label: "blue", score: 0.4 }],
  image: { format: "png", width: 4, height: 4, sha256: "c".repeat(64) },
  model: "m",
  route: "vision",
  encoder: "pixels@1",
  usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
  created: 1000,
  fresh_until: 61_000,
  stale_until: 601_000,
  mac: "d".repeat(64),
};
const times: CacheTimes = { freshMs: 60_000, staleMs: 600_000 };

/** What, entry's own differences, now, known model, limits, judgement. */
const judgements: readonly [string, Partial<CacheEntry>, number, string | null, CacheTimes, unknown][] = [
  ["R28 just made", {}, 1000, null, times, { state: "fresh", ageSeconds: 0, ttlSeconds: 60 }],
  ["R28 a millisecond before its time", {}, 60_999, null, times, { state: "fresh", ageSeconds: 59, ttlSeconds: 0 }],
  ["R29 at its time", {}, 61_000, null, times, { state: "stale", ageSeconds: 60, ttlSeconds: -1 }],
  ["R29 half a minute after", {}, 91_000, null, times, { state: "stale", ageSeconds: 90, ttlSeconds: -30 }],
  ["a millisecond before the end", {}, 600_999, null, times, { state: "stale", ageSeconds: 599, ttlSeconds: -540 }],
  ["S18 at its end", {}, 601_000, null, times, { state: "gone" }],
  ["S18 after its end", {}, 601_001, "m", times, { state: "gone" }],
  ["R30 before it was made", {}, 0, null, times, { state: "fresh", ageSeconds: 0, ttlSeconds: 60 }],
  ["R30 a day before it was made", {}, -86_400_000, null, times, { state: "fresh", ageSeconds: 0, ttlSeconds: 60 }],
  ["of the known model", {}, 1000, "m", times, { state: "fresh", ageSeconds: 0, ttlSeconds: 60 }],
  ["of another model", {}, 1000, "other", times, { state: "stale", ageSeconds: 0, ttlSeconds: -1 }],
  ["of another model, and old", {}, 91_000, "other", times, { state: "stale", ageSeconds: 90, ttlSeconds: -30 }],
  [
    "C29 under a ttl of 0",
    {},
    1000,
    null,
    { freshMs: 0, staleMs: 600_000 },
    { state: "stale", ageSeconds: 0, ttlSeconds: -1 },
  ],
  ["under no time at all", {}, 1000, null, { freshMs: 0, staleMs: 0 }, { state: "gone" }],
  [
    "under a ttl cut since",
    {},
    11_000,
    null,
    { freshMs: 5000, staleMs: 600_000 },
    { state: "stale", ageSeconds: 10, ttlSeconds: -5 },
  ],
  ["under an end cut since", {}, 31_000, null, { freshMs: 5000, staleMs: 30_000 }, { state: "gone" }],
  [
    "under a ttl raised since",
    {},
    61_000,
    null,
    { freshMs: 3_600_000, staleMs: 3_600_000 },
    { state: "stale", ageSeconds: 60, ttlSeconds: -1 },
  ],
  [
    "stored with a ttl of 0",
    { fresh_until: 1000 },
    1000,
    null,
    times,
    { state: "stale", ageSeconds: 0, ttlSeconds: -1 },
  ],
  ["stored to end before it began", { fresh_until: 0, stale_until: 0 }, 1000, null, times, { state: "gone" }],
];

for (const [name, own, now, model, limits, expected] of judgements) {
  test(`an entry ${name} is ${JSON.stringify(expected)}`, () => {
    assert.deepEqual(judgeEntry({ ...entry, ...own }, now, limits, model), expected);
  });
}

test("R28 R29 R30 S18 fresh, then stale, then gone: never back, never after either end, ages never negative", () => {
  const span = fc.integer({ min: 0, max: 100_000 });
  fc.assert(
    fc.property(span, span, span, fc.integer({ min: -200_000, max: 400_000 }), (made, freshMs, staleMs, now) => {
      const limits = { freshMs, staleMs };
      const own = { ...entryTimes(made, limits), model: "m" };
      const verdict = judgeEntry(own, now, limits, null);
      const state = now < own.fresh_until && freshMs > 0 ? "fresh" : now < own.stale_until ? "stale" : "gone";
      assert.equal(verdict.state, staleMs === 0 && freshMs === 0 ? "gone" : state);
      if (verdict.state === "gone") return;
      assert.ok(verdict.ageSeconds >= 0);
      assert.equal(verdict.ttlSeconds >= 0, verdict.state === "fresh");
      const later = judgeEntry(own, now + 1, limits, null).state;
      assert.ok(!(verdict.state === "stale" && later === "fresh"));
    }),
    { numRuns: 1000 },
  );
});

test("an entry's end is never before its freshness ends", () => {
  assert.deepEqual(entryTimes(5, { freshMs: 10, staleMs: 0 }), { created: 5, fresh_until: 15, stale_until: 15 });
  assert.deepEqual(entryTimes(5, { freshMs: 10, staleMs: 30 }), { created: 5, fresh_until: 15, stale_until: 35 });
});

const whole: Keepable = { source: "lm_studio", finish: "stop", caption: "A boat.", collapsed: false };

/** What, the answer's differences, no-store asked, stored. */
const keepables: readonly [string, Partial<Keepable>, boolean, boolean][] = [
  ["a live, whole answer", {}, false, true],
  ["one cut by a limit", { finish: "length" }, false, false],
  ["an empty one", { caption: "" }, false, false],
  ["a blank one", { caption: " \n" }, false, false],
  ["one made for another request", { collapsed: true }, false, false],
  ["one asked for with no-store", {}, true, false],
  ["one from the cache", { source: "cache" }, false, false],
  ["one of a similar picture", { source: "similar" }, false, false],
  ["a description", { source: "describe" }, false, false],
  ["the default text", { source: "default" }, false, false],
];

for (const [name, own, noStore, stored] of keepables) {
  test(`B7 ${name} is ${stored ? "" : "never "}stored`, () => {
    assert.equal(mayStore({ ...whole, ...own }, noStore), stored);
  });
}

const unreadable: readonly [string, string][] = [
  ["no JSON", "{"],
  ["nothing", ""],
  ["null", "null"],
  ["another version", JSON.stringify({ ...entry, v: 2 })],
  ["an empty caption", JSON.stringify({ ...entry, caption: "" })],
  ["a key that is no hash", JSON.stringify({ ...entry, key: "x" })],
  ["no mac", JSON.stringify({ ...entry, mac: undefined })],
  ["a time in words", JSON.stringify({ ...entry, created: "now" })],
];

for (const [name, text] of unreadable) {
  test(`a stored text of ${name} is no entry`, () => {
    assert.equal(readEntry(text), null);
  });
}

test("an entry survives its text", () => {
  assert.deepEqual(readEntry(JSON.stringify(entry)), entry);
});

test("the mac covers the tenant and every field", () => {
  const seen = new Set([macText("a", entry), macText("b", entry)]);
  const changes: Partial<CacheEntry>[] = [
    { key: "e".repeat(64) },
    { asked: "e".repeat(64) },
    { caption: "A ship." },
    { tags: [] },
    { image: { ...entry.image, width: 5 } },
    { model: "n" },
    { route: "tags" },
    { encoder: null },
    { usage: { ...entry.usage, total_tokens: 4 } },
    { created: 1001 },
    { fresh_until: 61_001 },
    { stale_until: 601_001 },
  ];
  for (const change of changes) seen.add(macText("a", { ...entry, ...change }));
  assert.equal(seen.size, 2 + changes.length);
  assert.equal(Object.keys(entry).length, changes.length + 2, "a field that no change covers: v and mac are the two");
});

test("victims are the least recently used, reads that are not written down included", () => {
  const stored = [
    { key: "a", used: 1 },
    { key: "b", used: 2 },
    { key: "c", used: 3 },
  ];
  assert.deepEqual(pickVictims(stored, new Map(), 2), ["a", "b"]);
  assert.deepEqual(pickVictims(stored, new Map([["a", 9]]), 2), ["b", "c"]);
  assert.deepEqual(pickVictims(stored, new Map([["c", 0]]), 1), ["a"]);
  assert.deepEqual(pickVictims(stored, new Map(), 0), []);
  assert.deepEqual(pickVictims(stored, new Map(), -1), []);
  assert.deepEqual(pickVictims(stored, new Map(), 9), ["a", "b", "c"]);
});
