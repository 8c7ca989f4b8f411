import { PixelLLMError } from "../shared/errors.ts";

/** The parts of a request that can use up its time; named in `details.stage` of a timeout. */
export type Stage = "decode" | "encode" | "generate";

/** One request's time: its signal ends every wait, by the clock or because the caller left. */
export type Deadline = {
  signal: AbortSignal;
  /** Remaining ms, never negative. */
  remainingMs(): number;
  /** Names the stage that is now using the time. */
  enter(stage: Stage): void;
  /** Ends the timer and lets go of the caller's signal; every deadline is closed. */
  close(): void;
};

/**
 * Opens a deadline of `limitMs` (at least 0) under the caller's signal.
 * When the clock ends it, the signal's reason is `ERR_TIMEOUT_REQUEST` with the stage.
 */
export function openDeadline(limitMs: number, caller: AbortSignal, now: () => number): Deadline {
  const controller = new AbortController();
  const endsAt = now() + limitMs;
  let stage: Stage = "decode";
  const leave = (): void => controller.abort(caller.reason);
  const timer = setTimeout(() => {
    controller.abort(new PixelLLMError("ERR_TIMEOUT_REQUEST", { details: { stage, timeout_seconds: limitMs / 1000 } }));
  }, limitMs);
  if (caller.aborted) leave();
  else caller.addEventListener("abort", leave, { once: true });
  return {
    signal: controller.signal,
    remainingMs: () => Math.max(0, endsAt - now()),
    enter(next) {
      stage = next;
    },
    close() {
      clearTimeout(timer);
      caller.removeEventListener("abort", leave);
    },
  };
}
