import { parseArgs } from "node:util";
import type { Violation } from "./simulation/ledger.ts";
import { scenarios, simulate, type ScenarioName } from "./simulation/simulate.ts";
import type { Outcome } from "./simulation/stats.ts";

/** What the command line asks for. */
type Wish = {
  scenario: ScenarioName;
  /** The first seed. */
  seed: number;
  minutes: number;
  rate: number;
  /** Virtual hours to fill with one seed after the other; null = the one seed alone. */
  hours: number | null;
};

const usage = `node scripts/simulate.ts --hours N [--seed S] [--rate R] [--minutes M]   seeds S, S + 1, … until N virtual hours are over
node scripts/simulate.ts --seed S [--minutes M] [--rate R]              one seed, with all its figures
  --scenario NAME   ${Object.keys(scenarios).join(", ")}; chaos by default
  --minutes M       virtual minutes of one seed, 10 by default
  --rate R          requests a second, 2 by default`;

/** Exit code for arguments that make no sense (EX_USAGE of BSD's sysexits). */
const usageExit = 64;
const progressMs = 5000;
const hourMs = 3_600_000;

/** Plays seeds, and fails when a law did not hold in one of them. */
async function main(): Promise<void> {
  const wish = readWish(process.argv.slice(2));
  if (typeof wish === "string") {
    console.error(`${wish}\n${usage}`);
    process.exitCode = usageExit;
    return;
  }
  const violations = wish.hours === null ? await playOne(wish) : await playMany(wish, wish.hours);
  if (violations.length === 0) return;
  for (const { seed, atMs, law, detail } of violations) {
    console.log(`seed ${seed}, at ${(atMs / 1000).toFixed(3)} s: ${law}: ${detail}`);
  }
  const replay = `--scenario ${wish.scenario} --minutes ${wish.minutes} --rate ${wish.rate}`;
  for (const seed of new Set(violations.map((violation) => violation.seed))) {
    console.log(`again: node scripts/simulate.ts --seed ${seed} ${replay}`);
  }
  process.exitCode = 1;
}

async function playOne({ seed, minutes, rate, scenario }: Wish): Promise<readonly Violation[]> {
  const { violations, stats } = await simulate({ seed, minutes, rate, scenario });
  console.log(`seed ${seed}`);
  console.log(stats);
  return violations;
}

async function playMany({ seed: first, minutes, rate, scenario }: Wish, hours: number): Promise<readonly Violation[]> {
  const violations: Violation[] = [];
  let virtualMs = 0;
  let requests = 0;
  let seed = first;
  let toldAt = performance.now();
  const tell = (): string =>
    `${(virtualMs / hourMs).toFixed(1)} virtual hours, ${seed - first} seeds, ${requests} requests`;
  for (; virtualMs < hours * hourMs; seed += 1) {
    const outcome: Outcome = await simulate({ seed, minutes, rate, scenario });
    violations.push(...outcome.violations);
    virtualMs += outcome.stats.virtualMs;
    requests += outcome.stats.requests;
    if (performance.now() - toldAt < progressMs) continue;
    toldAt = performance.now();
    console.error(`${tell()}, ${violations.length} violations so far`);
  }
  console.log(`${tell()} (seeds ${first} to ${seed - 1}, ${rate} requests a second), ${violations.length} violations`);
  return violations;
}

function readWish(args: readonly string[]): Wish | string {
  const text = { type: "string" } as const;
  try {
    const options = { hours: text, seed: text, rate: text, minutes: text, scenario: text };
    const { values } = parseArgs({ args: [...args], options });
    const { scenario = "chaos" } = values;
    if (!isScenario(scenario)) return `no scenario is named ${scenario}`;
    if (values.hours === undefined && values.seed === undefined) return "nothing to play: --hours or --seed is missing";
    const numbers = {
      seed: Number(values.seed ?? 1),
      minutes: Number(values.minutes ?? 10),
      rate: Number(values.rate ?? 2),
      hours: Number(values.hours ?? 1),
    };
    const bad = Object.entries(numbers).find(([name, value]) =>
      name === "seed" ? !Number.isSafeInteger(value) || value < 0 : !Number.isFinite(value) || value <= 0,
    );
    if (bad !== undefined) return `--${bad[0]} is no number that can be used`;
    return { ...numbers, scenario, hours: values.hours === undefined ? null : numbers.hours };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function isScenario(name: string): name is ScenarioName {
  return Object.hasOwn(scenarios, name);
}

await main();
