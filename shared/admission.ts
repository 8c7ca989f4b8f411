/** Why somebody is refused at the door; `spent` is the caller's own deadline, the rest is our want of room. */
export const refusalReasons = ["full", "late", "memory", "draining", "spent"] as const;
export type RefusalReason = (typeof refusalReasons)[number];

/** A refusal and the ms after which a repeat makes sense; null = it does not. */
export type Refusal = { reason: RefusalReason; retryAfterMs: number | null };

/** What a permit of LM Studio is doing: working for a caller, for one who left, or for nobody we know of. */
export const permitStates = ["in_use", "draining", "lost"] as const;
export type PermitState = (typeof permitStates)[number];

/** One who waits for a permit. */
export type Waiting = {
  id: number;
  tenant: string;
  /** When its last caller leaves, in ms of `now`; at that time it is expired. */
  deadlineAt: number;
  /** The loaded instance it is for, and the calls that works on at once; null = not reported. */
  instance: string;
  parallel: number | null;
};

/** One permit that is out. */
export type Permit = { id: number; state: PermitState; since: number };

/** Who is inside the sidecar, who waits for LM Studio, and who has it: plain JSON. */
export type AdmissionState = {
  lastId: number;
  /** Everybody inside; `wants` = will ask for a permit and has not yet. */
  inside: readonly { id: number; wants: boolean }[];
  waiting: readonly Waiting[];
  /** Tenants with somebody waiting, next one first. */
  turns: readonly string[];
  permits: readonly Permit[];
  /** The instance asked for last: what arrivals are judged by. */
  target: { instance: string; parallel: number | null } | null;
  /** Instances that crashed and are still the same. */
  crashed: readonly string[];
  /** Smoothed time a permit is out, in ms; null = not known yet. */
  serviceMs: number | null;
  /** When LM Studio is asked whether lost permits are free, in ms of `now`. */
  tryAt: number | null;
  draining: boolean;
};

/** Bounds of admission. */
export type AdmissionLimits = { maxInside: number };

/** What is known of one who comes. */
export type Arrival = {
  timeLeftMs: number;
  /** It will ask LM Studio. */
  needsPermit: boolean;
  /** Time it is likely to need before that: decoding and encoding. */
  beforeMs: number;
  memory: { used: number; limit: number };
};

/** What a change of the line brings: who now has a permit, and who waited too long; both are gone from the line. */
export type Moved = { next: AdmissionState; granted: number[]; expired: number[] };

/** Less time than this is as good as none: nothing could come of it. */
export const leastUsefulMs = 50;
/** Share of its memory above which the sidecar takes no more work. */
export const memoryShare = 0.9;
/** Weight of the newest service time in the mean. */
const newestShare = 0.2;
/** Ms a stopping sidecar asks callers to wait: the time until its successor is likely to listen. */
export const drainingRetryMs = 5000;
const leastRetryMs = 1000;

/** Nobody inside, nothing known. */
export function freshAdmission(): AdmissionState {
  return {
    lastId: 0,
    inside: [],
    waiting: [],
    turns: [],
    permits: [],
    target: null,
    crashed: [],
    serviceMs: null,
    tryAt: null,
    draining: false,
  };
}

/** Refusals that hold for everybody, those who only join work under way too: a spent deadline, and stopping. */
export function turnAway(state: AdmissionState, timeLeftMs: number): Refusal | null {
  if (timeLeftMs <= leastUsefulMs) return { reason: "spent", retryAfterMs: null };
  return state.draining ? { reason: "draining", retryAfterMs: drainingRetryMs } : null;
}

/** Lets one in as `id`, or says why not; who is let in leaves by `leave`. */
export function arrive(
  state: AdmissionState,
  arrival: Arrival,
  now: number,
  limits: AdmissionLimits,
): { next: AdmissionState; verdict: { admitted: true; id: number } | { admitted: false; refusal: Refusal } } {
  const refuse = (refusal: Refusal) => ({ next: state, verdict: { admitted: false as const, refusal } });
  const turned = turnAway(state, arrival.timeLeftMs);
  if (turned !== null) return refuse(turned);
  const waitMs = arrival.needsPermit ? predictWaitMs(state, now) : 0;
  const retryAfterMs = Math.max(leastRetryMs, waitMs);
  if (arrival.memory.used > memoryShare * arrival.memory.limit) return refuse({ reason: "memory", retryAfterMs });
  if (state.inside.length >= limits.maxInside) return refuse({ reason: "full", retryAfterMs });
  if (waitMs + arrival.beforeMs > arrival.timeLeftMs) return refuse({ reason: "late", retryAfterMs });
  const id = state.lastId + 1;
  const inside = [...state.inside, { id, wants: arrival.needsPermit }];
  return { next: { ...state, lastId: id, inside }, verdict: { admitted: true, id } };
}

/** Takes one out again; twice is as once. */
export function leave(state: AdmissionState, id: number): AdmissionState {
  return { ...state, inside: state.inside.filter((each) => each.id !== id) };
}

/**
 * Time until a permit is free for one who comes now, in ms: none while more are free than want one, else
 * ceil((those before + 1) / permits) × mean service time. With every permit lost, first the time until the next try.
 */
export function predictWaitMs(state: AdmissionState, now: number): number {
  return waitAtMs(state, state.waiting.length + state.inside.filter(({ wants }) => wants).length, now);
}

function waitAtMs(state: AdmissionState, before: number, now: number): number {
  const serviceMs = state.serviceMs ?? 0;
  const lost = state.permits.filter((permit) => permit.state === "lost").length;
  const usable = capacityOf(state, state.target) - lost;
  if (usable <= 0) return Math.max(0, (state.tryAt ?? now) - now) + before * serviceMs;
  const free = Math.max(0, usable - (state.permits.length - lost));
  return before < free ? 0 : Math.ceil((before - free + 1) / usable) * serviceMs;
}

/** Calls an instance may work on at once: what it reports, 1 when it does not or has crashed. */
function capacityOf(state: AdmissionState, target: AdmissionState["target"]): number {
  if (target === null || target.parallel === null || state.crashed.includes(target.instance)) return 1;
  return Math.max(1, target.parallel);
}

/** Puts one into the line as `id`, and hands out what is free; `visit` is who of those inside it is, null = a stranger. */
export function ask(
  state: AdmissionState,
  wish: Omit<Waiting, "id"> & { visit: number | null },
  now: number,
): Moved & { id: number } {
  const { visit, ...rest } = wish;
  const id = state.lastId + 1;
  const next: AdmissionState = {
    ...state,
    lastId: id,
    inside: state.inside.map((each) => (each.id === visit ? { id: each.id, wants: false } : each)),
    waiting: [...state.waiting, { id, ...rest }],
    turns: state.turns.includes(wish.tenant) ? state.turns : [...state.turns, wish.tenant],
    target: { instance: wish.instance, parallel: wish.parallel },
  };
  return { id, ...handOut(next, now) };
}

/** Takes one out of the line; the next may fit where it did not. */
export function cancel(state: AdmissionState, id: number, now: number): Moved {
  return handOut(withoutWaiting(state, id), now);
}

/** Another caller of the same work waits longer. */
export function renew(state: AdmissionState, id: number, deadlineAt: number): AdmissionState {
  const waiting = state.waiting.map((each) =>
    each.id === id ? { ...each, deadlineAt: Math.max(each.deadlineAt, deadlineAt) } : each,
  );
  return { ...state, waiting };
}

/** The caller of a permit left and LM Studio may still work for it: it stays out. */
export function drainPermit(state: AdmissionState, id: number): AdmissionState {
  return { ...state, permits: changed(state.permits, id, "draining") };
}

/** A draining permit's end never came: it stays out until `freeLost`. `tryAt` = when LM Studio is asked. */
export function losePermit(state: AdmissionState, id: number): AdmissionState {
  return { ...state, permits: changed(state.permits, id, "lost") };
}

/** When the next try for lost permits is. */
export function planTry(state: AdmissionState, tryAt: number): AdmissionState {
  return { ...state, tryAt };
}

/** A permit is back; the one who is next has it at once. `sampled` = its time tells how long LM Studio takes. */
export function freePermit(state: AdmissionState, id: number, sampled: boolean, now: number): Moved {
  const permit = state.permits.find((each) => each.id === id);
  if (permit === undefined) return { next: state, granted: [], expired: [] };
  const took = Math.max(0, now - permit.since);
  const { serviceMs } = state;
  const mean = serviceMs === null ? took : serviceMs + newestShare * (took - serviceMs);
  const permits = state.permits.filter((each) => each !== permit);
  return handOut({ ...state, permits, serviceMs: sampled ? mean : serviceMs }, now);
}

/** LM Studio answers again: whatever was lost is free. */
export function freeLost(state: AdmissionState, now: number): Moved {
  return handOut({ ...state, permits: state.permits.filter((permit) => permit.state !== "lost"), tryAt: null }, now);
}

/** An instance crashed under load: one call at a time until it is another. */
export function distrust(state: AdmissionState, instance: string): AdmissionState {
  return state.crashed.includes(instance) ? state : { ...state, crashed: [...state.crashed, instance] };
}

/** The instances that are loaded now: one that was gone in between is another, whatever its name. */
export function knowInstances(state: AdmissionState, loaded: readonly string[], now: number): Moved {
  const crashed = state.crashed.filter((instance) => loaded.includes(instance));
  if (crashed.length === state.crashed.length) return { next: state, granted: [], expired: [] };
  return handOut({ ...state, crashed }, now);
}

/** Nobody comes in from now on; those in line who could not be done before their deadline are taken out and named. */
export function drain(state: AdmissionState, now: number): { next: AdmissionState; refused: number[] } {
  const refused: number[] = [];
  let kept = 0;
  let rest: AdmissionState = state;
  for (let entry = pick(rest); entry !== null; entry = pick(rest)) {
    rest = served(rest, entry);
    const doneAt = now + waitAtMs(state, kept, now) + (state.serviceMs ?? 0);
    if (doneAt > entry.deadlineAt) refused.push(entry.id);
    else kept += 1;
  }
  const next = refused.reduce((each, id) => withoutWaiting(each, id), state);
  return { next: { ...next, draining: true }, refused };
}

/** Gives what is free to those whose turn it is; whoever's time is over is taken out and never runs. */
function handOut(state: AdmissionState, now: number): Moved {
  const expired = state.waiting.filter(({ deadlineAt }) => deadlineAt <= now).map(({ id }) => id);
  const granted: number[] = [];
  let next = expired.reduce((each, id) => withoutWaiting(each, id), state);
  for (let entry = pick(next); entry !== null; entry = pick(next)) {
    // Whoever's turn it is holds the line up: passing it by would let a busier model starve it.
    if (next.permits.length >= capacityOf(next, entry)) break;
    granted.push(entry.id);
    next = { ...served(next, entry), permits: [...next.permits, { id: entry.id, state: "in_use", since: now }] };
  }
  return { next, granted, expired };
}

/** The one whose turn it is: of the tenant at the head of the round the earliest deadline, then the earliest to come. */
function pick(state: AdmissionState): Waiting | null {
  const [tenant] = state.turns;
  let best: Waiting | null = null;
  for (const each of state.waiting) {
    if (each.tenant === tenant && (best === null || each.deadlineAt < best.deadlineAt)) best = each;
  }
  return best;
}

/** Out of the line, its tenant behind all others. */
function served(state: AdmissionState, entry: Waiting): AdmissionState {
  const { waiting } = withoutWaiting(state, entry.id);
  const others = state.turns.filter((tenant) => tenant !== entry.tenant);
  const turns = waiting.some(({ tenant }) => tenant === entry.tenant) ? [...others, entry.tenant] : others;
  return { ...state, waiting, turns };
}

function withoutWaiting(state: AdmissionState, id: number): AdmissionState {
  const waiting = state.waiting.filter((each) => each.id !== id);
  return { ...state, waiting, turns: state.turns.filter((each) => waiting.some(({ tenant }) => tenant === each)) };
}

function changed(permits: readonly Permit[], id: number, to: PermitState): Permit[] {
  return permits.map((permit) => (permit.id === id ? { ...permit, state: to } : permit));
}

/** Figures for metrics: how many are inside and in line, permits out by state, and how many more LM Studio takes. */
export function viewAdmission(state: AdmissionState): {
  inside: number;
  waiting: number;
  permits: Record<PermitState | "free", number>;
} {
  const count = (wanted: PermitState): number => state.permits.filter((permit) => permit.state === wanted).length;
  const free = Math.max(0, capacityOf(state, state.target) - state.permits.length);
  return {
    inside: state.inside.length,
    waiting: state.waiting.length,
    permits: { free, in_use: count("in_use"), draining: count("draining"), lost: count("lost") },
  };
}
