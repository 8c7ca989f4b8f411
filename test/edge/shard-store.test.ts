import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { createShardStore, touchAfterMs, type CountedRow, type ShardStore } from "../../edge/shard-store.ts";
import { shardRows } from "../kit/cache-stores.ts";

const row = (key: string, own: Partial<CountedRow> = {}) => ({
  key,
  tenant: "t",
  image: `image of ${key}`,
  stale_until: 1e12,
  value: `value of ${key}`,
  ...own,
});

function setUp(): { store: ShardStore; table: Map<string, CountedRow>; restart: () => ShardStore } {
  const table = new Map<string, CountedRow>();
  const rows = shardRows(table);
  return { store: createShardStore(rows), table, restart: () => createShardStore(rows) };
}

test("C6 C8 C10 a row comes back as it was put, the newest of a key, and others miss", () => {
  const { store, table } = setUp();
  assert.equal(store.get("a", 0), null);
  store.put(row("a"), 3, 0);
  store.put(row("a", { value: "newer" }), 3, 1);
  assert.deepEqual(store.get("a", 2), { value: "newer", hits: 1 });
  assert.equal(table.size, 1);
});

test("C14 C15 C16 the least recently used goes first; a read and a put protect", () => {
  const { store, table } = setUp();
  for (const [at, key] of ["a", "b", "c"].entries()) store.put(row(key), 3, at);
  store.get("a", 10);
  store.put(row("b"), 3, 11);
  assert.deepEqual(store.put(row("d"), 3, 12), { entries: 3, evicted: 1, rowsWritten: 1 });
  assert.deepEqual([...table.keys()].sort(), ["a", "b", "d"]);
});

test("C26 one place holds the last; C25 none holds nothing", () => {
  const { store, table } = setUp();
  store.put(row("a"), 1, 0);
  store.put(row("b"), 1, 1);
  assert.deepEqual([...table.keys()], ["b"]);
  assert.deepEqual(store.put(row("c"), 0, 2), { entries: 1, evicted: 0, rowsWritten: 0 });
  assert.equal(store.get("c", 3), null);
});

test("a smaller bound takes effect with the next put, and keeps what is put", () => {
  const { store, table } = setUp();
  for (let at = 0; at < 8; at += 1) store.put(row(`k${at}`), 8, at);
  assert.equal(store.put(row("k0"), 3, 9).evicted, 5);
  assert.deepEqual([...table.keys()].sort(), ["k0", "k6", "k7"]);
});

test("a read is written down once in 5 min, with all hits since; C20 hits survive a restart from then on", () => {
  const { store, table, restart } = setUp();
  store.put(row("a"), 3, 0);
  for (let read = 1; read < 10; read += 1) assert.equal(store.get("a", read)?.hits, read);
  assert.deepEqual([table.get("a")?.used, table.get("a")?.hits], [0, 0]);
  assert.equal(store.get("a", touchAfterMs - 1)?.hits, 10);
  assert.equal(table.get("a")?.hits, 0);
  assert.equal(store.get("a", touchAfterMs)?.hits, 11);
  assert.deepEqual([table.get("a")?.used, table.get("a")?.hits], [touchAfterMs, 11]);
  assert.equal(restart().get("a", touchAfterMs + 1)?.hits, 12);
});

test("a new answer starts its hits anew", () => {
  const { store } = setUp();
  store.put(row("a"), 3, 0);
  store.get("a", 1);
  store.put(row("a"), 3, 2);
  assert.equal(store.get("a", 3)?.hits, 1);
});

test("R30 a clock that steps back neither ages an entry nor writes its use", () => {
  const { store, table } = setUp();
  store.put(row("a"), 3, 1e9);
  assert.equal(store.get("a", 0)?.hits, 1);
  assert.equal(table.get("a")?.used, 1e9);
});

test("S18 what has ended is not given, and deleted as it is asked for or swept", () => {
  const { store, table } = setUp();
  for (const key of ["a", "b", "c"]) store.put(row(key, { stale_until: key === "c" ? 100 : 50 }), 3, 0);
  assert.notEqual(store.get("a", 49), null);
  assert.equal(store.get("a", 50), null);
  assert.deepEqual([...table.keys()], ["b", "c"]);
  assert.deepEqual(store.sweep(49), { removed: 0, entries: 2 });
  assert.deepEqual(store.sweep(50), { removed: 1, entries: 1 });
  assert.deepEqual(store.put(row("d"), 3, 60), { entries: 2, evicted: 0, rowsWritten: 1 });
});

test("a drop takes one row away, and no unknown one", () => {
  const { store, table } = setUp();
  store.put(row("a"), 3, 0);
  store.drop("b");
  assert.equal(table.size, 1);
  store.drop("a");
  assert.equal(store.get("a", 0), null);
  assert.equal(store.put(row("c"), 3, 1).entries, 1);
});

test("a purge takes what it names, and tells every tenant that ever stored here", () => {
  const fill = (): ShardStore => {
    const { store } = setUp();
    store.put(row("a", { tenant: "t1", image: "i" }), 9, 0);
    store.put(row("b", { tenant: "t1" }), 9, 0);
    store.put(row("c", { tenant: "t2", image: "i" }), 9, 0);
    store.drop("b");
    store.put(row("b", { tenant: "t1" }), 9, 0);
    return store;
  };
  const tenants = ["t1", "t2"];
  assert.deepEqual(fill().purge({ kind: "all" }), { removed: 3, tenants });
  assert.deepEqual(fill().purge({ kind: "tenant", tenant: "t1" }), { removed: 2, tenants });
  assert.deepEqual(fill().purge({ kind: "image", tenant: "t1", sha256: "i" }), { removed: 1, tenants });
  assert.deepEqual(fill().purge({ kind: "tenant", tenant: "t3" }), { removed: 0, tenants });
  const { store: first, restart } = setUp();
  first.put(row("a", { tenant: "t1" }), 9, 0);
  assert.deepEqual(restart().purge({ kind: "all" }), { removed: 1, tenants: ["t1"] });
  const store = fill();
  store.purge({ kind: "all" });
  assert.deepEqual(store.purge({ kind: "all" }), { removed: 0, tenants });
  assert.equal(store.put(row("a"), 9, 1).entries, 1);
});

test("a shard agrees with a list that is searched, restarts included, whatever is done to it", () => {
  const step = fc.record({
    act: fc.constantFrom("put", "put", "get", "get", "drop", "sweep", "restart", "wait"),
    key: fc.constantFrom("a", "b", "c", "d", "e"),
    life: fc.integer({ min: 1, max: 40 }),
  });
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 4 }), fc.array(step, { maxLength: 60 }), (bound, steps) => {
      const { store: first, table, restart } = setUp();
      let store = first;
      let model: { key: string; end: number; value: string }[] = [];
      let now = 0;
      for (const [index, { act, key, life }] of steps.entries()) {
        now += 1;
        const others = model.filter((each) => each.key !== key);
        const known = model.find((each) => each.key === key);
        switch (act) {
          case "put":
            store.put(row(key, { stale_until: now + life, value: String(index) }), bound, now);
            model = bound === 0 ? [] : [...others, { key, end: now + life, value: String(index) }].slice(-bound);
            break;
          case "get": {
            const alive = known !== undefined && now < known.end;
            assert.equal(store.get(key, now)?.value ?? null, alive ? known.value : null);
            model = alive ? [...others, known] : others;
            break;
          }
          case "drop":
            store.drop(key);
            model = others;
            break;
          case "sweep":
            assert.equal(store.sweep(now).removed, model.filter(({ end }) => end <= now).length);
            model = model.filter(({ end }) => end > now);
            break;
          case "restart":
            // Reads of the last 5 min are forgotten: the written order holds again.
            store = restart();
            model = model.toSorted(
              (left, right) => (table.get(left.key)?.used ?? 0) - (table.get(right.key)?.used ?? 0),
            );
            break;
          case "wait":
            now += life;
            break;
        }
        assert.deepEqual([...table.keys()].sort(), model.map((each) => each.key).sort());
        assert.ok(table.size <= bound);
      }
    }),
    { numRuns: 500 },
  );
});
