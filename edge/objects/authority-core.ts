import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import { applyDelta, takeSnapshot } from "../../shared/breaker-sharing.ts";
import {
  breakerNames,
  type BreakerName,
  type BreakerState,
  type Ending,
  type Step,
} from "../../shared/breaker-state.ts";
import { viewBreaker } from "../../shared/breaker-view.ts";
import { act, admit, advance, settle, type Act } from "../../shared/breaker.ts";
import { maxEvents, maxHeard, restoreMemory, saveMemory, type Heard } from "./authority-memory.ts";
import type {
  AcquireReply,
  ActReply,
  Ask,
  AuthoritySnapshot,
  AuthorityView,
  Batch,
  CacheEpochReply,
  Granting,
  NamedEvent,
  ReadReply,
  ReportReply,
} from "./authority-protocol.ts";
import type { Random } from "../../shared/random.ts";

/** What the object takes from its platform. */
export type AuthorityHost = {
  /** Monotonic ms of this process. */
  now(): number;
  /** Unix ms. */
  wallNow(): number;
  random: Random;
  limits: BreakerLimits;
  /** What was saved last, undefined = never; called once, before anything is written. */
  load(): unknown;
  save(text: string): void;
  /** Asks to be called at a wall time, in place of any earlier wish; null = not at all. */
  setAlarm(atWallMs: number | null): void;
  /** Looks at a dependency as a caller would: only whether it is down. Must end within the probe's time. */
  probe(name: BreakerName): Promise<"failure" | "ignored">;
  /** Told of every event once; a throw is counted and changes nothing. */
  emit(event: NamedEvent): void;
};

/** The object without its platform: the port's methods at once, and what the platform calls. */
export type AuthorityCore = {
  report(batch: Batch): Extract<ReportReply, { ok: true }>;
  acquire(name: BreakerName, isolate: string, ask: Ask): Extract<AcquireReply, { ok: true }>;
  act(name: BreakerName, deed: Act, keyId: string): Extract<ActReply, { ok: true }>;
  read(): Extract<ReadReply, { ok: true }>;
  bumpCacheEpoch(): Extract<CacheEpochReply, { ok: true }>;
  /** A cooldown is over: looks at the box in place of a caller. Never rejects. */
  alarm(): Promise<void>;
};

/** The answer to a wish that comes after a later one of its isolate. */
const overtaken: Granting = {
  kind: "refused",
  refusal: { admitted: false, code: "ERR_CB_HALF_OPEN", phase: "half_open", retryAfterMs: 1000 },
};
/** An isolate not heard for so long takes no part of a ramp. */
const shareMs = 10_000;
/** State is saved on every change of phase, and no more often than this between them. */
const saveMs = 5000;
/** Without a caller for so long nobody is spared anything by a probe. */
const abandonedMs = 600_000;

/** Both breakers of one upstream: the truth that isolates' copies follow. */
export function createAuthorityCore(host: AuthorityHost): AuthorityCore {
  const { limits, random } = host;
  const storeErrors = { load: 0, save: 0, alarm: 0 };
  let observerErrors = 0;
  let savedAt = -Infinity;
  let dirty = false;
  let readable = true;
  /** Wall time that the platform was asked for; undefined = this process has not asked yet. */
  let armedFor: number | null | undefined;

  const { memory, happened } = restoreMemory(load(), host.now(), host.wallNow(), limits);
  const { states, heard, authors, events } = memory;
  for (const event of happened) tell(event);

  function load(): unknown {
    try {
      return host.load();
    } catch {
      storeErrors.load += 1;
      readable = false;
      return "unreadable";
    }
  }

  function tell(event: NamedEvent): void {
    if (event.event.kind === "transition" || event.event.kind === "state_discarded") {
      events.push(event);
      if (events.length > maxEvents) events.shift();
    }
    try {
      host.emit(event);
    } catch {
      observerErrors += 1;
    }
  }

  /** Makes a step's state the truth and tells of it. */
  function commit(name: BreakerName, step: Step, by: string | null = null): void {
    states[name] = step.next;
    const atMs = host.wallNow();
    for (const event of step.events) tell({ name, atMs, event, by });
  }

  /** Runs one event of the outside world: changes of phase are saved and the alarm set before it is answered. */
  function during<T>(work: () => T): T {
    const epochs = epochsNow();
    const result = work();
    dirty = true;
    keep(epochsNow() !== epochs);
    return result;
  }

  function epochsNow(): string {
    return breakerNames.map((name) => states[name].epoch).join();
  }

  function keep(changed: boolean): void {
    const now = host.now();
    // What is stored was not seen, so it may be worth more than what this process began with.
    if (readable && dirty && (changed || now - savedAt >= saveMs)) {
      try {
        host.save(saveMemory(memory, now, host.wallNow()));
        savedAt = now;
        dirty = false;
      } catch {
        // Memory is still the truth; the next event tries again, however soon it comes.
        savedAt = -Infinity;
        storeErrors.save += 1;
      }
    }
    arm();
  }

  function arm(): void {
    const dues = breakerNames.map((name) => dueAt(states[name])).filter((due): due is number => due !== null);
    const wanted =
      dues.length === 0 || isAbandoned() ? null : Math.ceil(host.wallNow() + Math.min(...dues) - host.now());
    // A second wish for the same moment costs a row; a new process does not take back what an earlier one asked for.
    const same = wanted === null ? (armedFor ?? null) === null : Math.abs((armedFor ?? -Infinity) - wanted) < 1000;
    if (same) return;
    try {
      host.setAlarm(wanted);
      armedFor = wanted;
    } catch {
      storeErrors.alarm += 1;
    }
  }

  function isAbandoned(): boolean {
    const last = Math.max(-Infinity, ...[...heard.values()].map(({ atMs }) => atMs));
    return host.now() - last >= abandonedMs;
  }

  function hear(isolate: string): Heard {
    const known = heard.get(isolate) ?? { seq: 0, atMs: 0, asked: {} };
    known.atMs = host.now();
    // Taken out and put in again, the map stays in the order of hearing.
    heard.delete(isolate);
    heard.set(isolate, known);
    for (const oldest of heard.keys()) {
      if (heard.size <= maxHeard) break;
      heard.delete(oldest);
    }
    return known;
  }

  function shareNow(): number {
    const since = host.now() - shareMs;
    return Math.max(1, [...heard.values()].filter(({ atMs }) => atMs > since).length);
  }

  function snapshot(): AuthoritySnapshot {
    const now = host.now();
    const share = shareNow();
    const take = (name: BreakerName): AuthoritySnapshot["breakers"][BreakerName] => {
      commit(name, advance(states[name], now, limits, random));
      return takeSnapshot(states[name], now, share);
    };
    return {
      breakers: { sidecar: take("sidecar"), lm_studio_api: take("lm_studio_api") },
      share,
      cacheEpoch: memory.cacheEpoch,
    };
  }

  /**
   * Takes over the epoch of a copy that went its own way, so that it follows again. Not while probes are out: their
   * tokens bear the old one, and would be lost.
   */
  function catchUp(name: BreakerName, epoch: number): void {
    const state = states[name];
    const probing = state.phase === "half_open" && state.leases.length > 0;
    if (Number.isSafeInteger(epoch) && epoch > state.epoch && !probing) {
      states[name] = { ...state, epoch };
    }
  }

  function end(name: BreakerName, lease: number, epoch: number, sample: Ending, retryAfterMs: number | null): void {
    commit(name, settle(states[name], { epoch, lease }, sample, host.now(), limits, random, retryAfterMs));
  }

  function apply(batch: Batch): void {
    for (const { name, delta } of batch.deltas) {
      if (!isBreaker(name)) continue;
      // A copy that has not heard of the object yet counts from 0: its calls are of whatever time it is.
      const epoch = delta.epoch === 0 ? states[name].epoch : delta.epoch;
      commit(name, applyDelta(states[name], { ...delta, epoch }, host.now(), limits, random));
    }
    for (const { name, lease, epoch, sample, retryAfterMs } of batch.leases) {
      if (isBreaker(name)) end(name, lease, epoch, sample, retryAfterMs);
    }
    for (const name of breakerNames) catchUp(name, batch.epochs[name] ?? 0);
  }

  function grant(name: BreakerName, epoch: number): Granting {
    catchUp(name, epoch);
    commit(name, advance(states[name], host.now(), limits, random));
    // How many a closed breaker lets through is counted where they go through.
    if (states[name].phase === "closed" || !limits.enabled) return { kind: "admitted" };
    const step = admit(states[name], host.now(), limits, random);
    commit(name, step);
    const { verdict } = step;
    if (!verdict.admitted) return { kind: "refused", refusal: verdict };
    const { lease } = verdict.token;
    return lease === null ? { kind: "admitted" } : { kind: "lease", token: { epoch: verdict.token.epoch, lease } };
  }

  function view(name: BreakerName): AuthorityView {
    const facts = viewBreaker(states[name], host.now(), limits);
    return { ...facts, by: facts.manual === null ? null : authors[name] };
  }

  async function look(name: BreakerName): Promise<void> {
    const due = dueAt(states[name]);
    if (due === null || due > host.now()) return;
    const granting = during(() => grant(name, 0));
    if (granting.kind !== "lease") return;
    const { epoch, lease } = granting.token;
    // A look that finds nothing wrong is no call: it must not bring the breaker nearer to giving up.
    let sample: Ending = "unused";
    try {
      if ((await host.probe(name)) === "failure") sample = "failure";
    } finally {
      // Other calls came in meanwhile: what they decided stands.
      if (states[name].epoch === epoch) during(() => end(name, lease, epoch, sample, null));
    }
  }

  return {
    report: (batch) =>
      during(() => {
        const isolate = hear(batch.isolate);
        if (batch.seq > isolate.seq) {
          isolate.seq = batch.seq;
          apply(batch);
        }
        return { ok: true, snapshot: snapshot() };
      }),
    acquire: (name, isolate, ask) =>
      during(() => {
        const known = hear(isolate);
        const asked = known.asked[name];
        // A wish from before the last one has been answered: whoever made it does not listen any more.
        if (asked !== undefined && ask.id < asked.id) return { ok: true, granting: overtaken, snapshot: snapshot() };
        const again = asked !== undefined && asked.id === ask.id && asked.epoch === states[name].epoch;
        const granting = again ? asked.granting : grant(name, ask.epoch);
        known.asked[name] = { id: ask.id, epoch: states[name].epoch, granting };
        return { ok: true, granting, snapshot: snapshot() };
      }),
    act: (name, deed, keyId) =>
      during(() => {
        authors[name] = deed.kind === "open" ? keyId : null;
        commit(name, act(states[name], deed, host.now(), limits), keyId);
        return { ok: true, view: view(name), snapshot: snapshot() };
      }),
    read: () => {
      keep(false);
      const { cacheEpoch } = memory;
      const breakers = { sidecar: view("sidecar"), lm_studio_api: view("lm_studio_api") };
      return {
        ok: true,
        reading: { breakers, events: [...events], share: shareNow(), cacheEpoch, storeErrors, observerErrors },
      };
    },
    bumpCacheEpoch: () => {
      memory.cacheEpoch += 1;
      dirty = true;
      keep(true);
      return { ok: true, cacheEpoch: memory.cacheEpoch };
    },
    async alarm() {
      armedFor = null;
      try {
        await Promise.all(breakerNames.map((name) => look(name).catch(() => undefined)));
      } finally {
        arm();
      }
    },
  };
}

/** When a cooldown that ends by itself is over; null = none is running. */
function dueAt(state: BreakerState): number | null {
  return state.phase === "open" ? state.until : null;
}

function isBreaker(name: unknown): name is BreakerName {
  return breakerNames.some((known) => known === name);
}
