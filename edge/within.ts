import type { Deps } from "./deps.ts";

/** What a promise gives within `ms`, or null when it takes longer; the work goes on. Rejects as the work does. */
export function within<T>(startTimer: Deps["startTimer"], ms: number, work: Promise<T>): Promise<T | null> {
  return new Promise((resolve, reject) => {
    const stop = startTimer(ms, () => resolve(null));
    work.then(resolve, reject).finally(stop);
  });
}
