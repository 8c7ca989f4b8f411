/** Everything that happens by chance in one run, from one seed. */
export type Dice = {
  /** Uniform in [0, 1). */
  random: () => number;
  /** True with probability `share`. */
  chance: (share: number) => boolean;
  /** Uniform in [from, to). */
  between: (from: number, to: number) => number;
  /** Time between two events that come by chance, `meanMs` apart on average (Poisson arrivals). */
  gap: (meanMs: number) => number;
  pick: <T>(from: readonly [T, ...T[]]) => T;
  /** Dice of their own, so that one part of the world may throw more often without moving all the others. */
  fork: () => Dice;
};

/** Dice by mulberry32 (Tommy Ettinger, public domain): 32 bits of state, a period of 2^32. */
export function createDice(seed: number): Dice {
  let state = seed >>> 0;
  const random = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    random,
    chance: (share) => random() < share,
    between: (from, to) => from + (to - from) * random(),
    gap: (meanMs) => -Math.log(1 - random()) * meanMs,
    pick: (from) => from[Math.floor(random() * from.length)] ?? from[0],
    fork: () => createDice(Math.floor(random() * 2 ** 32)),
  };
}
