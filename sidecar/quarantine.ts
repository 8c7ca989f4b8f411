import { PixelLLMError } from "../shared/errors.ts";

/** What a picture has brought down. */
export type Victim = "encoder" | "model";

/** Strikes of one picture against one victim, oldest first, in ms. */
type Strikes = readonly number[];

/** Strikes by `victim:hash`, least recent first: plain data. */
export type QuarantineState = ReadonlyMap<string, Strikes>;

/** How many strikes within how long put a picture away, and for how long after the last, in ms. */
const rules: Readonly<Record<Victim, { strikes: number; withinMs: number }>> = {
  encoder: { strikes: 2, withinMs: 600_000 },
  model: { strikes: 2, withinMs: 3_600_000 },
};

/** The state after one more strike; at most `capacity` pictures are remembered, the longest unseen is forgotten first. */
export function strike(
  state: QuarantineState,
  victim: Victim,
  sha256: string,
  now: number,
  capacity: number,
): QuarantineState {
  const key = `${victim}:${sha256}`;
  const { strikes, withinMs } = rules[victim];
  const recent = (state.get(key) ?? []).filter((at) => now - at < withinMs);
  const next = new Map([...state].filter(([other]) => other !== key));
  next.set(key, [...recent, now].slice(-strikes));
  for (const oldest of next.keys()) {
    if (next.size <= capacity) break;
    next.delete(oldest);
  }
  return next;
}

/** Whether a picture is put away: it struck often enough, and the last time is not long ago. */
export function isQuarantined(state: QuarantineState, victim: Victim, sha256: string, now: number): boolean {
  return isStruckOut(state.get(`${victim}:${sha256}`) ?? [], victim, now);
}

function isStruckOut(strikes: Strikes, victim: Victim, now: number): boolean {
  const last = strikes.at(-1);
  return last !== undefined && strikes.length >= rules[victim].strikes && now - last < rules[victim].withinMs;
}

/** Pictures put away now. */
export function countQuarantined(state: QuarantineState, now: number): number {
  const victims = ["encoder", "model"] as const;
  return [...state].filter(([key, strikes]) =>
    victims.some((victim) => key.startsWith(victim) && isStruckOut(strikes, victim, now)),
  ).length;
}

/** Remembers pictures that bring down what looks at them, so that one picture is not everybody's outage. */
export type Quarantine = {
  strike(victim: Victim, sha256: string): void;
  /** `ERR_ENC_INVALID_INPUT` (422) when the picture brought one of these down twice. */
  check(sha256: string, victims: readonly Victim[]): void;
  /** Pictures put away now. */
  count(): number;
};

/** A quarantine of at most `capacity` pictures; `now` is monotonic ms. */
export function createQuarantine(now: () => number, capacity = 1000): Quarantine {
  let state: QuarantineState = new Map();
  return {
    strike(victim, sha256) {
      state = strike(state, victim, sha256, now(), capacity);
    },
    check(sha256, victims) {
      if (!victims.some((victim) => isQuarantined(state, victim, sha256, now()))) return;
      throw new PixelLLMError("ERR_ENC_INVALID_INPUT", {
        param: "image",
        hint: "This picture has brought the box down twice; it is not tried again for a while.",
        details: { kind: "quarantine" },
      });
    },
    count: () => countQuarantined(state, now()),
  };
}
