import { PixelLLMError } from "../shared/errors.ts";

/** The parts of a request that can use up its time; named in `details.stage` of a timeout. */
export type Stage = "queue" | "decode" | "encode" | "connect" | "first_token" | "generate";

/** Stages in which LM Studio has the request. */
const lmStudioStages: ReadonlySet<Stage> = new Set(["connect", "first_token", "generate"]);

/** One piece of work and those who wait for it: it lasts as long as the most patient of them. */
export type WorkTime = {
  /** Aborted when the last caller has left, with that caller's reason. */
  signal: AbortSignal;
  /** When the most patient caller leaves, in ms of `now`. */
  endsAt(): number;
  /** Remaining ms, never negative. */
  remainingMs(): number;
  /** Tells of every later end; gives the way to stop telling. */
  onExtend(listener: (endsAt: number) => void): () => void;
  /** Names the stage that is now using the time. */
  enter(stage: Stage): void;
  /** Ms LM Studio has had it, 0 when its stages were not reached. */
  lmStudioMs(): number;
  /** Adds a caller who waits at most `limitMs`. */
  join(limitMs: number, caller: AbortSignal): Member;
};

/** One caller's own time. */
export type Member = {
  /** Resolves with the reason when the caller leaves before the work is done: its time is over, or it is gone. */
  left: Promise<unknown>;
  /** Makes the caller leave now. */
  dismiss(reason: Error): void;
  /** The work is done for this caller: ends its timer and lets go of its signal. */
  close(): void;
};

/** Work that begins now, with nobody waiting yet; in stage `queue`. */
export function openWorkTime(now: () => number): WorkTime {
  const work = new AbortController();
  const listeners = new Set<(endsAt: number) => void>();
  let endsAt = now();
  let waiting = 0;
  let stage: Stage = "queue";
  let enteredAt = now();
  let lmStudioMs = 0;

  const hadMs = (): number => lmStudioMs + (lmStudioStages.has(stage) ? Math.max(0, now() - enteredAt) : 0);
  const timeout = (limitMs: number): PixelLLMError => {
    const inQueue = stage === "queue" ? { kind: "queue" } : {};
    const inLmStudio = lmStudioStages.has(stage) ? { kind: "out_of_time", service: "lm_studio" } : {};
    return new PixelLLMError("ERR_TIMEOUT_REQUEST", {
      details: { stage, timeout_seconds: limitMs / 1000, lm_studio_ms: Math.round(hadMs()), ...inQueue, ...inLmStudio },
    });
  };

  return {
    signal: work.signal,
    endsAt: () => endsAt,
    remainingMs: () => Math.max(0, endsAt - now()),
    onExtend(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    enter(next) {
      lmStudioMs = hadMs();
      stage = next;
      enteredAt = now();
    },
    lmStudioMs: hadMs,
    join(limitMs, caller) {
      const gone = Promise.withResolvers<unknown>();
      let here = true;
      waiting += 1;
      if (now() + limitMs > endsAt) {
        endsAt = now() + limitMs;
        for (const listener of listeners) listener(endsAt);
      }
      const close = (): boolean => {
        if (!here) return false;
        here = false;
        waiting -= 1;
        clearTimeout(timer);
        caller.removeEventListener("abort", depart);
        return true;
      };
      const dismiss = (reason: unknown): void => {
        if (!close()) return;
        gone.resolve(reason);
        // Somebody else may still wait for this work: only the last to leave ends it.
        if (waiting === 0) work.abort(reason);
      };
      const depart = (): void => dismiss(caller.reason);
      const timer = setTimeout(() => dismiss(timeout(limitMs)), limitMs);
      if (caller.aborted) depart();
      else caller.addEventListener("abort", depart, { once: true });
      return { left: gone.promise, dismiss, close: () => void close() };
    },
  };
}
