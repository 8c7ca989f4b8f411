import { PixelLLMError } from "../shared/errors.ts";
import type { Deps } from "./deps.ts";

/** A moment after which an answer is late. */
export type Deadline = {
  /** Aborts at that moment; its reason is `ERR_TIMEOUT_REQUEST`. */
  signal: AbortSignal;
  /** Remaining budget in ms, never negative. Zero means: do not start. */
  remainingMs: () => number;
  /** Stops the timer; the signal of a stopped deadline never aborts. */
  stop: () => void;
};

/** Starts a deadline `budgetMs` after `startedMs` (Unix ms). */
export function startDeadline(deps: Pick<Deps, "now" | "startTimer">, startedMs: number, budgetMs: number): Deadline {
  const controller = new AbortController();
  // A clock that steps back gives no time back: what has rung is over.
  const remainingMs = (): number =>
    controller.signal.aborted ? 0 : Math.max(0, budgetMs - Math.max(0, deps.now() - startedMs));
  const stop = deps.startTimer(remainingMs(), () => {
    controller.abort(new PixelLLMError("ERR_TIMEOUT_REQUEST", { detail: `${Math.round(budgetMs)} ms are over` }));
  });
  return { signal: controller.signal, remainingMs, stop };
}

/**
 * The result of a promise, or a rejection with the signal's reason as soon as it aborts.
 * The work itself must get the signal too: this only frees the waiter from work that does not listen.
 */
export function until<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(abortReason(signal));
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    const settled = (): void => signal.removeEventListener("abort", abort);
    work.then(resolve, reject).finally(settled);
  });
}

/** Why a signal aborted, as an Error. */
export function abortReason(signal: AbortSignal): Error {
  return signal.reason instanceof Error ? signal.reason : new Error("aborted", { cause: signal.reason });
}
