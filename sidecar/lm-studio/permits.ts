import type { Admission, Grant, PermitWish } from "../admission.ts";
import type { RunningCompletion } from "./completion.ts";

/** Begins a timer and gives the way to stop it. */
export type StartTimer = (ms: number, elapsed: () => void) => () => void;

/** One permit in use. */
export type HeldPermit = {
  /** LM Studio's answer is whole: the permit is free. */
  free(): void;
  /** The caller has its failure; the permit stays out until LM Studio is done with the call. */
  follow(running: RunningCompletion): void;
};

/** Bounds how many calls LM Studio works on at once, those it still works on for callers who left among them. */
export type Permits = {
  /** Resolves when a permit is handed over; rejects with the signal's reason, or with a refusal of our own. */
  take(wish: PermitWish, signal: AbortSignal): Promise<HeldPermit>;
  /** A call never ended: LM Studio is stuck until it answers a small one. */
  isStuck(): boolean;
  /** Ends what is waited for. */
  close(): void;
};

/** LM Studio sees a closed connection this much later at most, in ms. */
const graceMs = 250;
/** A call that has not ended this many first-token limits after its caller left never will. */
const lostAfterLimits = 2;
const firstTryMs = 10_000;
const longestTryMs = 60_000;

/** Permits over the line of `admission`; `probe` asks LM Studio for one token and says whether it came. */
export function createPermits(parts: {
  admission: Admission;
  firstTokenMs: number;
  now: () => number;
  startTimer: StartTimer;
  probe: () => Promise<boolean>;
}): Permits {
  const { admission, startTimer, now } = parts;
  const timers = new Set<() => void>();
  let tryMs = firstTryMs;
  let trying = false;
  let closed = false;

  const later = (ms: number, act: () => void): (() => void) => {
    const forget = (): void => {
      timers.delete(forget);
      stop();
    };
    const stop = startTimer(ms, () => {
      timers.delete(forget);
      act();
    });
    timers.add(forget);
    return forget;
  };

  const planTry = (): void => {
    trying = true;
    admission.planTry(now() + tryMs);
    later(tryMs, () => void tryLost());
    tryMs = Math.min(longestTryMs, tryMs * 2);
  };

  const tryLost = async (): Promise<void> => {
    const answers = await parts.probe();
    if (closed) return;
    if (!answers) return planTry();
    trying = false;
    tryMs = firstTryMs;
    admission.freeLost();
  };

  const follow = (grant: Grant, running: RunningCompletion): void => {
    let lost = false;
    grant.drain();
    const stop = later(lostAfterLimits * parts.firstTokenMs, () => {
      lost = true;
      grant.lose();
      running.cut();
      if (!trying) planTry();
    });
    void running.ended.then(({ left }) => {
      if (lost || closed) return;
      stop();
      if (left) later(graceMs, () => grant.free(true));
      else grant.free(false);
    });
  };

  return {
    async take(wish, signal) {
      const grant = await admission.take(wish, signal);
      return { free: () => grant.free(true), follow: (running) => follow(grant, running) };
    },
    isStuck: () => admission.view().permits.lost > 0,
    close() {
      closed = true;
      for (const stop of timers) stop();
    },
  };
}
