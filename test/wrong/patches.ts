/** One way to be wrong: a piece of source that stands once in its file, what stands there instead, and the laws it breaks. */
export type Patch = { wrong: string; file: string; from: string; to: string; laws: readonly string[] };

const sleep = ["test/shared/sleep.test.ts"];

/** Breakers, loops and caches wrong in one way each. */
export const patches: readonly Patch[] = [
  {
    wrong: "loop: a wait longer than a timer can hold ends at once",
    file: "shared/sleep.ts",
    from: "Math.min(longestTimerMs, Math.ceil(leftMs))",
    to: "Math.ceil(leftMs)",
    laws: sleep,
  },
];
