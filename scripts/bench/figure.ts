/** One measured figure beside what it should be. */
export type Figure = {
  figure: string;
  target: string;
  seen: string;
  /** "-" = it has no target; `not run` = `seen` says why. */
  mark: "ok" | "missed" | "-" | "not run";
};

/** What a suite comes to; `tables` are further ones by name, printed below the figures. */
export type Measured = { figures: Figure[]; tables?: Record<string, readonly object[]> };

/** Takes one line of what is under way. */
export type Progress = (line: string) => void;

/** A bound of a figure. */
export type Bound = { under: number } | { atMost: number } | { atLeast: number };

/** A figure that only informs. */
export function plainFigure(figure: string, seen: string): Figure {
  return { figure, target: "-", seen, mark: "-" };
}

/** A figure held against its bound; `more` is told behind the value. */
export function boundedFigure(
  figure: string,
  value: number,
  bound: Bound,
  show: (value: number) => string,
  more = "",
): Figure {
  const mark = holds(value, bound) ? "ok" : "missed";
  return { figure, target: showBound(bound, show), seen: more === "" ? show(value) : `${show(value)} (${more})`, mark };
}

/** The figures of one part, or a row that says why it could not run; the other parts go on. */
export async function attempt(part: string, work: () => Promise<Figure[]> | Figure[]): Promise<Figure[]> {
  try {
    return await work();
  } catch (error) {
    return [unmeasured(part, error)];
  }
}

/** A row in the place of figures: what could not be measured, and why. */
export function unmeasured(part: string, error: unknown): Figure {
  const reason = error instanceof Error ? error.message : String(error);
  return { figure: part, target: "-", seen: reason.slice(0, 200), mark: "not run" };
}

/** How long each of `count` rounds of `work` takes, one after another, in ms. */
export async function times(count: number, work: () => Promise<unknown>): Promise<number[]> {
  const taken: number[] = [];
  for (let round = 0; round < count; round += 1) {
    const startedAt = performance.now();
    await work();
    taken.push(performance.now() - startedAt);
  }
  return taken;
}

/** As `times`, and in turn how long `floor` takes, which does nothing: what a busy machine adds shows in both. */
export async function timesBeside(
  count: number,
  work: () => Promise<unknown>,
  floor: () => Promise<unknown>,
): Promise<{ taken: number[]; floors: number[] }> {
  const taken: number[] = [];
  const floors: number[] = [];
  for (let round = 0; round < count; round += 1) {
    taken.push(...(await times(1, work)));
    floors.push(...(await times(1, floor)));
  }
  return { taken, floors };
}

/** Median and 99th percentile. */
export function spread(values: readonly number[]): string {
  return `p50 ${ms(middle(values))}, p99 ${ms(rank(values, 0.99))}`;
}

/** Nearest rank: the sorted sample number ceil(share × n). */
export function rank(values: readonly number[], share: number): number {
  const sorted = [...values].sort((left, right) => left - right);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

/** The median, by nearest rank. */
export function middle(values: readonly number[]): number {
  return rank(values, 0.5);
}

/** Milliseconds with one digit behind the point. */
export function ms(value: number): string {
  return `${value.toFixed(1)} ms`;
}

/** Microseconds with two digits behind the point. */
export function microseconds(value: number): string {
  return `${value.toFixed(2)} µs`;
}

/** A ratio with three digits behind the point. */
export function ratio(value: number): string {
  return value.toFixed(3);
}

/** A share of 1 as percent. */
export function percent(value: number): string {
  return `${(value * 100).toFixed(1)} %`;
}

/** A number as it is, with at most two digits behind the point. */
export function plain(value: number): string {
  return String(Math.round(value * 100) / 100);
}

function holds(value: number, bound: Bound): boolean {
  if ("under" in bound) return value < bound.under;
  return "atMost" in bound ? value <= bound.atMost : value >= bound.atLeast;
}

function showBound(bound: Bound, show: (value: number) => string): string {
  if ("under" in bound) return `< ${show(bound.under)}`;
  return "atMost" in bound ? `<= ${show(bound.atMost)}` : `>= ${show(bound.atLeast)}`;
}
