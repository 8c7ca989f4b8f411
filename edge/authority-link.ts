import type { BreakerName, Token } from "../shared/breaker-state.ts";
import { readStubError } from "./authority-port.ts";
import type { Deps } from "./deps.ts";
import type { Log } from "./log.ts";
import type { AuthorityPort, AuthoritySnapshot, Batch, Granting, Unavailable } from "./objects/authority-protocol.ts";
import { confirmBatch, emptyOutbox, hasNews, takeBatch, type Outbox } from "./outbox.ts";
import { within } from "./within.ts";
import type { Random } from "../shared/random.ts";

/** What one request lends to the isolate's breakers while it lasts. */
export type BreakersHost = {
  /** Null = there is no object: the isolate's own copies decide. */
  authority: AuthorityPort | null;
  /** Keeps the context alive for work that goes on behind the answer. */
  waitUntil(work: Promise<unknown>): void;
  log: Log;
};

/** What the link takes once an isolate. */
export type LinkPorts = Pick<Deps, "startTimer"> & {
  /** Monotonic ms. */
  now: () => number;
  random: Random;
  /** Random name of this isolate; asked for inside a request only. */
  isolateId(): string;
  /** Epochs that the copies would give up for what the object says. */
  epochs(): Batch["epochs"];
  /** Takes the object's word. */
  heed(snapshot: AuthoritySnapshot): void;
};

/** A lease that comes after its caller has stopped waiting for it. */
export type LateLease = { kind: "late"; lease: Promise<(Token & { lease: number }) | null> };

/** The isolate's way to the object. */
export type AuthorityLink = {
  /** Changes what is to be told; `urgent` = now, else within 500 ms. */
  put(change: (outbox: Outbox) => Outbox, urgent: boolean): void;
  /** Sends what is due, in the background; called whenever a request gives the chance. */
  pump(host: BreakersHost): void;
  /** Asks for the object's word, unless it is on its way. */
  freshen(host: BreakersHost): void;
  /** The object failed lately: it is left alone for now. */
  resting(): boolean;
  /** Asks for one call; null = no answer. Waits 250 ms at most. */
  ask(host: BreakersHost, name: BreakerName, epoch: number): Promise<Granting | LateLease | null>;
  /** An operator's question or act; null = no answer within a second. */
  command<Reply extends { ok: true }>(
    host: BreakersHost,
    op: "act" | "read",
    call: (authority: AuthorityPort) => Promise<Reply | Unavailable>,
  ): Promise<Reply | null>;
  outbox(): Outbox;
  storeErrors: Readonly<Record<StoreOp, number>>;
};

type StoreOp = "report" | "acquire" | "act" | "read";

/** Samples wait this long for company. */
const flushMs = 500;
/** A flush that began longer ago is over, whatever became of it: its context may have been torn down. */
export const inFlightMs = 5000;
/** Longest wait for a lease: the one time a request waits for the object. */
export const leaseCallMs = 250;
const commandMs = 1000;
const backoffMs = { first: 1000, longest: 30_000 };

/** A link that has told nothing yet. All its state is plain data: promises belong to the request that began them. */
export function createAuthorityLink(ports: LinkPorts): AuthorityLink {
  const { now, startTimer } = ports;
  const storeErrors: Record<StoreOp, number> = { report: 0, acquire: 0, act: 0, read: 0 };
  let outbox = emptyOutbox;
  let urgent = false;
  let asks = 0;
  let sendingSince: number | null = null;
  let plannedAt: number | null = null;
  let failures = 0;
  let retryAt = -Infinity;

  function pump(host: BreakersHost): void {
    const { authority } = host;
    if (authority === null) {
      // Nobody will ever ask for it.
      outbox = emptyOutbox;
      return;
    }
    if ((!urgent && !hasNews(outbox)) || isSending()) return;
    const at = now();
    const due = Math.max(urgent ? at : at + flushMs, retryAt);
    if (due <= at) {
      host.waitUntil(send(host, authority));
      return;
    }
    if (plannedAt !== null && at <= plannedAt && plannedAt <= due) return;
    plannedAt = due;
    host.waitUntil(
      wait(due - at).then(() => {
        if (plannedAt !== due) return;
        plannedAt = null;
        // A timer may ring early on a clock that stands still between two awaits: what is due is due.
        urgent ||= hasNews(outbox);
        pump(host);
      }),
    );
  }

  function isSending(): boolean {
    return sendingSince !== null && now() - sendingSince < inFlightMs;
  }

  async function send(host: BreakersHost, authority: AuthorityPort): Promise<void> {
    const startedAt = now();
    sendingSince = startedAt;
    urgent = false;
    const taken = takeBatch(outbox);
    ({ outbox } = taken);
    const { batch } = taken;
    const reply = reach(() => authority.report({ ...batch, isolate: ports.isolateId(), epochs: ports.epochs() }));
    const answer = await within(startTimer, inFlightMs, reply);
    if (sendingSince === startedAt) sendingSince = null;
    if (answer?.ok === true) receive(host, answer.snapshot, batch.seq);
    else fail(host, "report", answer);
    if (answer !== null) return;
    const late = await reply;
    if (late.ok) receive(host, late.snapshot, batch.seq);
  }

  function receive(host: BreakersHost, snapshot: AuthoritySnapshot, seq: number): void {
    outbox = confirmBatch(outbox, seq);
    recover(host);
    ports.heed(snapshot);
    pump(host);
  }

  function recover(host: BreakersHost): void {
    if (failures > 0) host.log("INFO", "breaker object answers again");
    failures = 0;
    retryAt = -Infinity;
  }

  function fail(host: BreakersHost, op: StoreOp, answer: Unavailable | null): void {
    storeErrors[op] += 1;
    failures += 1;
    const spread = backoffMs.first * 2 ** (failures - 1) * (1 + ports.random());
    retryAt = now() + Math.min(backoffMs.longest, spread);
    if (failures === 1) {
      const extra = { op, reason: answer?.code ?? "slow", detail: answer?.detail ?? null };
      host.log("WARNING", "breaker object does not answer: own copies decide", { extra });
    }
    pump(host);
  }

  function wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      startTimer(ms, resolve);
    });
  }

  return {
    storeErrors,
    outbox: () => outbox,
    resting: () => now() < retryAt,
    put(change, atOnce) {
      outbox = change(outbox);
      urgent ||= atOnce;
    },
    pump,
    freshen(host) {
      urgent ||= !isSending();
      pump(host);
    },
    async ask(host, name, epoch) {
      const { authority } = host;
      if (authority === null) return null;
      asks += 1;
      const id = asks;
      const reply = reach(() => authority.acquire(name, ports.isolateId(), { id, epoch }));
      const answer = await within(startTimer, leaseCallMs, reply);
      if (answer?.ok === true) {
        recover(host);
        ports.heed(answer.snapshot);
        return answer.granting;
      }
      fail(host, "acquire", answer);
      if (answer !== null) return null;
      const lease = reply.then((late) => {
        if (!late.ok) return null;
        recover(host);
        return late.granting.kind === "lease" ? late.granting.token : null;
      });
      return { kind: "late", lease };
    },
    async command(host, op, call) {
      const { authority } = host;
      if (authority === null) return null;
      const answer = await within(
        startTimer,
        commandMs,
        reach(() => call(authority)),
      );
      if (answer?.ok === true) return answer;
      storeErrors[op] += 1;
      return null;
    },
  };
}

/** A call of the object that never rejects, whatever stands behind the port. */
async function reach<Reply>(call: () => Promise<Reply | Unavailable>): Promise<Reply | Unavailable> {
  try {
    return await call();
  } catch (error) {
    return readStubError(error);
  }
}
