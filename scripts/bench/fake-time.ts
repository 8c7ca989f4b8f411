import { mock } from "node:test";

/** Timers and the wall clock of this process, moved by hand; the two can be moved apart. */
export type FakeTime = {
  /** Unix ms. */
  wallMs(): number;
  /** Lets time pass: the wall clock shows as much more, and what was due has happened, promises included. */
  pass(ms: number): Promise<void>;
  /** Moves the wall clock alone. */
  step(ms: number): void;
};

const startMs = Date.UTC(2026, 0, 1);

/**
 * Runs `work` with the process's own timers and `Date.now` under its hand: libraries that take no clock are measured
 * without waiting. Nothing else may run in the process meanwhile; timers still out at the end never ring.
 */
export async function withFakeTime<T>(work: (time: FakeTime) => Promise<T>): Promise<T> {
  let wallMs = startMs;
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const clock = mock.method(Date, "now", () => wallMs);
  try {
    return await work({
      wallMs: () => wallMs,
      async pass(ms) {
        await settled();
        wallMs += ms;
        mock.timers.tick(ms);
        await settled();
      },
      step(ms) {
        wallMs += ms;
      },
    });
  } finally {
    clock.mock.restore();
    mock.timers.reset();
  }
}

/** Resolves once every promise that can go on has gone on. */
export function settled(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
