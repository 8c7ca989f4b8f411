import type { Gate } from "../shared/attempt-loop.ts";
import type { Config, Profile } from "../shared/config.ts";
import type { Breakers } from "./breakers.ts";
import type { CaptionCache } from "./caption-cache.ts";
import type { Deps, Objects } from "./deps.ts";
import type { Deadline } from "./deadline.ts";
import type { AttemptPermit } from "./gate.ts";
import type { Log } from "./log.ts";
import type { BodyBudget } from "./body-budget.ts";
import type { LastModel, RetryAccount } from "./isolate.ts";
import type { SidecarClient } from "./sidecar-client.ts";
import type { Random } from "../shared/random.ts";

/** What one request knows of itself, made before its handler runs. */
export type Scope = {
  deps: Deps;
  config: Config;
  profile: Profile;
  requestId: string;
  traceParent: string;
  /** Unix ms, as `deps.now` said. */
  startedMs: number;
  /** Monotonic ms, for waits and differences. */
  now: () => number;
  random: Random;
  /** The whole budget, from the head of the request. */
  deadline: Deadline;
  /** Aborts when the caller leaves. */
  caller: AbortSignal;
  sidecar: SidecarClient;
  breakers: Breakers;
  /** The breakers in the way of a call for a caption, and of one for evidence or vectors alone. */
  gates: Record<"caption" | "evidence", Gate<AttemptPermit>>;
  /** Null = no object is bound: this isolate is on its own. */
  objects: Objects | null;
  cache: CaptionCache;
  retryBudget: RetryAccount;
  lastModel: LastModel;
  budget: BodyBudget;
  /** Keeps the context alive for work that goes on behind the answer. */
  waitUntil: (work: Promise<unknown>) => void;
  log: Log;
  /** Log lines this isolate could not write. */
  lostLines: () => number;
  /** What the access line will tell; handlers fill it in. */
  facts: { bytes: number; source: string | null; attempts: number };
};
