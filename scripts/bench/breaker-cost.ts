import { createBreakers } from "../../edge/breakers.ts";
import { createAttemptGate } from "../../edge/gate.ts";
import type { AttemptFacts } from "../../shared/samples.ts";
import { freshBreaker, type BreakerState } from "../../shared/breaker-state.ts";
import { admit, settle } from "../../shared/breaker.ts";
import { createLocalBreaker } from "../../sidecar/local-breaker.ts";
import { boundedFigure, microseconds, plainFigure, type Figure, type Progress } from "./figure.ts";
import { createBreaker as createCockatiel } from "./library-cockatiel.ts";
import { createBreaker as createOpossum } from "./library-opossum.ts";
import { defaultConfig, guideLimits } from "./library-ours.ts";

const calls = 100_000;
const rounds = 7;
const wellDone: AttemptFacts = { ok: true, elapsedMs: 1, collapsed: false };

/**
 * What one successful call costs while the breaker is closed, in µs: the work does nothing, and what an `await` of
 * it alone costs is taken off those that are asynchronous. All in one run, in turn, so that one machine's mood is all's.
 */
export async function measureBreakerCost(progress: Progress): Promise<Figure[]> {
  progress("breakers: the cost of a call, ours and the libraries'");
  const contenders = {
    bare: bare(),
    pure: pure(),
    local: local(),
    gate: gate(),
    cockatiel: cockatiel(),
    opossum: opossum(),
  };
  const taken: Record<string, number[]> = {};
  // The first round warms the compiler and is thrown away.
  for (let round = 0; round <= rounds; round += 1) {
    for (const [name, run] of Object.entries(contenders)) {
      const startedAt = performance.now();
      await run();
      const each = ((performance.now() - startedAt) * 1000) / calls;
      if (round > 0) (taken[name] ??= []).push(each);
    }
  }
  // Whatever else runs here only ever adds: the best round is the cost.
  const cost = (name: keyof typeof contenders): number => Math.min(...(taken[name] ?? []));
  const over = (name: keyof typeof contenders): number => Math.max(0, cost(name) - cost("bare"));
  const beside = (own: number): string => {
    const peers = ["cockatiel", "opossum"] as const;
    return peers
      .map((name) => `${name} ${microseconds(over(name))}, ratio ${(own / over(name)).toFixed(1)}`)
      .join("; ");
  };
  const [pureCost, localCost, gateCost] = [cost("pure"), over("local"), over("gate")];
  return [
    boundedFigure(
      "admission of a call: admit + settle, closed, synchronous",
      pureCost,
      { under: 1 },
      microseconds,
      beside(pureCost),
    ),
    plainFigure(
      "the same behind a promise, one breaker, as the libraries do it",
      `${microseconds(localCost)} (${beside(localCost)})`,
    ),
    plainFigure(
      "the same at the edge: two breakers, samples, what the object is told",
      `${microseconds(gateCost)} (${beside(gateCost)})`,
    ),
  ];
}

/** The loop and the promise that every asynchronous contender pays for. */
function bare(): () => Promise<void> {
  return async () => {
    for (let call = 0; call < calls; call += 1) await work();
  };
}

function pure(): () => Promise<void> {
  const limits = guideLimits();
  let state: BreakerState = freshBreaker(0);
  let now = 0;
  return async () => {
    for (let call = 0; call < calls; call += 1) {
      now += 0.01;
      const asked = admit(state, now, limits, Math.random);
      if (!asked.verdict.admitted) throw new Error("refused while closed");
      state = settle(asked.next, asked.verdict.token, "success", now, limits, Math.random).next;
    }
  };
}

function local(): () => Promise<void> {
  const breaker = createLocalBreaker({
    config: defaultConfig(),
    now: () => performance.now(),
    random: Math.random,
    observe: () => undefined,
    observerFailed: () => undefined,
  });
  return async () => {
    for (let call = 0; call < calls; call += 1) {
      const admission = await breaker.admit();
      if (!admission.admitted) throw new Error("refused while closed");
      await work();
      breaker.settle(admission.permit, wellDone);
    }
  };
}

function gate(): () => Promise<void> {
  const isolate = createBreakers({
    limits: guideLimits(),
    now: Date.now,
    random: Math.random,
    randomBytes: (count) => crypto.getRandomValues(new Uint8Array(count)),
    startTimer: () => () => undefined,
  });
  const breakers = isolate.bind({ authority: null, waitUntil: () => undefined, log: () => undefined });
  const both = createAttemptGate(breakers, { timeoutMs: 30_000, slowCallMs: null, probeTimeoutMs: 30_000 });
  return async () => {
    for (let call = 0; call < calls; call += 1) {
      const admission = await both.admit();
      if (!admission.admitted) throw new Error("refused while closed");
      await work();
      both.settle(admission.permit, wellDone);
    }
  };
}

function cockatiel(): () => Promise<void> {
  const breaker = createCockatiel();
  return async () => {
    for (let call = 0; call < calls; call += 1) await breaker.execute(work);
  };
}

function opossum(): () => Promise<void> {
  const breaker = createOpossum(work);
  return async () => {
    for (let call = 0; call < calls; call += 1) await breaker.fire();
  };
}

async function work(): Promise<void> {
  // The call itself: nothing, so that all that is left is the breaker.
}
