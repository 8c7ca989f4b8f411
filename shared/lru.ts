/** Bounds of a store in memory. */
export type LruLimits<V> = {
  /** 0 = nothing is kept. */
  maxEntries?: number;
  /** From when a value was put; reading does not extend it. 0 = nothing is served. */
  ttlMs?: number;
  /** A copy that shares nothing with its original, made on the way in and out: nobody changes what is inside. */
  copy: (value: V) => V;
};

/** What the guide's feature cache starts with. */
export const lruDefaults = { maxEntries: 128, ttlMs: 300_000 } as const;

/** One value as it is held; `storedAt` is the `now` it was put at. */
export type LruEntry<V> = { value: V; storedAt: number; hits: number };

/** Figures since the start; what is evicted or cleared keeps counting. */
export type LruStats = {
  size: number;
  maxEntries: number;
  ttlMs: number;
  hits: number;
  misses: number;
  /** Made room for others. */
  evictions: number;
  /** Found to be too old. */
  expired: number;
};

/** A bounded store: the least recently used goes first. `now` is ms of any one clock; a step back makes nothing older. */
export type Lru<V> = {
  get(key: string, now: number): V | null;
  /** What is held under a key, counted as no use; an old one too. */
  peek(key: string): LruEntry<V> | null;
  /** Keeps a copy as the most recently used; `restored` puts back what an earlier store had counted. */
  put(key: string, value: V, now: number, restored?: Partial<Pick<LruEntry<V>, "storedAt" | "hits">>): void;
  delete(key: string): boolean;
  clear(): void;
  stats(): LruStats;
};

/** An empty store. */
export function createLru<V>({
  maxEntries = lruDefaults.maxEntries,
  ttlMs = lruDefaults.ttlMs,
  copy,
}: LruLimits<V>): Lru<V> {
  // A Map keeps the order of insertion: first is the least recently used.
  const entries = new Map<string, LruEntry<V>>();
  const counts = { hits: 0, misses: 0, evictions: 0, expired: 0 };

  return {
    get(key, now) {
      const entry = entries.get(key);
      if (entry === undefined) {
        counts.misses += 1;
        return null;
      }
      entries.delete(key);
      if (Math.max(0, now - entry.storedAt) >= ttlMs) {
        counts.misses += 1;
        counts.expired += 1;
        return null;
      }
      entry.hits += 1;
      counts.hits += 1;
      entries.set(key, entry);
      return copy(entry.value);
    },
    peek(key) {
      const entry = entries.get(key);
      return entry === undefined ? null : { ...entry, value: copy(entry.value) };
    },
    put(key, value, now, { storedAt = now, hits = 0 } = {}) {
      entries.delete(key);
      if (maxEntries <= 0) return;
      for (const oldest of entries.keys()) {
        if (entries.size < maxEntries) break;
        entries.delete(oldest);
        counts.evictions += 1;
      }
      entries.set(key, { value: copy(value), storedAt, hits });
    },
    delete: (key) => entries.delete(key),
    clear: () => entries.clear(),
    stats: () => ({ size: entries.size, maxEntries, ttlMs, ...counts }),
  };
}
