import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { createLru, lruDefaults, type Lru } from "../../shared/lru.ts";

const texts = (maxEntries: number, ttlMs: number): Lru<string> =>
  createLru({ maxEntries, ttlMs, copy: (value: string) => value });

test("C1 a new entry has its value, no hits, and was stored at now", () => {
  const lru = texts(3, 1000);
  lru.put("a", "one", 7);
  assert.deepEqual(lru.peek("a"), { value: "one", storedAt: 7, hits: 0 });
});

test("C2 C3 a restored entry keeps its time and its hits", () => {
  const lru = texts(3, 1000);
  lru.put("a", "one", 500, { storedAt: 100, hits: 4 });
  assert.deepEqual(lru.peek("a"), { value: "one", storedAt: 100, hits: 4 });
  assert.equal(lru.get("a", 1099), "one");
  assert.equal(lru.get("a", 1100), null);
});

test("C4 an empty store has 128 places for 300 s", () => {
  const { size, maxEntries, ttlMs } = createLru({ copy: (value: string) => value }).stats();
  assert.deepEqual({ size, maxEntries, ttlMs }, { size: 0, ...lruDefaults });
  assert.deepEqual(lruDefaults, { maxEntries: 128, ttlMs: 300_000 });
});

test("C5 C17 own limits are kept and shown; figures start at zero", () => {
  assert.deepEqual(texts(7, 42).stats(), {
    size: 0,
    maxEntries: 7,
    ttlMs: 42,
    hits: 0,
    misses: 0,
    evictions: 0,
    expired: 0,
  });
});

test("C6 C7 C8 C9 C18 an unknown key misses; a known one gives what was put", () => {
  const lru = texts(3, 1000);
  assert.equal(lru.get("a", 0), null);
  assert.equal(lru.stats().size, 0);
  lru.put("a", "one", 0);
  assert.equal(lru.get("b", 0), null);
  assert.equal(lru.get("a", 0), "one");
  assert.equal(lru.stats().size, 1);
});

test("C10 the second put of a key replaces the first", () => {
  const lru = texts(3, 1000);
  lru.put("a", "one", 0);
  lru.put("a", "two", 1);
  assert.equal(lru.get("a", 1), "two");
  assert.equal(lru.stats().size, 1);
  assert.equal(lru.stats().evictions, 0);
});

test("C11 C13 an entry lives below its time and is gone at it", () => {
  const lru = texts(3, 1000);
  lru.put("a", "one", 0);
  assert.equal(lru.get("a", 999), "one");
  assert.equal(lru.get("a", 1000), null);
  assert.deepEqual({ size: lru.stats().size, expired: lru.stats().expired }, { size: 0, expired: 1 });
});

test("C12 a read does not extend life, a put does", () => {
  const lru = texts(3, 1000);
  lru.put("a", "one", 0);
  lru.put("b", "one", 0);
  lru.get("a", 900);
  lru.put("b", "two", 900);
  assert.equal(lru.get("a", 1100), null);
  assert.equal(lru.get("b", 1100), "two");
});

test("R30 a clock that steps back makes no entry old, and none immortal", () => {
  const lru = texts(3, 1000);
  lru.put("a", "one", 5000);
  assert.equal(lru.get("a", 0), "one");
  assert.equal(lru.get("a", 6000), null);
});

test("C14 the fourth of three evicts the oldest", () => {
  const lru = texts(3, 1000);
  for (const key of ["a", "b", "c", "d"]) lru.put(key, key, 0);
  assert.deepEqual(
    ["a", "b", "c", "d"].map((key) => lru.get(key, 0)),
    [null, "b", "c", "d"],
  );
  assert.equal(lru.stats().evictions, 1);
});

test("C15 a read protects, C16 a put protects and replaces", () => {
  const read = texts(3, 1000);
  for (const key of ["a", "b", "c"]) read.put(key, key, 0);
  read.get("a", 0);
  read.put("d", "d", 0);
  assert.equal(read.get("a", 0), "a");
  assert.equal(read.get("b", 0), null);
  const put = texts(3, 1000);
  for (const key of ["a", "b", "c"]) put.put(key, key, 0);
  put.put("a", "A", 0);
  put.put("d", "d", 0);
  assert.equal(put.get("a", 0), "A");
  assert.equal(put.get("b", 0), null);
});

test("a peek protects nothing and counts nothing", () => {
  const lru = texts(2, 1000);
  lru.put("a", "a", 0);
  lru.put("b", "b", 0);
  lru.peek("a");
  lru.put("c", "c", 0);
  assert.equal(lru.peek("a"), null);
  assert.deepEqual({ hits: lru.stats().hits, misses: lru.stats().misses }, { hits: 0, misses: 0 });
});

test("C19 C20 hits and misses are counted, and survive eviction and clearing", () => {
  const lru = texts(4, 1000);
  for (const key of ["a", "b", "c", "d"]) lru.put(key, key, 0);
  for (let read = 0; read < 3; read += 1) lru.get("a", 0);
  assert.equal(lru.peek("a")?.hits, 3);
  lru.get("x", 0);
  for (const key of ["e", "f", "g", "h"]) lru.put(key, key, 0);
  lru.clear();
  const { size, hits, misses, evictions } = lru.stats();
  assert.deepEqual({ size, hits, misses, evictions }, { size: 0, hits: 3, misses: 1, evictions: 4 });
});

test("C25 a store of no places stores nothing, C26 one place holds the last", () => {
  const none = texts(0, 1000);
  none.put("a", "one", 0);
  assert.equal(none.get("a", 0), null);
  assert.equal(none.stats().size, 0);
  const one = texts(1, 1000);
  one.put("a", "one", 0);
  one.put("b", "two", 0);
  assert.deepEqual([one.get("a", 0), one.get("b", 0)], [null, "two"]);
});

test("C27 changing what was put, or what came out, changes nothing inside", () => {
  const lru = createLru<{ tags: string[] }>({ copy: ({ tags }) => ({ tags: [...tags] }) });
  const put = { tags: ["blue"] };
  lru.put("a", put, 0);
  put.tags.push("red");
  lru.get("a", 0)?.tags.push("green");
  lru.peek("a")?.value.tags.push("grey");
  assert.deepEqual(lru.get("a", 0), { tags: ["blue"] });
});

test("C29 a time of zero never serves", () => {
  const lru = texts(3, 0);
  lru.put("a", "one", 5);
  assert.equal(lru.get("a", 5), null);
  assert.equal(lru.get("a", 0), null);
});

test("a deleted key is gone", () => {
  const lru = texts(3, 1000);
  lru.put("a", "one", 0);
  assert.equal(lru.delete("a"), true);
  assert.equal(lru.delete("a"), false);
  assert.equal(lru.get("a", 0), null);
});

test("the store agrees with a list that is searched, whatever is done to it", () => {
  const step = fc.record({
    act: fc.constantFrom("put", "put", "get", "get", "delete", "wait"),
    key: fc.constantFrom("a", "b", "c", "d", "e"),
    ms: fc.integer({ min: 0, max: 60 }),
  });
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 4 }), fc.array(step, { maxLength: 60 }), (maxEntries, steps) => {
      const lru = texts(maxEntries, 100);
      let model: { key: string; value: string; storedAt: number }[] = [];
      let now = 0;
      for (const [index, { act, key, ms }] of steps.entries()) {
        const known = model.find((entry) => entry.key === key);
        const others = model.filter((entry) => entry.key !== key);
        if (act === "wait") now += ms;
        else if (act === "delete") {
          lru.delete(key);
          model = others;
        } else if (act === "put") {
          lru.put(key, String(index), now);
          model = maxEntries === 0 ? [] : [...others, { key, value: String(index), storedAt: now }].slice(-maxEntries);
        } else {
          const alive = known !== undefined && now - known.storedAt < 100;
          assert.equal(lru.get(key, now), alive ? known.value : null);
          model = alive ? [...others, known] : others;
        }
        assert.equal(lru.stats().size, model.length);
      }
    }),
    { numRuns: 500 },
  );
});
