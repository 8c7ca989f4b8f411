import { pickVictims, type LastUse } from "../shared/cache-entry.ts";
import type { PurgeScope, ShardRow, Stored } from "./cache-ports.ts";

/** A last use is written down when it is this much newer than the one that is: 1 write an entry in 5 min. */
export const touchAfterMs = 300_000;

/** A row with its figures; `used` is Unix ms. */
export type CountedRow = ShardRow & { used: number; hits: number };

/** The tables under a shard; any of these may throw. */
export type ShardRows = {
  read(key: string): CountedRow | null;
  /** Inserts or replaces; gives the number of rows written. */
  write(row: CountedRow): number;
  touch(key: string, used: number, hits: number): void;
  remove(keys: readonly string[]): void;
  /** The `count` rows whose written last use is oldest. */
  oldest(count: number): LastUse[];
  count(): number;
  /** Removes rows whose end has come; gives how many. */
  removeExpired(nowMs: number): number;
  removeScope(scope: PurgeScope): number;
  tenants(): string[];
  addTenant(tenant: string): void;
};

/** The rules of one shard over its tables. Memory is a cache of the tables: after a throw, make a new one. */
export type ShardStore = {
  get(key: string, nowMs: number): Stored | null;
  put(row: ShardRow, bound: number, nowMs: number): { entries: number; evicted: number; rowsWritten: number };
  drop(key: string): void;
  purge(scope: PurgeScope): { removed: number; tenants: string[] };
  /** Removes what has ended; `entries` are left. */
  sweep(nowMs: number): { removed: number; entries: number };
};

/** A shard over its tables; reads nothing yet. */
export function createShardStore(rows: ShardRows): ShardStore {
  /** Reads that are not written down yet. */
  const recent = new Map<string, { used: number; hits: number }>();
  let tenants: Set<string> | null = null;
  let size: number | null = null;
  const countRows = (): number => (size ??= rows.count());
  const knownTenants = (): Set<string> => (tenants ??= new Set(rows.tenants()));

  const remove = (keys: readonly string[]): void => {
    const before = countRows();
    rows.remove(keys);
    for (const key of keys) recent.delete(key);
    size = before - keys.length;
  };

  return {
    get(key, nowMs) {
      const row = rows.read(key);
      if (row === null) return null;
      if (nowMs >= row.stale_until) {
        remove([key]);
        return null;
      }
      const last = recent.get(key) ?? row;
      const use = { used: Math.max(last.used, nowMs), hits: last.hits + 1 };
      recent.set(key, use);
      if (use.used - row.used >= touchAfterMs) {
        rows.touch(key, use.used, use.hits);
        recent.delete(key);
      }
      return { value: row.value, hits: use.hits };
    },

    put(row, bound, nowMs) {
      if (bound <= 0) return { entries: countRows(), evicted: 0, rowsWritten: 0 };
      if (!knownTenants().has(row.tenant)) {
        rows.addTenant(row.tenant);
        knownTenants().add(row.tenant);
      }
      const added = rows.read(row.key) === null ? 1 : 0;
      const surplus = countRows() + added - bound;
      if (surplus > 0) {
        // Each read that is not written down may push one row back; the row's own place is not for sale.
        const candidates = rows.oldest(surplus + recent.size + 1).filter(({ key }) => key !== row.key);
        remove(pickVictims(candidates, new Map([...recent].map(([key, { used }]) => [key, used])), surplus));
      }
      recent.delete(row.key);
      const rowsWritten = rows.write({ ...row, used: nowMs, hits: 0 });
      size = countRows() + added;
      return { entries: size, evicted: Math.max(0, surplus), rowsWritten };
    },

    drop(key) {
      if (rows.read(key) !== null) remove([key]);
    },

    purge(scope) {
      const removed = rows.removeScope(scope);
      recent.clear();
      size = null;
      return { removed, tenants: [...knownTenants()] };
    },

    sweep(nowMs) {
      const removed = rows.removeExpired(nowMs);
      size = null;
      return { removed, entries: countRows() };
    },
  };
}
