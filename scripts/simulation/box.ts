import { errorBody, PixelLLMError, toPixelLLMError } from "../../shared/errors.ts";
import type { SidecarFailure } from "../../shared/wire.ts";
import { createAdmission, type Admission } from "../../sidecar/admission.ts";
import { createPermits, type Permits } from "../../sidecar/lm-studio/permits.ts";
import type { Stage } from "../../sidecar/work-time.ts";
import type { Dice } from "./dice.ts";
import type { SimulatedLmStudio } from "./lm-studio.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** The sidecar's limits. */
export type BoxLimits = { maxQueue: number; timeoutMs: number; firstTokenMs: number; idleMs: number };

/** An answer of the sidecar, or the end of its process before there was one. */
export type BoxAnswer =
  | { kind: "done" }
  | { kind: "failure"; status: number; body: SidecarFailure }
  | { kind: "broken" };

/** A call that the sidecar has taken. */
export type Connection = {
  answer: Promise<BoxAnswer>;
  /** Its caller closes it. */
  close: () => void;
};

/** The GPU box: a sidecar with the real door, line and permits, in front of an LM Studio. */
export type SimulatedBox = {
  /** Null = nobody listens. `needsWords`: LM Studio is asked too, not the encoder alone. */
  open(call: { remainingMs: number; needsWords: boolean }): Connection | null;
  /** Its process ends, and every connection with it. */
  kill(): void;
  /** It takes nobody in any more. */
  drain(): void;
  start(): void;
  /** What `/readyz` says; null = nobody listens. */
  readiness(): { lmStudioDown: boolean } | null;
  admission(): Admission | null;
  /** A call it gave LM Studio never ended, and it waits for it. */
  isStuck(): boolean;
};

type Process = {
  admission: Admission;
  permits: Permits;
  /** Ends of the connections that are open. */
  breaks: Set<() => void>;
  /** Ends its timers, those not begun yet among them. */
  die: () => void;
};

/** One call's time, and what it wants. */
type Work = { limitMs: number; signal: AbortSignal; enter: (stage: Stage) => void; needsWords: boolean };

/** Stages in which LM Studio has the call. */
const lmStudioStages: ReadonlySet<Stage> = new Set(["connect", "first_token", "generate"]);
/** Decoding and encoding, in ms. */
const sightMs = [15, 60] as const;

/** A box whose sidecar runs. */
export function createBox(time: VirtualTime, dice: Dice, lmStudio: SimulatedLmStudio, limits: BoxLimits): SimulatedBox {
  let process: Process | null = null;

  function start(): void {
    if (process !== null) return;
    const stops = new Set<() => void>();
    let dead = false;
    const startTimer = (ms: number, elapsed: () => void): (() => void) => {
      if (dead) return () => undefined;
      const forget = (): void => {
        stops.delete(forget);
        stop();
      };
      const stop = time.startTimer(ms, () => {
        stops.delete(forget);
        elapsed();
      });
      stops.add(forget);
      return forget;
    };
    const { now } = time;
    const admission = createAdmission({ maxInside: limits.maxQueue, now, memory: () => ({ used: 0, limit: 1 }) });
    const permits = createPermits({
      admission,
      firstTokenMs: limits.firstTokenMs,
      now,
      startTimer,
      probe: () => lmStudio.answersToken(limits.firstTokenMs),
    });
    const die = (): void => {
      dead = true;
      for (const stop of stops) stop();
    };
    process = { admission, permits, breaks: new Set(), die };
  }

  /** The sidecar's work for one call; rejects with what it answers instead of a caption. */
  async function work({ admission, permits }: Process, { limitMs, signal, enter, needsWords }: Work): Promise<void> {
    const endsAt = time.now() + limitMs;
    const visit = admission.enter({ timeLeftMs: limitMs, needsPermit: needsWords, beforeMs: sightMs[1] });
    try {
      enter("decode");
      await time.sleep(dice.between(...sightMs));
      signal.throwIfAborted();
      if (!needsWords) return;
      enter("queue");
      const instance = lmStudio.instance();
      admission.knowInstances([instance]);
      const { parallel } = lmStudio;
      const wish = { tenant: "t", visit: visit.id, instance, parallel, endsAt, onExtend: () => () => undefined };
      const permit = await permits.take(wish, signal);
      const { firstTokenMs, idleMs } = limits;
      const running = lmStudio.complete({ firstTokenMs, idleMs, signal, onStage: enter });
      try {
        await running.answer;
        permit.free();
      } catch (error) {
        if (toPixelLLMError(error).details["kind"] === "crashed") admission.distrust(instance);
        permit.follow(running);
        throw error;
      }
    } finally {
      visit.leave();
    }
  }

  function open(call: { remainingMs: number; needsWords: boolean }): Connection | null {
    const mine = process;
    if (mine === null) return null;
    const answer = Promise.withResolvers<BoxAnswer>();
    const controller = new AbortController();
    const limitMs = Math.min(call.remainingMs, limits.timeoutMs);
    let stage: Stage = "queue";
    let enteredAt = time.now();
    let lmStudioMs = 0;
    const hadMs = (): number => lmStudioMs + (lmStudioStages.has(stage) ? time.now() - enteredAt : 0);
    const enter = (next: Stage): void => {
      lmStudioMs = hadMs();
      stage = next;
      enteredAt = time.now();
    };
    const fail = (error: PixelLLMError): void => {
      const details = { lm_studio_ms: Math.round(hadMs()), ...error.details };
      const body = { error: { ...errorBody(error, null), details }, image: null, evidence: null, vector: null };
      const timings = { decode: 0, encode: 0, generate: 0 };
      answer.resolve({ kind: "failure", status: error.status, body: { ...body, timings_ms: timings } });
    };
    const finish = (): void => {
      stopTimer();
      mine.breaks.delete(snap);
    };
    const quit = (reason: PixelLLMError): void => {
      finish();
      fail(reason);
      controller.abort(reason);
    };
    const snap = (): void => {
      finish();
      answer.resolve({ kind: "broken" });
      controller.abort(new PixelLLMError("ERR_INTERNAL"));
    };
    const stopTimer = time.startTimer(limitMs, () => quit(timeoutIn(stage, limitMs, hadMs())));
    mine.breaks.add(snap);
    try {
      mine.admission.turnAway(limitMs);
      const { signal } = controller;
      void work(mine, { limitMs, signal, enter, needsWords: call.needsWords }).then(
        () => {
          finish();
          answer.resolve({ kind: "done" });
        },
        (error: unknown) => {
          finish();
          fail(toPixelLLMError(error));
        },
      );
    } catch (error) {
      finish();
      fail(toPixelLLMError(error));
    }
    return {
      answer: answer.promise,
      close() {
        if (mine.breaks.has(snap)) quit(new PixelLLMError("ERR_INTERNAL"));
      },
    };
  }

  start();
  return {
    open,
    start,
    kill() {
      const ended = process;
      process = null;
      if (ended === null) return;
      ended.permits.close();
      for (const snap of ended.breaks) snap();
      ended.die();
      lmStudio.disown();
    },
    drain: () => process?.admission.drain(),
    readiness: () =>
      process === null ? null : { lmStudioDown: lmStudio.mode().kind === "down" || process.permits.isStuck() },
    admission: () => process?.admission ?? null,
    isStuck: () => process?.permits.isStuck() ?? false,
  };
}

/** The error of a call whose time is over, as the sidecar says it. */
function timeoutIn(stage: Stage, limitMs: number, lmStudioMs: number): PixelLLMError {
  const inQueue = stage === "queue" ? { kind: "queue" } : {};
  const inLmStudio = lmStudioStages.has(stage) ? { kind: "out_of_time", service: "lm_studio" } : {};
  return new PixelLLMError("ERR_TIMEOUT_REQUEST", {
    details: {
      stage,
      timeout_seconds: limitMs / 1000,
      lm_studio_ms: Math.round(lmStudioMs),
      ...inQueue,
      ...inLmStudio,
    },
  });
}
