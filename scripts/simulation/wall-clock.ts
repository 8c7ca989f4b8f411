import type { VirtualTime } from "./virtual-time.ts";

/** What wall clocks show when a run begins, Unix ms. */
export const wallStartMs = 1_790_000_000_000;

/** One machine's wall clock: whole Unix ms, and it may step. */
export type WallClock = {
  now: () => number;
  /** Moves it by `ms`, back when negative. */
  step: (ms: number) => void;
  /** Virtual time of the last step, -Infinity = none yet. */
  steppedAt: () => number;
};

/** A wall clock over virtual time. */
export function createWallClock(time: VirtualTime): WallClock {
  let skewMs = 0;
  let steppedAt = -Infinity;
  return {
    now: () => Math.floor(wallStartMs + time.now() + skewMs),
    step(ms) {
      skewMs += Math.round(ms);
      steppedAt = time.now();
    },
    steppedAt: () => steppedAt,
  };
}
