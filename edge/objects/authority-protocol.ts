import type { BreakerDelta, BreakerSnapshot } from "../../shared/breaker-sharing.ts";
import type { Admission, BreakerEvent, BreakerName, Ending, Token } from "../../shared/breaker-state.ts";
import type { BreakerView } from "../../shared/breaker-view.ts";
import type { Act } from "../../shared/breaker.ts";

/** What one isolate tells the object: plain JSON. Fields are only ever added; unknown ones are left alone. */
export type Batch = {
  /** Random name of the isolate, as long as it lives. */
  isolate: string;
  /** 1, 2, 3 …; a batch sent again has its old number, and is applied once. */
  seq: number;
  /** Ended calls and refusals, oldest epoch first. */
  deltas: readonly { name: BreakerName; delta: BreakerDelta }[];
  /** Ended probes that the object had let through. */
  leases: readonly LeaseReport[];
  /** Epochs this isolate's own copies have reached without the object and would give up for what it says. */
  epochs: Partial<Record<BreakerName, number>>;
  /** What the isolate has counted beside; not read yet. */
  metrics?: unknown;
};

/** How one probe ended. */
export type LeaseReport = {
  name: BreakerName;
  epoch: number;
  lease: number;
  sample: Ending;
  /** What a failure asked for, in ms. */
  retryAfterMs: number | null;
};

/** What every isolate may know: both breakers, deadlines as remaining ms. */
export type AuthoritySnapshot = {
  breakers: Record<BreakerName, BreakerSnapshot>;
  /** Isolates heard in the last 10 s, at least 1: each takes its part of a ramp. */
  share: number;
  /** Changes when isolates must forget what they cached. */
  cacheEpoch: number;
};

/** The object's own refusal to answer; `overloaded` must not be asked again at once. */
export type Unavailable = { ok: false; code: "unreachable" | "overloaded" | "broken"; detail: string };

export type ReportReply = { ok: true; snapshot: AuthoritySnapshot } | Unavailable;

/** One isolate's wish to let a call through. */
export type Ask = {
  /** Number of the wish in its isolate; the same wish delivered twice gets the same lease. */
  id: number;
  /** Epoch of the isolate's own copy. */
  epoch: number;
};

/** `admitted`: no lease is needed, the breaker is closed and the caller's own copy says how many may go. */
export type Granting =
  | { kind: "lease"; token: Token & { lease: number } }
  | { kind: "admitted" }
  | { kind: "refused"; refusal: Extract<Admission, { admitted: false }> };

export type AcquireReply = { ok: true; granting: Granting; snapshot: AuthoritySnapshot } | Unavailable;

/** One breaker as its owner sees it; `by` is the key id of whoever opened it by hand. */
export type AuthorityView = BreakerView & { by: string | null };

export type ActReply = { ok: true; view: AuthorityView; snapshot: AuthoritySnapshot } | Unavailable;

/** An event of a breaker with its name and time; `by` is the key id that asked for an act. */
export type NamedEvent = {
  name: BreakerName;
  /** Unix ms. */
  atMs: number;
  event: BreakerEvent;
  by: string | null;
};

/** Everything there is to see. */
export type AuthorityReading = {
  breakers: Record<BreakerName, AuthorityView>;
  /** The last changes, oldest first. */
  events: readonly NamedEvent[];
  share: number;
  cacheEpoch: number;
  /** Failed reads and writes of the object's own storage. */
  storeErrors: Readonly<Record<"load" | "save" | "alarm", number>>;
  /** Listeners that threw. */
  observerErrors: number;
};

export type ReadReply = { ok: true; reading: AuthorityReading } | Unavailable;
export type CacheEpochReply = { ok: true; cacheEpoch: number } | Unavailable;

/** The object as others see it: one per upstream. Methods answer with unions; one that rejects counts as unreachable. */
export type AuthorityPort = {
  report(batch: Batch): Promise<ReportReply>;
  acquire(name: BreakerName, isolate: string, ask: Ask): Promise<AcquireReply>;
  act(name: BreakerName, act: Act, keyId: string): Promise<ActReply>;
  read(): Promise<ReadReply>;
  bumpCacheEpoch(): Promise<CacheEpochReply>;
};
