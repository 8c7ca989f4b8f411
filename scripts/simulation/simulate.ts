import { chaos } from "./chaos.ts";
import { failing, flaky, flap, outage, recovery, restart } from "./scenarios.ts";
import type { Outcome } from "./stats.ts";

/** Every scenario by its name. */
export const scenarios = { chaos, failing, flaky, outage, recovery, flap, restart } as const;
export type ScenarioName = keyof typeof scenarios;

/** One run: the same values give the same run. */
export type Simulation = {
  seed: number;
  /** Virtual minutes, where the scenario does not have a length of its own. */
  minutes: number;
  /** Requests a second, of all isolates together. */
  rate: number;
  scenario?: ScenarioName;
};

/** Plays one scenario on virtual time, over the real hosts; `chaos` by default. */
export function simulate({ scenario = "chaos", ...run }: Simulation): Promise<Outcome> {
  return scenarios[scenario](run);
}
