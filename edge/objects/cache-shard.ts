import { DurableObject } from "cloudflare:workers";
import type { CacheShardPort, PurgeScope, ShardRow, StoreFailure } from "../cache-ports.ts";
import { createShardStore, type CountedRow, type ShardRows, type ShardStore } from "../shard-store.ts";
import { logStoreFailure } from "./store-log.ts";
import { sweepLater, sweepMs } from "./sweep.ts";

// No index on `used`: it would double the rows written, and the few hundred rows of a shard are read in no time.
const tables = `
  CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, tenant TEXT NOT NULL, image TEXT NOT NULL, stale_until INTEGER NOT NULL,
    used INTEGER NOT NULL, hits INTEGER NOT NULL, value TEXT NOT NULL
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS tenants (tenant TEXT PRIMARY KEY) WITHOUT ROWID`;

/** One shard of the caption cache: its tables and its hourly sweep around the rules of `shard-store.ts`. */
export class CacheShard extends DurableObject implements CacheShardPort {
  #store: ShardStore | null = null;

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env);
    this.#attempt(() => undefined);
  }

  /** As `CacheShardPort`; so are the rest. */
  async get(key: string, nowMs: number): ReturnType<CacheShardPort["get"]> {
    return this.#attempt((store) => ({ ok: true, stored: store.get(key, nowMs) }));
  }

  async put(row: ShardRow, bound: number, nowMs: number): ReturnType<CacheShardPort["put"]> {
    const result = this.#attempt((store) => ({ ok: true as const, ...store.put(row, bound, nowMs) }));
    if (result.ok) await sweepLater(this.ctx.storage, sweepMs.captions);
    return result;
  }

  async drop(key: string): ReturnType<CacheShardPort["drop"]> {
    return this.#attempt((store) => {
      store.drop(key);
      return { ok: true };
    });
  }

  async purge(scope: PurgeScope): ReturnType<CacheShardPort["purge"]> {
    return this.#attempt((store) => ({ ok: true, ...store.purge(scope) }));
  }

  override async alarm(): Promise<void> {
    const result = this.#attempt((store) => ({ ok: true as const, ...store.sweep(Date.now()) }));
    if (!result.ok || result.entries > 0) await sweepLater(this.ctx.storage, sweepMs.captions);
  }

  /** All or nothing, and never a throw: with the write quota spent, one in the constructor would loop for ever. */
  #attempt<T>(act: (store: ShardStore) => T): T | StoreFailure {
    try {
      return this.ctx.storage.transactionSync(() => {
        if (this.#store === null) {
          this.ctx.storage.sql.exec(tables);
          this.#store = createShardStore(openRows(this.ctx.storage.sql));
        }
        return act(this.#store);
      });
    } catch (error) {
      logStoreFailure("captions", error);
      // What it remembers may be of rows that were rolled back.
      this.#store = null;
      return { ok: false, code: "store_failed" };
    }
  }
}

function openRows(sql: SqlStorage): ShardRows {
  return {
    read: (key) => sql.exec<CountedRow>("SELECT * FROM entries WHERE key = ?", key).toArray()[0] ?? null,
    write: ({ key, tenant, image, stale_until: end, used, hits, value }) =>
      sql.exec(
        `INSERT INTO entries (key, tenant, image, stale_until, used, hits, value) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, image = excluded.image,
           stale_until = excluded.stale_until, used = excluded.used, hits = excluded.hits, value = excluded.value`,
        key,
        tenant,
        image,
        end,
        used,
        hits,
        value,
      ).rowsWritten,
    touch: (key, used, hits) => void sql.exec("UPDATE entries SET used = ?, hits = ? WHERE key = ?", used, hits, key),
    remove: (keys) => {
      for (const key of keys) sql.exec("DELETE FROM entries WHERE key = ?", key);
    },
    oldest: (count) =>
      sql.exec<{ key: string; used: number }>("SELECT key, used FROM entries ORDER BY used LIMIT ?", count).toArray(),
    count: () => sql.exec<{ rows: number }>("SELECT COUNT(*) AS rows FROM entries").one().rows,
    removeExpired: (nowMs) =>
      sql.exec("DELETE FROM entries WHERE stale_until <= ? RETURNING 1", nowMs).toArray().length,
    removeScope: (scope) => {
      switch (scope.kind) {
        case "all":
          return sql.exec("DELETE FROM entries RETURNING 1").toArray().length;
        case "tenant":
          return sql.exec("DELETE FROM entries WHERE tenant = ? RETURNING 1", scope.tenant).toArray().length;
        case "image":
          return sql
            .exec("DELETE FROM entries WHERE tenant = ? AND image = ? RETURNING 1", scope.tenant, scope.sha256)
            .toArray().length;
      }
    },
    tenants: () =>
      sql
        .exec<{ tenant: string }>("SELECT tenant FROM tenants")
        .toArray()
        .map(({ tenant }) => tenant),
    addTenant: (tenant) => void sql.exec("INSERT OR IGNORE INTO tenants (tenant) VALUES (?)", tenant),
  };
}
