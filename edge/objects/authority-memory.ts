import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import { restoreBreaker, saveBreaker } from "../../shared/breaker-restore.ts";
import { breakerNames, type BreakerName, type BreakerState } from "../../shared/breaker-state.ts";
import type { Granting, NamedEvent } from "./authority-protocol.ts";

/** What the object remembers of one isolate. */
export type Heard = {
  /** Number of the last batch that was applied. */
  seq: number;
  /** When it was heard last, ms of the object's own clock. */
  atMs: number;
  /** Its last wish of each breaker and the answer: not kept over a restart. */
  asked: Partial<Record<BreakerName, { id: number; epoch: number; granting: Granting }>>;
};

/** All that outlives a restart. */
export type Memory = {
  states: Record<BreakerName, BreakerState>;
  cacheEpoch: number;
  /** In the order they were heard, oldest first. */
  heard: Map<string, Heard>;
  /** Key ids of whoever opened a breaker by hand. */
  authors: Record<BreakerName, string | null>;
  /** The last changes, oldest first. */
  events: NamedEvent[];
};

/** Isolates remembered at most, least recently heard forgotten first; the platform repeats a call for some 10 s only. */
export const maxHeard = 512;
/** Changes remembered. */
export const maxEvents = 100;

const savedVersion = 1;

/** The memory as JSON text: it holds no time that a restarted process would misread. */
export function saveMemory(memory: Memory, now: number, wallNow: number): string {
  return JSON.stringify({
    v: savedVersion,
    saved_at: wallNow,
    breakers: {
      sidecar: saveBreaker(memory.states.sidecar, now, wallNow),
      lm_studio_api: saveBreaker(memory.states.lm_studio_api, now, wallNow),
    },
    cache_epoch: memory.cacheEpoch,
    heard: [...memory.heard].map(([isolate, { seq, atMs }]) => [isolate, seq, now - atMs]),
    authors: memory.authors,
    events: memory.events,
  });
}

/**
 * The memory a text holds, as of now. What cannot be read is new: closed breakers and a cache epoch that no isolate
 * has seen (clock seconds). `saved` null or undefined = nothing was ever stored.
 */
export function restoreMemory(
  saved: unknown,
  now: number,
  wallNow: number,
  limits: BreakerLimits,
): { memory: Memory; happened: NamedEvent[] } {
  const nothing = saved === null || saved === undefined;
  const fields = nothing ? {} : readFields(saved);
  const breakers = asRecord(fields["breakers"]);
  const happened: NamedEvent[] = [];
  const restore = (name: BreakerName): BreakerState => {
    // Something was stored, and this breaker is not in it: that is unreadable, not absent.
    const { state, events } = restoreBreaker(nothing ? undefined : (breakers[name] ?? "none"), now, wallNow, limits);
    for (const event of events) happened.push({ name, atMs: wallNow, event, by: null });
    return state;
  };
  const states = { sidecar: restore("sidecar"), lm_studio_api: restore("lm_studio_api") };
  const authors = asRecord(fields["authors"]);
  const author = (name: BreakerName): string | null => {
    const by = authors[name];
    return typeof by === "string" ? by : null;
  };
  const cacheEpoch = fields["cache_epoch"];
  const memory: Memory = {
    states,
    cacheEpoch: isCount(cacheEpoch) ? cacheEpoch : Math.max(0, Math.floor(wallNow / 1000)),
    heard: readHeard(fields["heard"], now, Math.max(0, wallNow - readNumber(fields["saved_at"], wallNow))),
    authors: { sidecar: author("sidecar"), lm_studio_api: author("lm_studio_api") },
    events: readEvents(fields["events"]),
  };
  return { memory, happened };
}

function readFields(saved: unknown): Record<string, unknown> {
  try {
    const fields = asRecord(typeof saved === "string" ? JSON.parse(saved) : saved);
    return fields["v"] === savedVersion ? fields : {};
  } catch {
    return {};
  }
}

/** Isolates as they were heard, `gapMs` longer ago than when they were saved. */
function readHeard(value: unknown, now: number, gapMs: number): Map<string, Heard> {
  const heard = new Map<string, Heard>();
  for (const row of Array.isArray(value) ? value.slice(-maxHeard) : []) {
    const [isolate, seq, agoMs] = Array.isArray(row) ? (row as unknown[]) : [];
    if (typeof isolate !== "string" || !isCount(seq)) continue;
    heard.set(isolate, { seq, atMs: now - gapMs - Math.max(0, readNumber(agoMs, 0)), asked: {} });
  }
  return heard;
}

function readEvents(value: unknown): NamedEvent[] {
  const rows: unknown[] = Array.isArray(value) ? value.slice(-maxEvents) : [];
  return rows.filter((row): row is NamedEvent => {
    const { name, atMs, event } = asRecord(row);
    return breakerNames.some((known) => known === name) && typeof atMs === "number" && "kind" in asRecord(event);
  });
}

function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function readNumber(value: unknown, otherwise: number): number {
  return typeof value === "number" && Number.isFinite(value) ? value : otherwise;
}
