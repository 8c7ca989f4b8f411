import type { BreakerName } from "../../shared/breaker-state.ts";
import type { Answer, Change, Ledger, Violation } from "./ledger.ts";

/** What a run came to. */
export type Stats = {
  virtualMs: number;
  requests: number;
  answered: Partial<Record<Answer, number>>;
  /** Calls the edge made to the box. */
  calls: number;
  callsPerRequest: number;
  /** Calls LM Studio received. */
  lmStudioCalls: number;
  retries: number;
  /** Shares of the requests: answered with a caption, and refused by a breaker. */
  liveShare: number;
  refusedShare: number;
  /** Of the object's breakers, both together. */
  opens: number;
  /** Of breaker `lm_studio_api` of the object: most in any minute. */
  transitionsPerMinute: number;
  /** Most probes of LM Studio at once. */
  peakProbes: number;
  /** What happened while LM Studio was down; null = the scenario has no such time. */
  outage: OutageStats | null;
  /** Calls that passed in each of the first ten seconds after the breaker closed for the last time. */
  ramp: number[];
  /** From the closing of the breaker to the first second of which 95 % was answered live; null = it did not close. */
  recoveredMs: number | null;
  /** From lasting health to the last closing of a breaker; null = none was open, or it did not close. */
  closedAfterMs: number | null;
  /** The cooldown before it, in ms. */
  lastCooldownMs: number | null;
};

/** What an outage cost. */
export type OutageStats = {
  requests: number;
  /** Calls LM Studio received. */
  calls: number;
  /** Of those that passed a breaker: probes, and what passed although the object had opened it already. */
  probes: number;
  leaked: number;
};

/** A run's violations and figures. */
export type Outcome = { violations: readonly Violation[]; stats: Stats };

/** What a ledger does not know by itself. */
export type StatsFacts = {
  virtualMs: number;
  lmStudioCalls: number;
  outage?: { fromMs: number; toMs: number; calls: number };
  /** When all was well for good. */
  healedAt?: number;
};

const minuteMs = 60_000;

/** Adds a run up. */
export function sumUp(ledger: Ledger, { virtualMs, lmStudioCalls, outage, healedAt }: StatsFacts): Stats {
  const { requests, answered, boxCalls, changes } = ledger;
  const share = (count: number): number => (requests === 0 ? 0 : count / requests);
  const mine = changesOf(changes, "lm_studio_api");
  const closing = mine.findLast(({ to }) => to === "closed");
  const lastClosing = changes.findLast(({ to }) => to === "closed");
  return {
    virtualMs,
    requests,
    answered: Object.fromEntries(Object.entries(answered).sort(([left], [right]) => (left < right ? -1 : 1))),
    calls: boxCalls,
    callsPerRequest: share(boxCalls),
    lmStudioCalls,
    retries: ledger.retries,
    liveShare: share(answered.live ?? 0),
    refusedShare: share((answered.ERR_CB_OPEN ?? 0) + (answered.ERR_CB_HALF_OPEN ?? 0)),
    opens: changes.filter(({ to }) => to === "open").length,
    transitionsPerMinute: Math.max(0, ...mine.map((change) => countWithin(mine, change.atMs))),
    peakProbes: ledger.probes.lm_studio_api.peak,
    outage: outage === undefined ? null : sumUpOutage(ledger, mine, outage),
    ramp: closing === undefined ? [] : countSeconds(ledger, closing.atMs),
    recoveredMs: closing === undefined ? null : findRecovery(ledger, closing.atMs),
    closedAfterMs:
      healedAt === undefined || lastClosing === undefined || lastClosing.atMs < healedAt
        ? null
        : lastClosing.atMs - healedAt,
    lastCooldownMs: mine.findLast(({ to }) => to === "open")?.cooldownMs ?? null,
  };
}

/** One breaker's changes, in order. */
export function changesOf(changes: readonly Change[], name: BreakerName): Change[] {
  return changes.filter((change) => change.name === name);
}

function sumUpOutage(
  { arrivals, passed }: Ledger,
  changes: readonly Change[],
  { fromMs, toMs, calls }: NonNullable<StatsFacts["outage"]>,
): OutageStats {
  const during = passed.filter(({ atMs }) => atMs >= fromMs && atMs < toMs);
  const isOpen = (atMs: number): boolean => changes.findLast((change) => change.atMs <= atMs)?.to === "open";
  return {
    requests: arrivals.slice(fromMs / 1000, toMs / 1000).reduce((sum, count) => sum + count, 0),
    calls,
    probes: during.filter(({ probe }) => probe).length,
    leaked: during.filter(({ atMs, probe }) => !probe && isOpen(atMs)).length,
  };
}

function countSeconds({ passed }: Ledger, fromMs: number): number[] {
  const seconds = Array.from({ length: 10 }, () => 0);
  for (const { atMs, probe } of passed) {
    const second = Math.floor((atMs - fromMs) / 1000);
    const count = seconds[second];
    if (!probe && count !== undefined) seconds[second] = count + 1;
  }
  return seconds;
}

function countWithin(changes: readonly Change[], fromMs: number): number {
  return changes.filter(({ atMs }) => atMs >= fromMs && atMs < fromMs + minuteMs).length;
}

function findRecovery({ arrivals, live }: Ledger, closedAt: number): number | null {
  for (let second = Math.ceil(closedAt / 1000); second < arrivals.length; second += 1) {
    const asked = arrivals[second] ?? 0;
    if (asked > 0 && (live[second] ?? 0) >= 0.95 * asked) return Math.max(0, second * 1000 - closedAt);
  }
  return null;
}
