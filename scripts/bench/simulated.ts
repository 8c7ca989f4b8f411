import { scenarios } from "../simulation/simulate.ts";
import { sumUp, type Outcome, type Stats } from "../simulation/stats.ts";
import { createWorld } from "../simulation/world.ts";
import { attempt, boundedFigure, percent, plain, plainFigure, ratio, type Figure, type Progress } from "./figure.ts";
import { guideLimits } from "./library-ours.ts";

/** Short scenarios are played with each of these, and the worst counts. */
const seeds = [1, 2, 3] as const;
const hourSeconds = 3600;
const chaosRuns = { seeds: 20, minutes: 10 } as const;

/** Figures of the whole on virtual time: five isolates, the object, a sidecar and an LM Studio that fails. */
export async function measureSimulated(progress: Progress): Promise<Figure[]> {
  const parts: readonly (readonly [string, () => Promise<Figure[]>])[] = [
    ["every call fails", everyCallFails],
    ["20 % of the calls fail, 10 a second for an hour", () => someCallsFail(10)],
    ["20 % of the calls fail, 50 a second for an hour", () => someCallsFail(50)],
    ["an outage of 60 s at 50 a second", anOutage],
    ["1,000 callers wait for the recovery", aRecovery],
    ["5 s up, 5 s down, for 10 minutes", aFlap],
    [`chaos, ${chaosRuns.seeds} seeds`, someChaos],
  ];
  const figures: Figure[] = [];
  for (const [name, measure] of parts) {
    progress(`simulation: ${name}`);
    figures.push(...(await attempt(name, measure)));
  }
  return figures;
}

async function everyCallFails(): Promise<Figure[]> {
  const whole = await playAll((seed) => scenarios.failing({ seed, rate: 10, minutes: 10 }));
  const budgetAlone = await playAll((seed) => failingWithoutBreaker(seed));
  const calls = (stats: readonly Stats[]): number => worst(stats, ({ callsPerRequest }) => callsPerRequest);
  return [
    boundedFigure(
      "calls per request, all failing",
      calls(whole),
      { atMost: 1.1 },
      ratio,
      "the breaker refuses the rest",
    ),
    boundedFigure("the same without a breaker: the retry budget alone", calls(budgetAlone), { atMost: 1.1 }, ratio),
  ];
}

/** As the scenario `failing`, 10 a second for 10 minutes, with the breakers switched off. */
async function failingWithoutBreaker(seed: number): Promise<Outcome> {
  const world = createWorld({
    seed,
    isolates: 5,
    environment: { PIXEL_LLM_CIRCUIT_BREAKER_ENABLED: "false" },
    pace: { parallel: 32, promptMs: [30, 80], generateMs: [80, 200], badPictures: 0 },
    collapsed: 0,
    leaving: 0,
    alarms: true,
  });
  world.lmStudio.setMode({ kind: "failing", share: 1 });
  const stop = world.startArrivals(10);
  await world.time.run(600_000);
  stop();
  const facts = { virtualMs: world.time.now(), lmStudioCalls: world.lmStudio.calls() };
  return { violations: world.ledger.violations, stats: sumUp(world.ledger, facts) };
}

async function someCallsFail(rate: number): Promise<Figure[]> {
  const [seed] = seeds;
  const { stats } = lawful(await scenarios.flaky({ seed, rate, share: 0.2, requests: rate * hourSeconds }));
  const of = `20 % failing, ${rate}/s, 1 h`;
  return [
    boundedFigure(`calls per request, ${of}`, stats.callsPerRequest, { atMost: 1.25 }, ratio),
    boundedFigure(`answered, ${of}`, stats.liveShare, { atLeast: 0.95 }, percent, `${stats.requests} requests`),
    boundedFigure(`refused, ${of}`, stats.refusedShare, { atMost: 0.05 }, percent),
  ];
}

async function anOutage(): Promise<Figure[]> {
  const { failureThreshold, halfOpenMaxCalls } = guideLimits();
  // So few a second that none is under way when the one that opens it ends.
  const alone = await playAll((seed) => scenarios.outage({ seed, rate: 2, seconds: 60, isolates: 1 }));
  const many = await playAll((seed) => scenarios.outage({ seed, rate: 50, seconds: 60 }));
  const outages = many.map(({ outage }) => outage ?? { requests: 0, calls: Infinity, probes: 0, leaked: 0 });
  const dearest = outages.reduce((most, each) => (each.calls - each.leaked > most.calls - most.leaked ? each : most));
  return [
    boundedFigure(
      "calls until the first refusal, one call at a time",
      worst(alone, ({ outage }) => (outage === null ? Infinity : outage.calls - outage.probes)),
      { atMost: failureThreshold },
      plain,
    ),
    boundedFigure(
      `calls to LM Studio in 60 s of outage at 50/s, 5 isolates (threshold + leases + ${dearest.leaked} leaked)`,
      dearest.calls,
      { atMost: failureThreshold + halfOpenMaxCalls + dearest.leaked },
      plain,
      `${dearest.requests} requests; ${dearest.leaked} passed before their isolate knew`,
    ),
    boundedFigure(
      "95 % of healthy goodput after close, 50/s",
      worst(many, ({ recoveredMs }) => recoveredMs ?? Infinity) / 1000,
      { atMost: 8 },
      seconds,
    ),
  ];
}

async function aRecovery(): Promise<Figure[]> {
  const { halfOpenMaxCalls } = guideLimits();
  const all = await playAll((seed) => scenarios.recovery({ seed, callers: 1000 }));
  const [{ ramp }] = all;
  return [
    boundedFigure(
      "probes at once, 1,000 callers waiting",
      worst(all, ({ peakProbes }) => peakProbes),
      { atMost: halfOpenMaxCalls },
      plain,
    ),
    plainFigure("calls let through in each second after close, 1,000 callers", ramp.join(", ")),
  ];
}

async function aFlap(): Promise<Figure[]> {
  const all = await playAll((seed) => scenarios.flap({ seed, rate: 10, minutes: 10 }));
  return [
    boundedFigure(
      "transitions in any minute, 5 s up and 5 s down",
      worst(all, ({ transitionsPerMinute }) => transitionsPerMinute),
      { atMost: 3 },
      plain,
    ),
    boundedFigure(
      "closed after lasting health, over the cooldown then running",
      worst(all, ({ closedAfterMs, lastCooldownMs }) =>
        Math.max(0, (closedAfterMs ?? Infinity) - (lastCooldownMs ?? 0)),
      ) / 1000,
      { atMost: 10 },
      seconds,
    ),
  ];
}

async function someChaos(): Promise<Figure[]> {
  let virtualMs = 0;
  const broken: string[] = [];
  for (let seed = 1; seed <= chaosRuns.seeds; seed += 1) {
    const { violations, stats } = await scenarios.chaos({ seed, minutes: chaosRuns.minutes });
    virtualMs += stats.virtualMs;
    broken.push(...violations.map(({ law, detail }) => `seed ${seed}: ${law}: ${detail}`));
  }
  const ran = `${(virtualMs / 3_600_000).toFixed(1)} virtual hours, ${chaosRuns.seeds} seeds`;
  const first = broken.length === 0 ? ran : `${ran}; first: ${broken[0]}`;
  return [boundedFigure("violations in chaos", broken.length, { atMost: 0 }, plain, first)];
}

/** One run a seed; throws at the first broken law, since what follows it is no figure. */
async function playAll(play: (seed: number) => Promise<Outcome>): Promise<[Stats, ...Stats[]]> {
  const [first, ...others] = seeds;
  const all: [Stats, ...Stats[]] = [lawful(await play(first)).stats];
  for (const seed of others) all.push(lawful(await play(seed)).stats);
  return all;
}

function lawful(outcome: Outcome): Outcome {
  const [violation] = outcome.violations;
  if (violation === undefined) return outcome;
  throw new Error(`seed ${violation.seed}, at ${violation.atMs} ms: ${violation.law}: ${violation.detail}`);
}

function worst(all: readonly Stats[], of: (stats: Stats) => number): number {
  return Math.max(...all.map(of));
}

function seconds(value: number): string {
  return `${value.toFixed(1)} s`;
}
