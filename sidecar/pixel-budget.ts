/** Bounds the memory of running decodes by their pixels; waiting is in order of arrival. */
export type PixelBudget = {
  /** Resolves with the release once `pixels` fit; rejects with the signal's reason. Delays, never refuses. */
  take(pixels: number, signal: AbortSignal): Promise<() => void>;
  /** Pixels in work now. */
  inWork(): number;
};

/** A budget of `limit` pixels; one heavier picture runs alone. */
export function createPixelBudget(limit: number): PixelBudget {
  const waiting: { pixels: number; start: () => void }[] = [];
  let inWork = 0;

  const fits = (pixels: number): boolean => inWork === 0 || inWork + pixels <= limit;
  const startNext = (): void => {
    for (let next = waiting[0]; next !== undefined && fits(next.pixels); next = waiting[0]) {
      waiting.shift();
      next.start();
    }
  };

  return {
    inWork: () => inWork,
    take(pixels, signal) {
      return new Promise((resolve, reject) => {
        if (signal.aborted) {
          reject(signal.reason);
          return;
        }
        const leave = (): void => {
          waiting.splice(waiting.indexOf(entry), 1);
          reject(signal.reason);
          startNext();
        };
        const entry = {
          pixels,
          start: () => {
            signal.removeEventListener("abort", leave);
            inWork += pixels;
            let held = true;
            resolve(() => {
              if (!held) return;
              held = false;
              inWork -= pixels;
              startNext();
            });
          },
        };
        signal.addEventListener("abort", leave, { once: true });
        waiting.push(entry);
        startNext();
      });
    },
  };
}
