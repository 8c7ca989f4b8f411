/** A clock that only moves forward, over a wall clock that may step; plain data, kept by the host. */
export type Clock = {
  /** What the wall clock showed last, Unix ms. */
  wallMs: number;
  /** Milliseconds since `startClock`, never decreasing: the `now` of every policy. */
  elapsedMs: number;
};

/** A clock that starts at 0 ms while the wall clock shows `wallMs`. */
export function startClock(wallMs: number): Clock {
  return { wallMs, elapsedMs: 0 };
}

/**
 * The clock as of `wallMs`: it moves on by what the wall clock gained. A step back stands still for this one reading
 * and is then the new origin, so the next second counts as a second again.
 */
export function tick(clock: Clock, wallMs: number): Clock {
  return { wallMs, elapsedMs: clock.elapsedMs + Math.max(0, wallMs - clock.wallMs) };
}
