import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  createSimilarStore,
  type SimilarAddition,
  type SimilarChunk,
  type SimilarEncoder,
  type SimilarStore,
} from "../../edge/similar-store.ts";
import { similarRows } from "../kit/cache-stores.ts";

const towards = (degrees: number): Float32Array =>
  Float32Array.of(Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180));

const addition = (key: string, degrees: number, own: Partial<SimilarAddition> = {}): SimilarAddition => ({
  key,
  asked: "plain",
  sha256: `picture of ${key}`,
  until: 1e12,
  value: `value of ${key}`,
  encoder: "x@1",
  vector: towards(degrees),
  ...own,
});
const query = (degrees: number, own: { asked?: string; encoder?: string; floor?: number } = {}) => ({
  asked: "plain",
  encoder: "x@1",
  floor: 0.9,
  vector: towards(degrees),
  ...own,
});

type Bench = {
  store: SimilarStore;
  restart: () => SimilarStore;
  entries: Map<string, { sha256: string; value: string }>;
  encoders: Map<number, SimilarEncoder>;
  chunks: Map<string, SimilarChunk & { encoder: number }>;
};

function setUp(): Bench {
  const entries: Bench["entries"] = new Map();
  const encoders: Bench["encoders"] = new Map();
  const chunks: Bench["chunks"] = new Map();
  const rows = similarRows(entries, encoders, chunks);
  return { store: createSimilarStore(rows), restart: () => createSimilarStore(rows), entries, encoders, chunks };
}

test("the nearest picture's caption is found, before and after a restart", () => {
  const { store, restart } = setUp();
  for (const degrees of [0, 30, 60]) store.add(addition(`at ${degrees}`, degrees), 10);
  for (const each of [store, restart()]) {
    const found = each.find(query(32), 0);
    assert.equal(found?.value, "value of at 30");
    assert.ok(Math.abs((found?.similarity ?? 0) - Math.cos((2 * Math.PI) / 180)) < 1e-6);
    assert.equal(each.find(query(120), 0), null);
  }
});

test("captions of other wishes and vectors of other encoders are never compared", () => {
  const { store } = setUp();
  store.add(addition("a", 0), 10);
  assert.equal(store.find(query(0, { asked: "other" }), 0), null);
  assert.equal(store.find(query(0, { encoder: "x@2" }), 0), null);
  store.add(addition("b", 5, { asked: "other" }), 10);
  assert.equal(store.find(query(5), 0)?.key, "a");
  assert.equal(store.find(query(0, { asked: "other" }), 0)?.key, "b");
});

test("F40 a vector of another length belongs to nothing", () => {
  const { store } = setUp();
  store.add(addition("a", 0), 10);
  assert.equal(store.add(addition("b", 0, { vector: Float32Array.of(1) }), 10), false);
  assert.equal(store.find({ ...query(0), vector: Float32Array.of(1) }, 0), null);
  assert.equal(store.find(query(0), 0)?.key, "a");
});

test("an entry ends with its time, and hides none behind it", () => {
  const { store, entries } = setUp();
  store.add(addition("near", 1, { until: 50 }), 10);
  store.add(addition("far", 10), 10);
  assert.equal(store.find(query(0), 49)?.key, "near");
  assert.equal(store.find(query(0), 50)?.key, "far");
  assert.deepEqual(store.sweep(49), { removed: 0, entries: 2 });
  assert.deepEqual(store.sweep(50), { removed: 1, entries: 1 });
  assert.deepEqual([...entries.keys()], ["far"]);
});

test("C14 at the limit the oldest goes first, of all encoders", () => {
  const { store, entries } = setUp();
  store.add(addition("a", 0, { encoder: "x@0" }), 3);
  for (const [index, key] of ["b", "c", "d", "e"].entries()) store.add(addition(key, index * 40), 3);
  assert.deepEqual([...entries.keys()], ["c", "d", "e"]);
  assert.equal(store.find(query(0, { encoder: "x@0" }), 0), null);
});

test("C10 C16 the second vector of a key replaces the first and is the newest", () => {
  const { store, entries } = setUp();
  store.add(addition("a", 0), 2);
  store.add(addition("b", 40), 2);
  store.add(addition("a", 80, { value: "newer" }), 2);
  assert.equal(store.find(query(0), 0), null);
  assert.equal(store.find(query(80), 0)?.value, "newer");
  store.add(addition("c", 120), 2);
  assert.deepEqual([...entries.keys()].sort(), ["a", "c"]);
});

test("C25 a limit of zero stores nothing, a smaller one takes effect with the next", () => {
  const { store, entries } = setUp();
  assert.deepEqual(store.add(addition("a", 0), 0), { entries: 0, evicted: 0 });
  for (const key of ["a", "b", "c", "d"]) store.add(addition(key, 0), 9);
  assert.deepEqual(store.add(addition("e", 0), 2), { entries: 2, evicted: 3 });
  assert.deepEqual([...entries.keys()], ["d", "e"]);
});

test("the vectors of two encoders are kept, a third one takes the place of the one unused for longest", () => {
  const { store, encoders, chunks, entries } = setUp();
  store.add(addition("a", 0, { encoder: "x@1" }), 10);
  store.add(addition("b", 0, { encoder: "x@2" }), 10);
  store.add(addition("c", 0, { encoder: "x@1" }), 10);
  store.add(addition("d", 0, { encoder: "x@3" }), 10);
  assert.deepEqual(
    [...encoders.values()].map(({ name }) => name),
    ["x@1", "x@3"],
  );
  assert.deepEqual([...entries.keys()].sort(), ["a", "c", "d"]);
  assert.equal(chunks.size, 2);
});

test("a key that comes with another encoder leaves the first one's vectors", () => {
  const { store, encoders } = setUp();
  store.add(addition("a", 0, { encoder: "x@1" }), 10);
  store.add(addition("a", 0, { encoder: "x@2" }), 10);
  assert.equal(store.find(query(0, { encoder: "x@1" }), 0), null);
  assert.equal(store.find(query(0, { encoder: "x@2" }), 0)?.key, "a");
  assert.deepEqual(
    [...encoders.values()].map(({ name }) => name),
    ["x@2"],
  );
});

test("a purge forgets a picture or all, in memory and tables, the numbers included", () => {
  const { store, restart, entries, chunks, encoders } = setUp();
  store.add(addition("a", 0, { sha256: "p" }), 10);
  store.add(addition("b", 40), 10);
  store.add(addition("c", 2, { sha256: "p", asked: "other" }), 10);
  assert.equal(store.purge("p"), 2);
  assert.equal(store.purge("unknown"), 0);
  for (const each of [store, restart()]) {
    assert.equal(each.find(query(0), 0), null);
    assert.equal(each.find(query(2, { asked: "other" }), 0), null);
    assert.equal(each.find(query(40), 0)?.key, "b");
  }
  const numbers = [...chunks.values()].flatMap(({ vectors }) => Array.from(new Float32Array(vectors)));
  assert.deepEqual(numbers, [0, 0, ...towards(40), 0, 0]);
  assert.equal(store.purge(null), 1);
  assert.deepEqual([entries.size, chunks.size, encoders.size], [0, 0, 0]);
  assert.equal(store.find(query(40), 0), null);
  store.add(addition("d", 40), 10);
  assert.equal(restart().find(query(40), 0)?.key, "d");
});

test("a drop forgets one key, the last one its encoder too", () => {
  const { store, encoders } = setUp();
  store.add(addition("a", 0), 10);
  store.drop("unknown");
  assert.equal(store.find(query(0), 0)?.key, "a");
  store.drop("a");
  assert.equal(store.find(query(0), 0), null);
  assert.equal(encoders.size, 0);
});

test("very long vectors are bounded by their bytes, 32 MiB an encoder", () => {
  const { store } = setUp();
  const vector = new Float32Array(2 ** 20);
  vector[0] = 1;
  for (let index = 0; index < 9; index += 1) {
    const { entries } = store.add(addition(`k${index}`, 0, { vector }), 10_000) || { entries: null };
    assert.equal(entries, Math.min(index + 1, 8));
  }
});

test("1,000 vectors are a dozen rows, and one more rewrites one of them", () => {
  const { store, restart, chunks } = setUp();
  for (let index = 0; index < 1000; index += 1) store.add(addition(`k${index}`, index / 3), 10_000);
  assert.equal(chunks.size, 8);
  const before = new Map(chunks);
  store.add(addition("k1000", 359), 10_000);
  assert.equal([...chunks].filter(([name, chunk]) => before.get(name) !== chunk).length, 1);
  assert.equal(restart().find(query(359), 0)?.key, "k1000");
});

test("a row that holds other numbers than it tells of is left out, the rest is read", () => {
  const { store, restart, chunks } = setUp();
  for (let index = 0; index < 200; index += 1) store.add(addition(`k${index}`, index), 10_000);
  const [name = "", chunk] = [...chunks][0] ?? [];
  assert.ok(chunk !== undefined);
  chunks.set(name, { ...chunk, vectors: chunk.vectors.slice(8) });
  const again = restart();
  assert.equal(again.find(query(0, { floor: 0.9999 }), 0), null);
  assert.equal(again.find(query(150, { floor: 0.9999 }), 0)?.key, "k150");
});

test("an index agrees with a list that is searched, restarts included, whatever is done to it", () => {
  const step = fc.record({
    act: fc.constantFrom("add", "add", "add", "drop", "purge", "sweep", "restart"),
    key: fc.constantFrom("a", "b", "c", "d", "e", "f"),
    encoder: fc.constantFrom("x@1", "x@1", "x@2"),
    asked: fc.constantFrom("plain", "other"),
    degrees: fc.integer({ min: 0, max: 359 }),
    life: fc.integer({ min: 1, max: 30 }),
  });
  type Known = { key: string; encoder: string; asked: string; degrees: number; until: number };
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5 }), fc.array(step, { maxLength: 40 }), (limit, steps) => {
      const { store: first, restart } = setUp();
      let store = first;
      let model: Known[] = [];
      for (const [now, { act, key, encoder, asked, degrees, life }] of steps.entries()) {
        const others = model.filter((each) => each.key !== key);
        switch (act) {
          case "add":
            store.add(addition(key, degrees, { encoder, asked, until: now + life }), limit);
            model = [...others, { key, encoder, asked, degrees, until: now + life }].slice(-limit);
            break;
          case "drop":
            store.drop(key);
            model = others;
            break;
          case "purge":
            store.purge(`picture of ${key}`);
            model = others;
            break;
          case "sweep":
            store.sweep(now);
            model = model.filter(({ until }) => until > now);
            break;
          case "restart":
            store = restart();
            break;
        }
        const alive = model.filter((each) => each.encoder === encoder && each.asked === asked && each.until > now);
        const likeness = (each: Known): number => Math.cos(((each.degrees - degrees) * Math.PI) / 180);
        const best = Math.max(-2, ...alive.map(likeness));
        const found = store.find(query(degrees, { encoder, asked }), now);
        if (best > 0.9 + 1e-5) assert.ok(found !== null && Math.abs(found.similarity - best) < 1e-5);
        else if (best < 0.9 - 1e-5) assert.equal(found, null);
      }
    }),
    { numRuns: 500 },
  );
});
