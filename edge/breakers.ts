import { wholeSeconds, type BreakerLimits } from "../shared/breaker-limits.ts";
import {
  failuresOf,
  type Admission,
  type BreakerName,
  type Ending,
  type Step,
  type Token,
} from "../shared/breaker-state.ts";
import { viewBreaker } from "../shared/breaker-view.ts";
import { act, admit, advance, settle, type Act } from "../shared/breaker.ts";
import { startClock, tick, type Clock } from "../shared/clock.ts";
import { PixelLLMError } from "../shared/errors.ts";
import { hex, type RandomBytes } from "../shared/ids.ts";
import { createAuthorityLink, leaseCallMs, type BreakersHost, type LateLease } from "./authority-link.ts";
import { createBreakerCopies } from "./breaker-copies.ts";
import type { Deps } from "./deps.ts";
import { logBreakerEvent } from "./objects/authority-log.ts";
import type { AuthoritySnapshot, AuthorityView, NamedEvent } from "./objects/authority-protocol.ts";
import { putLease, putRefusal, putSample, untold } from "./outbox.ts";
import type { Random } from "../shared/random.ts";

/** What an admitted call ends with; opaque to its holder. */
export type BreakerToken = {
  readonly name: BreakerName;
  /** Its place in the isolate's own copy; null = the object's lease is all it has. */
  own: Token | null;
  /** The object's lease. */
  upstream: (Token & { lease: number }) | null;
  ended: { sample: Ending; retryAfterMs: number | null } | null;
};

/** A breaker's answer to a call that asks. */
export type BreakerAdmission = { admitted: true; token: BreakerToken } | { admitted: false; error: PixelLLMError };

/** Both breakers as far as they can be seen; `isolate` = the object does not answer, these are this isolate's copies. */
export type BreakersReading = {
  scope: "upstream" | "isolate";
  breakers: Record<BreakerName, AuthorityView>;
  /** The upstream's last changes, oldest first. */
  events: readonly NamedEvent[];
};

/** What this isolate knows without asking. */
export type BreakersView = {
  breakers: Record<BreakerName, AuthorityView>;
  /** Ms since the object was heard last; null = never. */
  heardMsAgo: number | null;
  /** From the object's last word; null = never heard. */
  cacheEpoch: number | null;
  /** Failed calls of the object. */
  storeErrors: Readonly<Record<string, number>>;
  /** Log lines of changes that could not be written. */
  observerErrors: number;
};

/** The breakers as one request sees them. */
export type Breakers = {
  /** Refused or let through at once; only a probe waits for the object, 250 ms at most. Never rejects. */
  admit(name: BreakerName): Promise<BreakerAdmission>;
  /** Ends a token with what the call said; a second time is nothing. `retryAfterMs`: what a failure asked for. */
  settle(name: BreakerName, token: BreakerToken, sample: Ending, retryAfterMs: number | null): void;
  /** First act of a request: brings the copies up to date behind it, if they are old. Never waited for. */
  refresh(): void;
  view(): BreakersView;
  /** The truth, or the copies when the object does not answer within a second. */
  read(): Promise<BreakersReading>;
  /** An operator's act on the truth, or on this isolate's copy alone. */
  act(name: BreakerName, deed: Act, keyId: string): Promise<{ scope: "upstream" | "isolate"; view: AuthorityView }>;
};

/** What an isolate's breakers take from their host. */
export type BreakersPorts = Pick<Deps, "startTimer"> & {
  limits: BreakerLimits;
  /** Unix ms; may stand still and step back. */
  now(): number;
  /** For the isolate's name, made when the first request needs it. */
  randomBytes: RandomBytes;
  random: Random;
};

/** An epoch older than any. */
const beforeAll = -1;
/** After a refused lease the isolate refuses by itself for so long. */
const refusedMs = 500;

type Refusal = Extract<Admission, { admitted: false }>;

/**
 * The breakers of one isolate: copies of the object's, which run on this isolate's own samples between its words.
 * A copy that trips refuses whatever the object says; without the object the copies decide alone. `bind` gives them
 * to a request.
 */
export function createBreakers(ports: BreakersPorts): { bind(host: BreakersHost): Breakers } {
  const { limits, random } = ports;
  const copies = createBreakerCopies(limits);
  const { states, limitsOf } = copies;
  const authors: Record<BreakerName, string | null> = { sidecar: null, lm_studio_api: null };
  const rests: Record<BreakerName, { until: number; refusal: Refusal } | null> = { sidecar: null, lm_studio_api: null };
  let clock: Clock | null = null;
  let isolate: string | null = null;
  let observerErrors = 0;

  const link = createAuthorityLink({
    startTimer: ports.startTimer,
    now,
    random,
    isolateId: () => (isolate ??= hex(ports.randomBytes(8))),
    epochs: () => copies.epochs(),
    heed,
  });

  function now(): number {
    const wallMs = ports.now();
    clock = clock === null ? startClock(wallMs) : tick(clock, wallMs);
    return clock.elapsedMs;
  }

  function heed(snapshot: AuthoritySnapshot): void {
    copies.heed(snapshot, now(), (name, epoch) => untold(link.outbox(), name, epoch));
  }

  function commit(host: BreakersHost, name: BreakerName, step: Step, by: string | null = null): void {
    states[name] = step.next;
    try {
      for (const event of step.events) logBreakerEvent(host.log, { name, atMs: ports.now(), event, by }, "isolate");
    } catch {
      // A log that throws decides nothing.
      observerErrors += 1;
    }
  }

  function refuse(name: BreakerName, refusal: Refusal): BreakerAdmission {
    return { admitted: false, error: refusalError(name, failuresOf(states[name]), refusal) };
  }

  /** The copy's own verdict. */
  function decide(host: BreakersHost, name: BreakerName): BreakerAdmission {
    const step = admit(states[name], now(), limitsOf(name), random);
    commit(host, name, step);
    const { verdict } = step;
    if (verdict.admitted) return { admitted: true, token: { name, own: verdict.token, upstream: null, ended: null } };
    link.put((outbox) => putRefusal(outbox, name, states[name].epoch), false);
    return refuse(name, verdict);
  }

  /** One caller of this isolate asks for a probe; the others are refused meanwhile. */
  async function ask(host: BreakersHost, name: BreakerName): Promise<BreakerAdmission> {
    const waiting: Refusal = { admitted: false, code: "ERR_CB_HALF_OPEN", phase: "half_open", retryAfterMs: 1000 };
    const mine = { until: now() + leaseCallMs, refusal: waiting };
    rests[name] = mine;
    const granting = await link.ask(host, name, states[name].epoch);
    if (rests[name] === mine) rests[name] = null;
    if (granting === null) return decide(host, name);
    switch (granting.kind) {
      case "late": {
        const admission = decide(host, name);
        host.waitUntil(takeOver(host, name, granting, admission));
        return admission;
      }
      case "admitted":
        return decide(host, name);
      case "lease":
        return { admitted: true, token: { name, own: null, upstream: granting.token, ended: null } };
      case "refused":
        rests[name] = { until: now() + refusedMs, refusal: granting.refusal };
        return refuse(name, granting.refusal);
    }
  }

  /** A lease that came late belongs to the probe that went without it, else it is given back. */
  async function takeOver(
    host: BreakersHost,
    name: BreakerName,
    { lease }: LateLease,
    admission: BreakerAdmission,
  ): Promise<void> {
    const upstream = await lease;
    if (upstream === null) return;
    const token = admission.admitted ? admission.token : null;
    if (token !== null && token.ended === null) {
      token.upstream = upstream;
      return;
    }
    const { sample, retryAfterMs } = token?.ended ?? { sample: "unused", retryAfterMs: null };
    link.put((outbox) => putLease(outbox, { name, ...upstream, sample, retryAfterMs }), true);
    link.pump(host);
  }

  async function admitFor(host: BreakersHost, name: BreakerName): Promise<BreakerAdmission> {
    const at = now();
    commit(host, name, advance(states[name], at, limitsOf(name), random));
    const copy = states[name];
    const closed = !limits.enabled || copy.phase === "closed";
    if (closed || (copy.phase === "open" && (copy.until === null || at < copy.until))) return decide(host, name);
    const rest = rests[name];
    if (rest !== null && at < rest.until) {
      link.put((outbox) => putRefusal(outbox, name, copy.epoch), false);
      return refuse(name, rest.refusal);
    }
    return host.authority === null || link.resting() ? decide(host, name) : ask(host, name);
  }

  function settleFor(host: BreakersHost, token: BreakerToken, sample: Ending, retryAfterMs: number | null): void {
    if (token.ended !== null) return;
    token.ended = { sample, retryAfterMs };
    const { name, own, upstream } = token;
    if (own !== null) {
      const epoch = copies.epochOf(name, own);
      const step = settle(states[name], { ...own, epoch }, sample, now(), limitsOf(name), random, retryAfterMs);
      commit(host, name, step);
      const { late } = step;
      if (upstream === null) {
        // Nobody may take what came too late even here for a call of his own time.
        const ended = sample === "unused" ? "ignored" : sample;
        const told = { epoch: late && epoch === 0 ? beforeAll : epoch, sample: ended, retryAfterMs };
        link.put((outbox) => putSample(outbox, name, told), sample === "failure" && !late);
      }
    }
    if (upstream !== null) {
      link.put((outbox) => putLease(outbox, { name, ...upstream, sample, retryAfterMs }), true);
    }
    link.pump(host);
  }

  function viewOf(name: BreakerName): AuthorityView {
    const facts = viewBreaker(states[name], now(), limitsOf(name));
    return { ...facts, by: facts.manual === null ? null : authors[name] };
  }

  function views(): Record<BreakerName, AuthorityView> {
    return { sidecar: viewOf("sidecar"), lm_studio_api: viewOf("lm_studio_api") };
  }

  return {
    bind: (host) => ({
      admit: (name) => admitFor(host, name),
      settle: (_, token, sample, retryAfterMs) => settleFor(host, token, sample, retryAfterMs),
      refresh() {
        if (copies.isStale(now())) link.freshen(host);
        else link.pump(host);
      },
      view() {
        const heard = copies.heard();
        return {
          breakers: views(),
          heardMsAgo: heard === null ? null : now() - heard.at,
          cacheEpoch: heard?.cacheEpoch ?? null,
          storeErrors: { ...link.storeErrors },
          observerErrors,
        };
      },
      async read() {
        const reply = await link.command(host, "read", (authority) => authority.read());
        if (reply === null) return { scope: "isolate", breakers: views(), events: [] };
        return { scope: "upstream", breakers: reply.reading.breakers, events: reply.reading.events };
      },
      async act(name, deed, keyId) {
        const reply = await link.command(host, "act", (authority) => authority.act(name, deed, keyId));
        rests[name] = null;
        if (reply !== null) {
          // An act beats what this copy has come to by itself.
          const told = reply.snapshot.breakers[name];
          const epoch = Math.max(told.epoch, states[name].epoch);
          heed({ ...reply.snapshot, breakers: { ...reply.snapshot.breakers, [name]: { ...told, epoch } } });
          return { scope: "upstream", view: reply.view };
        }
        authors[name] = deed.kind === "open" ? keyId : null;
        commit(host, name, act(states[name], deed, now(), limits), keyId);
        return { scope: "isolate", view: viewOf(name) };
      },
    }),
  };
}

/** A breaker's refusal as an error of ours: whole seconds that are never over before the breaker's own time is. */
export function refusalError(name: BreakerName, failures: number, refusal: Refusal): PixelLLMError {
  const { code, phase, retryAfterMs } = refusal;
  return new PixelLLMError(code, {
    details: { name, failure_count: failures, ...(code === "ERR_CB_HALF_OPEN" ? { phase } : {}) },
    retryAfterSeconds: retryAfterMs === null ? undefined : wholeSeconds(retryAfterMs),
  });
}
