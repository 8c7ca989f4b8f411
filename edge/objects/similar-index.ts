import { DurableObject } from "cloudflare:workers";
import { readVector, unitVector } from "../../shared/vector-search.ts";
import type { SimilarEntry, SimilarPort, SimilarQuery, StoreFailure } from "../cache-ports.ts";
import {
  createSimilarStore,
  type SimilarChunk,
  type SimilarEncoder,
  type SimilarRows,
  type SimilarStore,
} from "../similar-store.ts";
import { logStoreFailure } from "./store-log.ts";
import { sweepLater, sweepMs } from "./sweep.ts";

const tables = `
  CREATE TABLE IF NOT EXISTS encoders (id INTEGER PRIMARY KEY, name TEXT NOT NULL, dimensions INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY, encoder INTEGER NOT NULL, chunk INTEGER NOT NULL, heads TEXT NOT NULL, vectors BLOB NOT NULL
  );
  CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, sha256 TEXT NOT NULL, value TEXT NOT NULL
  ) WITHOUT ROWID`;

/** Chunks an encoder can have; the row number holds both. */
const mostChunks = 2 ** 20;

/** One tenant's vectors: tables and daily sweep around the rules of `similar-store.ts`. */
export class SimilarIndex extends DurableObject implements SimilarPort {
  #store: SimilarStore | null = null;

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env);
    this.#attempt(() => undefined);
  }

  /** As `SimilarPort`; so are the rest. */
  async add(entry: SimilarEntry, limit: number): ReturnType<SimilarPort["add"]> {
    const vector = readUnitVector(entry.vector);
    if (vector === null) return badVector;
    const { key, asked, sha256, stale_until: until, value, encoder } = entry;
    const result = this.#attempt((store) => {
      const added = store.add({ key, asked, sha256, until, value, encoder, vector }, limit);
      return added === false ? badVector : { ok: true as const, ...added };
    });
    if (result.ok) await sweepLater(this.ctx.storage, sweepMs.vectors);
    return result;
  }

  async find({ asked, encoder, vector: text, floor }: SimilarQuery, nowMs: number): ReturnType<SimilarPort["find"]> {
    const vector = readUnitVector(text);
    if (vector === null) return badVector;
    return this.#attempt((store) => ({ ok: true, found: store.find({ asked, encoder, vector, floor }, nowMs) }));
  }

  async drop(key: string): ReturnType<SimilarPort["drop"]> {
    return this.#attempt((store) => {
      store.drop(key);
      return { ok: true };
    });
  }

  async purge(sha256: string | null): ReturnType<SimilarPort["purge"]> {
    return this.#attempt((store) => ({ ok: true, removed: store.purge(sha256) }));
  }

  override async alarm(): Promise<void> {
    const result = this.#attempt((store) => ({ ok: true as const, ...store.sweep(Date.now()) }));
    if (!result.ok || result.entries > 0) await sweepLater(this.ctx.storage, sweepMs.vectors);
  }

  #attempt<T>(act: (store: SimilarStore) => T): T | StoreFailure {
    try {
      return this.ctx.storage.transactionSync(() => {
        if (this.#store === null) {
          this.ctx.storage.sql.exec(tables);
          this.#store = createSimilarStore(openRows(this.ctx.storage.sql));
        }
        return act(this.#store);
      });
    } catch (error) {
      logStoreFailure("vectors", error);
      // Memory may tell of rows that were rolled back.
      this.#store = null;
      return { ok: false, code: "store_failed" };
    }
  }
}

const badVector: StoreFailure = { ok: false, code: "bad_vector" };

function readUnitVector(text: string): Float32Array | null {
  const vector = readVector(text);
  return vector === null ? null : unitVector(vector);
}

function openRows(sql: SqlStorage): SimilarRows {
  return {
    encoders: () => sql.exec<SimilarEncoder>("SELECT id, name, dimensions FROM encoders ORDER BY id").toArray(),
    addEncoder: ({ id, name, dimensions }) =>
      void sql.exec("INSERT INTO encoders (id, name, dimensions) VALUES (?, ?, ?)", id, name, dimensions),
    removeEncoder: (id) => {
      sql.exec("DELETE FROM encoders WHERE id = ?", id);
      sql.exec("DELETE FROM chunks WHERE encoder = ?", id);
    },
    chunks: (encoder) =>
      sql
        .exec<SimilarChunk>("SELECT chunk, heads, vectors FROM chunks WHERE encoder = ? ORDER BY id", encoder)
        .toArray(),
    writeChunk: (encoder, { chunk, heads, vectors }) =>
      void sql.exec(
        `INSERT INTO chunks (id, encoder, chunk, heads, vectors) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET heads = excluded.heads, vectors = excluded.vectors`,
        encoder * mostChunks + chunk,
        encoder,
        chunk,
        heads,
        vectors,
      ),
    readEntry: (key) =>
      sql.exec<{ value: string }>("SELECT value FROM entries WHERE key = ?", key).toArray()[0]?.value ?? null,
    writeEntry: (key, sha256, value) =>
      void sql.exec(
        `INSERT INTO entries (key, sha256, value) VALUES (?, ?, ?)
         ON CONFLICT (key) DO UPDATE SET sha256 = excluded.sha256, value = excluded.value`,
        key,
        sha256,
        value,
      ),
    removeEntries: (keys) => {
      for (const key of keys) sql.exec("DELETE FROM entries WHERE key = ?", key);
    },
    keysOf: (sha256) =>
      sql
        .exec<{ key: string }>("SELECT key FROM entries WHERE sha256 = ?", sha256)
        .toArray()
        .map(({ key }) => key),
    clear: () => {
      for (const table of ["encoders", "chunks", "entries"]) sql.exec(`DELETE FROM ${table}`);
    },
  };
}
