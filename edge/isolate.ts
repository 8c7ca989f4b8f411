import { readBreakerLimits } from "../shared/breaker-limits.ts";
import { startClock, tick, type Clock } from "../shared/clock.ts";
import { readConfig, renderProblems, type Config, type Profile } from "../shared/config.ts";
import { deposit, freshRetryBudget, readTokens, takeToken, type RetryBudget } from "../shared/retry-budget.ts";
import { smoothAttemptMs } from "../shared/retry.ts";
import type { BreakersHost } from "./authority-link.ts";
import { createBreakers, type Breakers } from "./breakers.ts";
import type { StoreFailure } from "./cache-ports.ts";
import { createCaptionCache, type CaptionCache } from "./caption-cache.ts";
import type { Deps, Objects } from "./deps.ts";
import { createLog } from "./log.ts";
import { createSidecarClient, type SidecarClient } from "./sidecar-client.ts";
import type { Random } from "../shared/random.ts";

/** The tokens that retries of this isolate are paid with, and what its attempts took of late. */
export type RetryAccount = {
  /** Pays for one retry; false = the budget is empty. */
  take(): boolean;
  /** Pays in for one successful call. */
  deposit(): void;
  /** Folds one attempt's time (ms) into the smoothed one, and gives it. */
  smooth(elapsedMs: number): number;
  /** Tokens there are. */
  tokens(): number;
};

/**
 * The model the sidecar last reported, for callers who named none (`wish` null) and for those who want what is loaded
 * (`auto`); null = none yet. A model asked for by name is its own answer, whatever else is loaded by now.
 */
export type LastModel = { get(wish: string | null): string | null; set(wish: string | null, model: string): void };

/** What an isolate keeps from one request to the next: plain data behind functions, no promise and no request. */
export type Isolate = {
  config: Config;
  profile: Profile;
  sidecar: SidecarClient;
  objects: Objects | null;
  breakers: { bind(host: BreakersHost): Breakers };
  cache: CaptionCache;
  retryBudget: RetryAccount;
  lastModel: LastModel;
  /** Monotonic ms. */
  now: () => number;
  random: Random;
};

const fails = async (): Promise<StoreFailure> => ({ ok: false, code: "store_failed" });
/** What stands in where no store is bound: the cache is switched off then, and never asks it. */
const absent = { get: fails, put: fails, drop: fails, purge: fails, add: fails, find: fails };

/** Reads the environment and builds what stands on it; a text = what is wrong with the configuration. */
export function openIsolate(deps: Deps, env: object): Isolate | string {
  const reading = readConfig(Object.fromEntries(Object.entries(env).filter(([, value]) => typeof value === "string")));
  if (!reading.ok) return renderProblems(reading.problems);
  const { config, profile } = reading;
  const objects = deps.openObjects(env);
  let clock: Clock | null = null;
  const now = (): number => {
    const wallMs = deps.now();
    clock = clock === null ? startClock(wallMs) : tick(clock, wallMs);
    return clock.elapsedMs;
  };
  const random: Random = () => fractionOf(deps.random(4));
  return {
    config,
    profile,
    objects,
    now,
    random,
    sidecar: createSidecarClient(deps, config),
    breakers: createBreakers({
      limits: readBreakerLimits(config),
      now: deps.now,
      startTimer: deps.startTimer,
      randomBytes: deps.random,
      random,
    }),
    cache: createCaptionCache({
      config: objects === null ? { ...config, fallback_cache_enabled: false } : config,
      shards: objects?.shards ?? (() => absent),
      similar: objects?.similar ?? (() => absent),
      now: deps.now,
      // Keys of the store are derived from it: entries made under an older secret are not found any more.
      secret: config.sidecar_secret[0] ?? "",
      startTimer: deps.startTimer,
      log: createLog(deps, config.log_level, { operation: "cache" }),
    }),
    retryBudget: openRetryAccount(now),
    lastModel: openLastModel(),
  };
}

function openRetryAccount(now: () => number): RetryAccount {
  let budget: RetryBudget | null = null;
  let smoothedMs: number | null = null;
  const current = (): RetryBudget => (budget ??= freshRetryBudget(now()));
  return {
    take() {
      const { next, taken } = takeToken(current(), now());
      budget = next;
      return taken;
    },
    deposit() {
      budget = deposit(current(), now()).next;
    },
    smooth(elapsedMs) {
      smoothedMs = smoothAttemptMs(smoothedMs, elapsedMs);
      return smoothedMs;
    },
    tokens: () => readTokens(current(), now()),
  };
}

function openLastModel(): LastModel {
  const last = new Map<string | null, string>();
  return {
    get: (wish) => last.get(wish) ?? null,
    set: (wish, model) => {
      if (wish === null || wish === "auto") last.set(wish, model);
    },
  };
}

/** Four random bytes as a number in [0, 1). */
function fractionOf(bytes: Uint8Array): number {
  const [a = 0, b = 0, c = 0, d = 0] = bytes;
  return (((a * 256 + b) * 256 + c) * 256 + d) / 2 ** 32;
}
