import type { CacheShardPort, PurgeScope, SimilarPort, StoreFailure } from "../../edge/cache-ports.ts";
import { createShardStore, type CountedRow, type ShardRows } from "../../edge/shard-store.ts";
import {
  createSimilarStore,
  type SimilarChunk,
  type SimilarEncoder,
  type SimilarRows,
} from "../../edge/similar-store.ts";
import { readVector, unitVector } from "../../shared/vector-search.ts";

/** How a store answers: as it should, with a failure, by throwing, or never. */
export type Mood = "well" | "failing" | "throwing" | "silent";

/** The stores of the caption cache in memory, with the very rules of the objects over Maps instead of tables. */
export type CacheStores = {
  shards: (index: number) => CacheShardPort;
  similar: (tenant: string) => SimilarPort;
  /** Set to make every later call fail, throw, or hang. */
  mood: { shards: Mood; similar: Mood };
  /** Every call made, as `get 3` or `find tenant`. */
  calls: string[];
  /** What the shards hold, all of them. */
  rows(): CountedRow[];
  /** Changes every stored text, in shards and indexes, behind everyone's back. */
  tamper(change: (value: string) => string): void;
};

/** Empty stores. */
export function createCacheStores(): CacheStores {
  const tables = new Map<number, Map<string, CountedRow>>();
  const texts = new Map<string, Map<string, { sha256: string; value: string }>>();
  const shards = new Map<number, CacheShardPort>();
  const indexes = new Map<string, SimilarPort>();
  const mood: CacheStores["mood"] = { shards: "well", similar: "well" };
  const calls: string[] = [];

  const answer = async <T>(op: string, feeling: Mood, work: () => T): Promise<T | StoreFailure> => {
    calls.push(op);
    switch (feeling) {
      case "well":
        return work();
      case "failing":
        return { ok: false, code: "store_failed" };
      case "throwing":
        throw new Error("the object was overloaded");
      case "silent":
        return new Promise(() => undefined);
    }
  };

  return {
    mood,
    calls,
    rows: () => [...tables.values()].flatMap((table) => Array.from(table.values())),
    tamper(change) {
      for (const table of tables.values()) {
        for (const row of table.values()) table.set(row.key, { ...row, value: change(row.value) });
      }
      for (const table of texts.values()) {
        for (const [key, row] of table) table.set(key, { ...row, value: change(row.value) });
      }
    },
    shards(index) {
      const known = shards.get(index);
      if (known !== undefined) return known;
      const table = new Map<string, CountedRow>();
      tables.set(index, table);
      const store = createShardStore(shardRows(table));
      const on = <T>(op: string, work: () => T): Promise<T | StoreFailure> =>
        answer(`${op} ${index}`, mood.shards, work);
      const port: CacheShardPort = {
        get: (key, nowMs) => on("get", () => ({ ok: true, stored: store.get(key, nowMs) })),
        put: (row, bound, nowMs) => on("put", () => ({ ok: true, ...store.put(row, bound, nowMs) })),
        drop: (key) =>
          on("drop", () => {
            store.drop(key);
            return { ok: true };
          }),
        purge: (scope) => on("purge", () => ({ ok: true, ...store.purge(scope) })),
      };
      shards.set(index, port);
      return port;
    },
    similar(tenant) {
      const known = indexes.get(tenant);
      if (known !== undefined) return known;
      const entries = new Map<string, { sha256: string; value: string }>();
      texts.set(tenant, entries);
      const store = createSimilarStore(similarRows(entries));
      const on = <T>(op: string, work: () => T): Promise<T | StoreFailure> =>
        answer(`${op} ${tenant}`, mood.similar, work);
      const read = (text: string): Float32Array | null => {
        const vector = readVector(text);
        return vector === null ? null : unitVector(vector);
      };
      const port: SimilarPort = {
        add: (entry, limit) =>
          on("add", (): Awaited<ReturnType<SimilarPort["add"]>> => {
            const vector = read(entry.vector);
            const added = vector !== null && store.add({ ...entry, until: entry.stale_until, vector }, limit);
            return added === false ? { ok: false, code: "bad_vector" } : { ok: true, ...added };
          }),
        find: (query, nowMs) =>
          on("find", (): Awaited<ReturnType<SimilarPort["find"]>> => {
            const vector = read(query.vector);
            if (vector === null) return { ok: false, code: "bad_vector" };
            return { ok: true, found: store.find({ ...query, vector }, nowMs) };
          }),
        drop: (key) =>
          on("drop", () => {
            store.drop(key);
            return { ok: true };
          }),
        purge: (sha256) => on("purge", () => ({ ok: true, removed: store.purge(sha256) })),
      };
      indexes.set(tenant, port);
      return port;
    },
  };
}

/** The tables of a shard over a Map. */
export function shardRows(table: Map<string, CountedRow>): ShardRows {
  const tenants = new Set<string>();
  const removeWhere = (matches: (row: CountedRow) => boolean): number => {
    const gone = [...table.values()].filter(matches);
    for (const { key } of gone) table.delete(key);
    return gone.length;
  };
  return {
    read: (key) => table.get(key) ?? null,
    write: (row) => {
      table.set(row.key, { ...row });
      return 1;
    },
    touch: (key, used, hits) => {
      const row = table.get(key);
      if (row !== undefined) table.set(key, { ...row, used, hits });
    },
    remove: (keys) => {
      for (const key of keys) table.delete(key);
    },
    oldest: (count) => [...table.values()].sort((left, right) => left.used - right.used).slice(0, count),
    count: () => table.size,
    removeExpired: (nowMs) => removeWhere((row) => row.stale_until <= nowMs),
    removeScope: (scope: PurgeScope) =>
      removeWhere(
        (row) =>
          scope.kind === "all" ||
          (row.tenant === scope.tenant && (scope.kind === "tenant" || row.image === scope.sha256)),
      ),
    tenants: () => [...tenants],
    addTenant: (tenant) => void tenants.add(tenant),
  };
}

/** The tables of an index over Maps; `entries` may be looked into. */
export function similarRows(
  entries = new Map<string, { sha256: string; value: string }>(),
  encoders = new Map<number, SimilarEncoder>(),
  chunks = new Map<string, SimilarChunk & { encoder: number }>(),
): SimilarRows {
  return {
    encoders: () => [...encoders.values()],
    addEncoder: (encoder) => void encoders.set(encoder.id, encoder),
    removeEncoder: (id) => {
      encoders.delete(id);
      for (const [name, { encoder }] of chunks) if (encoder === id) chunks.delete(name);
    },
    chunks: (id) => [...chunks.values()].filter(({ encoder }) => encoder === id),
    writeChunk: (encoder, chunk) =>
      void chunks.set(`${encoder} ${chunk.chunk}`, { ...chunk, vectors: chunk.vectors.slice(0), encoder }),
    readEntry: (key) => entries.get(key)?.value ?? null,
    writeEntry: (key, sha256, value) => void entries.set(key, { sha256, value }),
    removeEntries: (keys) => {
      for (const key of keys) entries.delete(key);
    },
    keysOf: (sha256) => [...entries].filter(([, row]) => row.sha256 === sha256).map(([key]) => key),
    clear: () => {
      for (const table of [entries, encoders, chunks]) table.clear();
    },
  };
}
