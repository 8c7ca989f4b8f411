import * as z from "zod";
import { askBox } from "../../edge/attempts.ts";
import type { BreakersHost } from "../../edge/authority-link.ts";
import { createBodyBudget } from "../../edge/body-budget.ts";
import { startDeadline } from "../../edge/deadline.ts";
import type { Deps } from "../../edge/deps.ts";
import { createAttemptGate, createEvidenceGate, probeLimitMs } from "../../edge/gate.ts";
import { createImageCall, type ImageCall } from "../../edge/image-call.ts";
import { openIsolate, type RetryAccount } from "../../edge/isolate.ts";
import type { AuthorityPort } from "../../edge/objects/authority-protocol.ts";
import type { Scope } from "../../edge/scope.ts";
import type { SidecarCall, SidecarOutcome } from "../../edge/sidecar-client.ts";
import { readBreakerLimits } from "../../shared/breaker-limits.ts";
import { entersLadder, ladderReserveMs } from "../../shared/fallback.ts";
import type { AttemptFacts } from "../../shared/samples.ts";
import type { Dice } from "./dice.ts";
import type { Answer, Ledger } from "./ledger.ts";
import type { VirtualTime } from "./virtual-time.ts";
import type { WallClock } from "./wall-clock.ts";
import { never } from "./wire.ts";
import { emptyTally, forgetProbes, watchBreakers, type BreakerTally } from "./watched-breakers.ts";

/** One isolate of the edge: the real breakers, gate, retry account and loop, over a modelled network. */
export type SimulatedIsolate = {
  /** Answers one request; never rejects. `leavesAfterMs`: its caller goes away then, null = it stays. */
  request(leavesAfterMs: number | null): Promise<Told>;
  /** The platform ends it: its timers and its connections are gone, and nobody hears of it again. */
  die(): void;
  wall: WallClock;
  tally: BreakerTally;
  /** Both breakers as its copies have them, in the words of the API. */
  states(): string[];
  /** Tokens of the retry budget, and what they may not have exceeded. */
  budget(): { tokens: number; retries: number; allowed: number };
  /** Work behind answers that has not ended. */
  pending(): number;
};

/** What a caller is told. */
export type Told = { answer: Answer; retryAfterSeconds: number | null };

/** What an isolate stands in. */
export type IsolateParts = {
  time: VirtualTime;
  dice: Dice;
  wall: WallClock;
  ledger: Ledger;
  /** Configuration as the platform gives it: texts. */
  environment: Readonly<Record<string, string>>;
  authority: AuthorityPort;
  /** One call to the box over the network; obeys the signal. */
  send: (call: SidecarCall) => Promise<SidecarOutcome>;
};

/** What a live answer holds, as far as the loop looks at it. */
const answerSchema = z.object({ collapsed: z.boolean() });

const picture = new Uint8Array(0);
/** Reading a body, its hash, a look into the cache: what passes before the box is asked, in ms. */
const prologueMs = [3, 30] as const;

/** Starts an isolate that has heard of nothing. */
export function createIsolate(parts: IsolateParts): SimulatedIsolate {
  const { time, dice, wall, ledger } = parts;
  const stops = new Set<() => void>();
  /** Ends of the requests that are not answered yet. */
  const losses = new Set<() => void>();
  const tally = emptyTally();
  let alive = true;
  let pending = 0;
  let retries = 0;
  let successes = 0;

  const startTimer: Deps["startTimer"] = (ms, elapsed) => {
    if (!alive) return () => undefined;
    const stop = time.startTimer(ms, () => {
      stops.delete(stop);
      elapsed();
    });
    stops.add(stop);
    return () => {
      stops.delete(stop);
      stop();
    };
  };
  const deps: Deps = {
    fetch: () => Promise.reject(new Error("the simulated sidecar is called without HTTP")),
    now: () => wall.now(),
    random: (count) => Uint8Array.from({ length: count }, () => dice.random() * 256),
    startTimer,
    write: () => undefined,
    decodeBase64: () => picture,
    openObjects: () => null,
    version: "simulated",
  };
  const opened = openIsolate(deps, parts.environment);
  if (typeof opened === "string") throw new Error(opened);
  const isolate = opened;
  const { config } = isolate;
  const limits = readBreakerLimits(config);
  const describes = config.fallback_chain.includes("describe");
  const bornAt = isolate.now();
  const { slowCallMs, probeTimeoutMs } = limits;
  const sampling = { timeoutMs: config.timeout_seconds * 1000, slowCallMs, probeTimeoutMs };
  const watching = { ledger, limits, now: time.now };

  const keepAlive = async (work: Promise<unknown>): Promise<void> => {
    pending += 1;
    try {
      await work;
    } catch (error) {
      ledger.violate("work behind an answer does not reject", String(error));
    }
    pending -= 1;
  };
  const waitUntil = (work: Promise<unknown>): void => void keepAlive(work);
  /** What comes for an isolate that is gone reaches nobody. */
  const deliver = async <Reply>(coming: Promise<Reply>): Promise<Reply> => {
    try {
      return await coming;
    } finally {
      if (!alive) await never();
    }
  };
  const { authority } = parts;
  const port: AuthorityPort = {
    report: (batch) => deliver(authority.report(batch)),
    acquire: (name, id, ask) => deliver(authority.acquire(name, id, ask)),
    act: (name, deed, keyId) => deliver(authority.act(name, deed, keyId)),
    read: () => deliver(authority.read()),
    bumpCacheEpoch: () => deliver(authority.bumpCacheEpoch()),
  };
  const host: BreakersHost = { authority: port, waitUntil, log: () => undefined };
  const retryBudget: RetryAccount = {
    ...isolate.retryBudget,
    take() {
      const taken = isolate.retryBudget.take();
      if (taken) retries += 1;
      if (taken) ledger.retries += 1;
      return taken;
    },
    deposit() {
      successes += 1;
      isolate.retryBudget.deposit();
    },
  };

  async function request(leavesAfterMs: number | null): Promise<Told> {
    const answer = ledger.arrive(sampling.timeoutMs);
    const endsAt = time.now() + sampling.timeoutMs;
    const connections = new AbortController();
    const lose = (): void => {
      answer("lost");
      connections.abort();
    };
    losses.add(lose);
    const caller = new AbortController();
    const stopLeaving = leavesAfterMs === null ? null : startTimer(leavesAfterMs, () => caller.abort());
    const breakers = watchBreakers(isolate.breakers.bind(host), tally, watching);
    breakers.refresh();
    const startedMs = deps.now();
    const deadline = startDeadline(deps, startedMs, sampling.timeoutMs);
    await new Promise<void>((resolve) => {
      startTimer(dice.between(...prologueMs), resolve);
    });
    const scope: Scope = {
      ...isolate,
      deps,
      requestId: "",
      traceParent: "",
      startedMs,
      deadline,
      caller: caller.signal,
      sidecar: {
        call(sent) {
          if (sent.path === "/v1/caption") ledger.boxCalls += 1;
          if (time.now() > endsAt) ledger.violate("no call begins after the deadline", `${time.now() - endsAt} ms`);
          return deliver(parts.send({ ...sent, signal: AbortSignal.any([sent.signal, connections.signal]) }));
        },
      },
      breakers,
      gates: { caption: createAttemptGate(breakers, sampling), evidence: createEvidenceGate(breakers, sampling) },
      retryBudget,
      budget: createBodyBudget(),
      waitUntil,
      log: () => undefined,
      lostLines: () => 0,
      facts: { bytes: 0, source: null, attempts: 0 },
    };
    const image = { bytes: picture, format: "png" as const, width: 1, height: 1 };
    const call = createImageCall(scope, { image, sha256: "", tenant: "" });
    const result = await askBox(scope, {
      call,
      path: "/v1/caption",
      query: {},
      schema: answerSchema,
      gate: scope.gates.caption,
      reserveMs: ladderReserveMs(sampling.timeoutMs),
    });
    if (!result.ok && !result.cancelled && describes && result.reachable && result.seen === null) {
      if (entersLadder(result.error.code)) await look(scope, call);
    }
    deadline.stop();
    stopLeaving?.();
    losses.delete(lose);
    const told = tellOf(result);
    answer(told.answer);
    return told;
  }

  /** The look at the picture that rung `describe` takes when no failed answer has seen it. */
  async function look({ gates, caller }: Scope, call: ImageCall): Promise<void> {
    const admission = await gates.evidence.admit();
    if (!admission.admitted) return;
    const startedAt = isolate.now();
    const outcome = await call("/v1/embed", {}, { reserveMs: 0, limitMs: probeLimitMs(admission.permit, config) });
    const facts: AttemptFacts = outcome.ok
      ? { ok: true, elapsedMs: isolate.now() - startedAt, collapsed: false }
      : {
          ok: false,
          code: outcome.error.code,
          details: outcome.error.details,
          fromSidecar: outcome.failure !== null,
          callerGone: caller.aborted,
          lmStudioMs: 0,
        };
    gates.evidence.settle(admission.permit, facts);
  }

  return {
    request,
    die() {
      alive = false;
      for (const stop of stops) stop();
      for (const lose of losses) lose();
      forgetProbes(tally, ledger);
    },
    wall,
    tally,
    states() {
      const { breakers } = isolate.breakers.bind(host).view();
      return [breakers.sidecar.state, breakers.lm_studio_api.state];
    },
    budget: () => ({
      tokens: isolate.retryBudget.tokens(),
      retries,
      allowed: 10 + 0.25 * successes + 0.0001 * (isolate.now() - bornAt),
    }),
    pending: () => pending,
  };
}

function tellOf(result: Awaited<ReturnType<typeof askBox>>): Told {
  if (result.ok) return { answer: "live", retryAfterSeconds: null };
  const { code, retryAfterSeconds } = result.error;
  return { answer: result.cancelled ? "cancelled" : code, retryAfterSeconds };
}
