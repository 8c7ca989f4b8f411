import { measureBreakerCost } from "./breaker-cost.ts";
import { playDifferential } from "./differential.ts";
import { attempt, type Figure, type Measured, type Progress } from "./figure.ts";
import { measureFullQueue } from "./full-queue.ts";
import { measureKilledSidecar } from "./killed-sidecar.ts";
import { measureOpenBreaker } from "./open-breaker.ts";
import { measureSimulated } from "./simulated.ts";
import { measureVectorCost } from "./vector-cost.ts";

/**
 * The parts, each with its name for the row of one that could not run. What is timed by the clock comes first: the heap
 * that hours of virtual time leave behind stops this process for tenths of a second.
 */
const parts: readonly (readonly [string, (progress: Progress) => Promise<Figure[]>])[] = [
  ["admission of a call", measureBreakerCost],
  ["refusals and stored captions through the Worker", measureOpenBreaker],
  ["a full sidecar", measureFullQueue],
  ["a killed sidecar", measureKilledSidecar],
  ["similar search in workerd", measureVectorCost],
  ["the whole on virtual time", measureSimulated],
];

/** What holds when the box does not: every figure of the design, each beside its target. */
export async function measureResilience(progress: Progress): Promise<Measured> {
  const figures: Figure[] = [];
  for (const [name, measure] of parts) figures.push(...(await attempt(name, () => measure(progress))));
  progress("playing the defects of cockatiel and opossum");
  return { figures, tables: { differential: await playDifferential() } };
}
