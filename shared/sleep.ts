/** What a wait is made of; each host passes its own. */
export type SleepPorts = {
  /** Milliseconds that only move forward. */
  now: () => number;
  /** Calls `elapsed` once after about `ms`, unless the returned function was called before. */
  startTimer: (ms: number, elapsed: () => void) => () => void;
};

/** A wait under way: `done` resolves at its end or as soon as it is cancelled; it never rejects. */
export type Sleep = { done: Promise<void>; cancel: () => void };

/** Longest wait one timer can hold; a longer one fires at once (`setTimeout` takes a signed 32-bit number). */
const longestTimerMs = 2 ** 31 - 1;

/**
 * Starts a wait of `ms`. Longer ones than a timer can hold are made of several, a timer that fires early is started
 * again for the rest, and what is no number, or none above zero, is no wait.
 */
export function startSleep(ms: number, { now, startTimer }: SleepPorts): Sleep {
  const endsAt = now() + (Number.isFinite(ms) ? ms : 0);
  let cancel = (): void => undefined;
  const done = new Promise<void>((resolve) => {
    let stop = (): void => undefined;
    const wait = (): void => {
      const leftMs = endsAt - now();
      if (leftMs <= 0) resolve();
      else stop = startTimer(Math.min(longestTimerMs, Math.ceil(leftMs)), wait);
    };
    cancel = () => {
      stop();
      resolve();
    };
    wait();
  });
  return { done, cancel };
}
