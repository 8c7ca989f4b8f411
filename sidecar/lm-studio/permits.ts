import { PixelLLMError } from "../../shared/errors.ts";

/** Bounds how many calls LM Studio works on at once; waiting is in order of arrival. */
export type Permits = {
  /**
   * Resolves with the release once fewer than `capacity` permits are out. The freed one is handed to the waiter.
   * Rejects with the signal's reason, or `ERR_API_OVERLOAD` when the queue is full.
   */
  take(capacity: number, signal: AbortSignal): Promise<() => void>;
  inUse(): number;
  waiting(): number;
};

/** Permits with room for `maxWaiting` callers in line. */
export function createPermits(maxWaiting: number): Permits {
  const line: { capacity: number; start: () => void }[] = [];
  let inUse = 0;

  const startNext = (): void => {
    for (let next = line[0]; next !== undefined && inUse < next.capacity; next = line[0]) {
      line.shift();
      next.start();
    }
  };

  return {
    inUse: () => inUse,
    waiting: () => line.length,
    take(capacity, signal) {
      return new Promise((resolve, reject) => {
        if (signal.aborted) {
          reject(signal.reason as Error);
          return;
        }
        if (line.length >= maxWaiting) {
          const hint = `${line.length} calls already wait for LM Studio.`;
          reject(new PixelLLMError("ERR_API_OVERLOAD", { hint, retryAfterSeconds: 1, details: { kind: "queue" } }));
          return;
        }
        const leave = (): void => {
          line.splice(line.indexOf(entry), 1);
          reject(signal.reason as Error);
          startNext();
        };
        const entry = {
          capacity: Math.max(1, capacity),
          start: () => {
            signal.removeEventListener("abort", leave);
            inUse += 1;
            let held = true;
            resolve(() => {
              if (!held) return;
              held = false;
              inUse -= 1;
              startNext();
            });
          },
        };
        signal.addEventListener("abort", leave, { once: true });
        line.push(entry);
        startNext();
      });
    },
  };
}
