import type { Config, Profile } from "../shared/config.ts";
import type { Deps } from "./deps.ts";
import type { Deadline } from "./deadline.ts";
import type { Log } from "./log.ts";
import type { BodyBudget } from "./body-budget.ts";
import type { SidecarClient } from "./sidecar-client.ts";

/** What one request knows of itself, made before its handler runs. */
export type Scope = {
  deps: Deps;
  config: Config;
  profile: Profile;
  requestId: string;
  traceParent: string;
  startedMs: number;
  /** The whole budget, from the head of the request. */
  deadline: Deadline;
  /** Aborts when the caller leaves. */
  caller: AbortSignal;
  sidecar: SidecarClient;
  budget: BodyBudget;
  log: Log;
  /** What the access line will tell; handlers fill it in. */
  facts: { bytes: number; source: string | null };
};
