/** What a purge takes away; `tenant` is a tenant of the verified key's kind. */
export type PurgeScope =
  | { kind: "all" }
  | { kind: "tenant"; tenant: string }
  | { kind: "image"; tenant: string; sha256: string };

/** A store that could not do what it was asked; what it holds is unchanged. */
export type StoreFailure = { ok: false; code: "store_failed" | "bad_vector" };

/** One caption as a shard holds it. `value` is the entry's JSON; times are Unix ms. */
export type ShardRow = {
  key: string;
  tenant: string;
  /** Hash of the picture. */
  image: string;
  stale_until: number;
  value: string;
};

/** A caption as it is read: its JSON and how often it was asked for since it was stored, this time included. */
export type Stored = { value: string; hits: number };

/** One shard of the caption cache; plain JSON both ways, so that it may be an object across the network. Never throws. */
export type CacheShardPort = {
  get(key: string, nowMs: number): Promise<{ ok: true; stored: Stored | null } | StoreFailure>;
  /** Stores a row and makes room for it: at most `bound` rows are left. */
  put(
    row: ShardRow,
    bound: number,
    nowMs: number,
  ): Promise<{ ok: true; entries: number; evicted: number; rowsWritten: number } | StoreFailure>;
  drop(key: string): Promise<{ ok: true } | StoreFailure>;
  /** `tenants` = everyone who ever stored here, for whoever must purge their vectors too. */
  purge(scope: PurgeScope): Promise<{ ok: true; removed: number; tenants: string[] } | StoreFailure>;
};

/** A caption and the vector it may be found by. Hashes are lower-case hex, `value` the entry's JSON. */
export type SimilarEntry = {
  key: string;
  /** Hash of the wishes: captions of other wishes are never compared. */
  asked: string;
  sha256: string;
  stale_until: number;
  value: string;
  /** `name@fingerprint`: vectors of other encoders are never compared. */
  encoder: string;
  /** Little-endian float32 in base64. */
  vector: string;
};

/** A picture's vector, and how near another must be. */
export type SimilarQuery = Pick<SimilarEntry, "asked" | "encoder" | "vector"> & { floor: number };

/** One tenant's vectors. Never throws. */
export type SimilarPort = {
  /** Stores an entry; at most `limit` are left, the oldest goes first. */
  add(entry: SimilarEntry, limit: number): Promise<{ ok: true; entries: number; evicted: number } | StoreFailure>;
  find(
    query: SimilarQuery,
    nowMs: number,
  ): Promise<{ ok: true; found: { key: string; value: string; similarity: number } | null } | StoreFailure>;
  drop(key: string): Promise<{ ok: true } | StoreFailure>;
  /** Forgets the captions of one picture; null = all. */
  purge(sha256: string | null): Promise<{ ok: true; removed: number } | StoreFailure>;
};

/** A namespace of objects, as the platform binds it. */
type Namespace<Port> = { getByName(name: string): Port };

/** The cache's shards by index, 0 to 15, behind the binding `CACHE`. A stub may break, so each call takes a new one. */
export function openCacheShards(namespace: Namespace<CacheShardPort>): (index: number) => CacheShardPort {
  return (index) => {
    const stub = (): CacheShardPort => namespace.getByName(`v1:${index.toString(16)}`);
    return {
      get: (key, nowMs) => stub().get(key, nowMs),
      put: (row, bound, nowMs) => stub().put(row, bound, nowMs),
      drop: (key) => stub().drop(key),
      purge: (scope) => stub().purge(scope),
    };
  };
}

/** The vectors of each tenant, behind the binding `SIMILAR`. */
export function openSimilarIndexes(namespace: Namespace<SimilarPort>): (tenant: string) => SimilarPort {
  return (tenant) => {
    const stub = (): SimilarPort => namespace.getByName(tenant);
    return {
      add: (entry, limit) => stub().add(entry, limit),
      find: (query, nowMs) => stub().find(query, nowMs),
      drop: (key) => stub().drop(key),
      purge: (sha256) => stub().purge(sha256),
    };
  };
}
