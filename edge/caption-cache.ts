import { cacheVersion, maxShards, planShards, shardOf, type CacheQuestion } from "../shared/cache-key.ts";
import {
  entryTimes,
  judgeEntry,
  mayStore,
  readEntry,
  type CacheEntry,
  type CacheTimes,
  type Judgement,
  type Keepable,
} from "../shared/cache-entry.ts";
import type { Config } from "../shared/config.ts";
import { createLru } from "../shared/lru.ts";
import type { SidecarCaption, SidecarVector } from "../shared/wire.ts";
import type { CacheShardPort, PurgeScope, SimilarPort, StoreFailure } from "./cache-ports.ts";
import { createCacheSeal } from "./cache-seal.ts";
import type { Deps } from "./deps.ts";
import type { Log } from "./log.ts";
import { within } from "./within.ts";

/** Bounds of the cache's waits (ms), of the memory before it, and of one tenant's vectors. */
export const cacheLimits = {
  lookupMs: 150,
  similarMs: 300,
  /** For what no caller waits for. */
  writeMs: 5000,
  heldEntries: 256,
  heldMs: 60_000,
  vectors: 10_000,
} as const;

/** What the cache works with. */
export type CacheDeps = {
  config: Pick<
    Config,
    | "fallback_cache_enabled"
    | "fallback_cache_ttl"
    | "fallback_cache_stale_seconds"
    | "fallback_cache_max_size"
    | "fallback_similarity_floor"
  >;
  shards: (index: number) => CacheShardPort;
  similar: (tenant: string) => SimilarPort;
  /** Unix ms; may step back. */
  now: () => number;
  /** Keys are derived from it; another one makes every entry unreadable. */
  secret: string;
  startTimer: Deps["startTimer"];
  log: Log;
};

/** An entry and what it is worth; seconds are whole, `ttlSeconds` negative when stale. */
export type FoundEntry = { entry: CacheEntry; ageSeconds: number; ttlSeconds: number };

/** What a look found. `error` = the store failed, was late or held a wrong entry: for the caller, a miss. */
export type Found = ({ state: "fresh" | "stale" } & FoundEntry) | { state: "miss" | "error" };

/** What a look for a similar picture found; its age and ttl are those of the entry. */
export type FoundSimilar = ({ state: "similar"; similarity: number } & FoundEntry) | { state: "miss" | "error" };

/** A live answer to keep, with where it came from. */
export type KeptAnswer = Keepable & Pick<SidecarCaption, "route" | "model" | "image" | "tags" | "usage">;

/** Looks by result, since the isolate began; `evicted` and `failedWrites` are of entries. */
export type CacheCounts = Record<"hit" | "stale" | "miss" | "bypass" | "error" | "evicted" | "failedWrites", number>;

/** What a purge did: captions and vectors taken away, stores that did not answer (to be asked again). */
export type PurgeReport = { removed: number; vectors: number; failed: number };

/** The fallback cache as one isolate sees it. Nothing here ever throws. */
export type CaptionCache = {
  /** False: nothing is read or kept, by configuration. */
  on: boolean;
  /**
   * Looks for the answer to a question, for at most 150 ms. `lastModel` = the model the sidecar last reported, null =
   * not known. A stale entry is always told, since `Cache-Status` says so; unless `allowStale`, it counts as a miss.
   */
  find(question: CacheQuestion, look: { allowStale: boolean; lastModel: string | null }): Promise<Found>;
  /** Whether `keep` will store this answer: what `Cache-Status` calls `stored`. */
  keeps(question: CacheQuestion, answer: KeptAnswer, noStore: boolean): boolean;
  /** Stores an answer, and its vector if there is one; for `waitUntil`. Stores nothing that `keeps` refuses. */
  keep(question: CacheQuestion, answer: KeptAnswer, vector: SidecarVector | null, noStore: boolean): Promise<void>;
  /** The caption of the nearest picture of the same tenant, encoder and wishes, for at most 300 ms. */
  similarTo(question: CacheQuestion, vector: SidecarVector): Promise<FoundSimilar>;
  purge(scope: PurgeScope): Promise<PurgeReport>;
  /** Counts a request that forbade any look. */
  bypass(): void;
  /** Told with each snapshot of the authority: another epoch means that somebody purged. */
  setEpoch(epoch: number): void;
  counts(): CacheCounts;
};

/** The cache of one isolate, empty; its shards and vectors live elsewhere. */
export function createCaptionCache(deps: CacheDeps): CaptionCache {
  const { config, now, log } = deps;
  const seal = createCacheSeal(deps.secret);
  const plan = planShards(config.fallback_cache_max_size);
  const times: CacheTimes = {
    freshMs: config.fallback_cache_ttl * 1000,
    staleMs: config.fallback_cache_stale_seconds * 1000,
  };
  const timesAllow = times.freshMs > 0 || times.staleMs > 0;
  const on = config.fallback_cache_enabled && plan.bound > 0 && timesAllow && deps.secret !== "";
  const counts: CacheCounts = { hit: 0, stale: 0, miss: 0, bypass: 0, error: 0, evicted: 0, failedWrites: 0 };
  const held = createLru<CacheEntry>({
    maxEntries: cacheLimits.heldEntries,
    ttlMs: cacheLimits.heldMs,
    copy: (entry) => structuredClone(entry),
  });
  let epoch: number | null = null;
  /** Grows with each purge: what was read before one is not held after it. */
  let purges = 0;

  const forgetHeld = (): void => {
    held.clear();
    purges += 1;
  };

  /** What a store answers in time, else null; a failure of any kind is logged. */
  const ask = async <T extends { ok: true }>(
    op: string,
    ms: number,
    call: () => Promise<T | StoreFailure>,
  ): Promise<T | null> => {
    const answer = await within(
      deps.startTimer,
      ms,
      call().catch((exception: unknown) => ({ ok: false as const, code: "threw" as const, exception })),
    );
    if (answer?.ok === true) return answer;
    const exception = answer?.code === "threw" ? answer.exception : undefined;
    log("WARNING", "cache store failed", { exception, extra: { op, reason: answer?.code ?? "late" } });
    return null;
  };

  /** The stored text as an entry that answers this very question, whoever wrote it; null = it must go. */
  const verify = async (tenant: string, text: string, key: string): Promise<CacheEntry | null> => {
    const entry = readEntry(text);
    return entry !== null && entry.key === key && (await seal.isGenuine(tenant, entry)) ? entry : null;
  };

  const keeps: CaptionCache["keeps"] = (question, answer, noStore) =>
    on && mayStore(answer, noStore) && answer.image.sha256 === question.sha256;

  const report = (entry: CacheEntry, verdict: Judgement, allowStale: boolean): Found => {
    if (verdict.state === "gone") {
      counts.miss += 1;
      return { state: "miss" };
    }
    counts[verdict.state === "fresh" ? "hit" : allowStale ? "stale" : "miss"] += 1;
    return { entry, ...verdict };
  };

  return {
    on,

    async find(question, { allowStale, lastModel }) {
      if (!on) {
        counts.bypass += 1;
        return { state: "miss" };
      }
      const key = await seal.key(question);
      const judge = (entry: CacheEntry): Judgement => judgeEntry(entry, now(), times, lastModel);
      const own = held.get(key, now());
      const ownVerdict = own === null ? null : judge(own);
      if (own !== null && ownVerdict?.state === "fresh") return report(own, ownVerdict, allowStale);

      const before = purges;
      const answer = await ask("get", cacheLimits.lookupMs, async () => {
        const shard = deps.shards(shardOf(question.sha256, plan));
        const got = await shard.get(key, now());
        if (!got.ok || got.stored === null) return got.ok ? { ok: true as const, entry: null, wrong: false } : got;
        const entry = await verify(question.tenant, got.stored.value, key);
        if (entry === null) await shard.drop(key);
        return { ok: true as const, entry, wrong: entry === null };
      });
      if (answer === null || answer.wrong) {
        counts.error += 1;
        // The store is down or not to be believed; what this isolate checked a minute ago still is.
        const stands = own !== null && ownVerdict?.state === "stale" && allowStale && before === purges;
        return stands ? { entry: own, ...ownVerdict } : { state: "error" };
      }
      if (answer.entry === null) {
        held.delete(key);
        counts.miss += 1;
        return { state: "miss" };
      }
      if (before === purges) held.put(key, answer.entry, now());
      return report(answer.entry, judge(answer.entry), allowStale);
    },

    keeps,

    async keep(question, answer, vector, noStore) {
      if (!keeps(question, answer, noStore)) return;
      const { caption, tags, image, model, route, usage } = answer;
      const before = purges;
      const [key, asked] = await Promise.all([seal.key(question), seal.asked(question)]);
      const entry = await seal.sign(question.tenant, {
        v: cacheVersion,
        key,
        asked,
        caption,
        tags,
        image,
        model,
        route,
        encoder: vector?.encoder ?? null,
        usage,
        ...entryTimes(now(), times),
      });
      if (before !== purges) return;
      held.put(key, entry, now());
      const value = JSON.stringify(entry);
      const end = entry.stale_until;
      const { tenant, sha256 } = question;
      const row = { key, tenant, image: sha256, stale_until: end, value };
      const [put, added] = await Promise.all([
        ask("put", cacheLimits.writeMs, async () => deps.shards(shardOf(sha256, plan)).put(row, plan.bound, now())),
        vector === null
          ? { evicted: 0 }
          : ask("add", cacheLimits.writeMs, async () =>
              deps
                .similar(tenant)
                .add(
                  { key, asked, sha256, stale_until: end, value, encoder: vector.encoder, vector: vector.base64 },
                  cacheLimits.vectors,
                ),
            ),
      ]);
      counts.evicted += put?.evicted ?? 0;
      counts.failedWrites += (put === null ? 1 : 0) + (added === null ? 1 : 0);
    },

    async similarTo(question, { encoder, floor: manifestFloor, base64 }) {
      const floor = config.fallback_similarity_floor ?? manifestFloor;
      if (!on || floor === null) return { state: "miss" };
      const asked = await seal.asked(question);
      const answer = await ask("similar", cacheLimits.similarMs, async () => {
        const index = deps.similar(question.tenant);
        const got = await index.find({ asked, encoder, vector: base64, floor }, now());
        if (!got.ok || got.found === null) return got.ok ? { ok: true as const, hit: null, wrong: false } : got;
        const { key, value, similarity } = got.found;
        const entry = await verify(question.tenant, value, key);
        const wrong = entry === null || entry.asked !== asked || entry.encoder !== encoder;
        if (wrong) await index.drop(key);
        return { ok: true as const, hit: wrong ? null : { entry, similarity }, wrong };
      });
      if (answer === null || answer.wrong) {
        counts.error += 1;
        return { state: "error" };
      }
      if (answer.hit === null) return { state: "miss" };
      const verdict = judgeEntry(answer.hit.entry, now(), times, null);
      if (verdict.state === "gone") return { state: "miss" };
      return { ...answer.hit, ...verdict, state: "similar" };
    },

    async purge(scope) {
      forgetHeld();
      const done: PurgeReport = { removed: 0, vectors: 0, failed: 0 };
      const tenants = new Set<string>(scope.kind === "all" ? [] : [scope.tenant]);
      // All sixteen, also those that today's plan does not use: an older one may have.
      await Promise.all(
        Array.from({ length: maxShards }, async (_, index) => {
          const answer = await ask("purge", cacheLimits.writeMs, async () => deps.shards(index).purge(scope));
          done.removed += answer?.removed ?? 0;
          done.failed += answer === null ? 1 : 0;
          if (scope.kind === "all") for (const tenant of answer?.tenants ?? []) tenants.add(tenant);
        }),
      );
      await Promise.all(
        [...tenants].map(async (tenant) => {
          const picture = scope.kind === "image" ? scope.sha256 : null;
          const answer = await ask("purge", cacheLimits.writeMs, async () => deps.similar(tenant).purge(picture));
          done.vectors += answer?.removed ?? 0;
          done.failed += answer === null ? 1 : 0;
        }),
      );
      // A look that began before the shards were empty may have been held meanwhile.
      forgetHeld();
      return done;
    },

    bypass() {
      counts.bypass += 1;
    },

    setEpoch(next) {
      if (next !== epoch) forgetHeld();
      epoch = next;
    },

    counts: () => ({ ...counts }),
  };
}
