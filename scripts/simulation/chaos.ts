import { createDice } from "./dice.ts";
import { startPlagues } from "./plagues.ts";
import { sumUp, type Outcome } from "./stats.ts";
import { createWorld, type World } from "./world.ts";

/** One run of chaos. */
export type ChaosRun = {
  seed: number;
  /** About so long, 10 by default: it ends when everything has been well for long enough. */
  minutes?: number;
  /** Requests a second of all isolates together, 2 by default. */
  rate?: number;
};

/** Configurations that runs take turns with: the guide's own, quick ones, narrow ones, wide ones. */
const environments: readonly [Readonly<Record<string, string>>, ...Readonly<Record<string, string>>[]] = [
  {},
  {
    timeout_seconds: "10",
    timeout_first_token_seconds: "7",
    circuit_breaker_cooldown_seconds: "10",
    circuit_breaker_max_cooldown_seconds: "60",
  },
  {
    timeout_seconds: "8",
    timeout_connect_seconds: "1",
    fallback_chain: "none",
    timeout_first_token_seconds: "5",
    circuit_breaker_cooldown_seconds: "5",
    circuit_breaker_max_cooldown_seconds: "20",
    circuit_breaker_probe_timeout_seconds: "5",
    circuit_breaker_success_threshold: "1",
    circuit_breaker_half_open_max_calls: "1",
    circuit_breaker_slow_call_seconds: "6",
    circuit_breaker_minimum_calls: "10",
    circuit_breaker_ramp_seconds: "5",
  },
  {
    timeout_seconds: "20",
    circuit_breaker_failure_threshold: "3",
    circuit_breaker_success_threshold: "5",
    circuit_breaker_cooldown_seconds: "20",
    circuit_breaker_max_cooldown_seconds: "40",
    circuit_breaker_half_open_max_calls: "10",
    circuit_breaker_failure_ratio: "none",
    retry_strategy: "fixed",
    retry_initial_delay: "0.2",
    retry_max_attempts: "5",
  },
];

/** Longest time from one call of an isolate to the next after the object has failed, and a few probes, in ms. */
const slackMs = 60_000;
/** How long the world is watched when all must be well, in ms. */
const watchMs = 10_000;
const stepMs = 1000;

/** Everything goes wrong by chance, then nothing any more: no law may break, and every breaker must close. */
export async function chaos({ seed, minutes = 10, rate = 2 }: ChaosRun): Promise<Outcome> {
  const choice = createDice(seed);
  // Some runs lose nothing that is known, so that every call can be accounted for.
  const spared = ({ 3: "counts", 7: "messages" } as const)[seed % 8] ?? "nothing";
  const settings = choice.pick(environments);
  const environment = Object.fromEntries(
    Object.entries(settings).map(([key, value]) => [`PIXEL_LLM_${key.toUpperCase()}`, value]),
  );
  const world = createWorld({
    seed,
    isolates: 5,
    environment,
    // A call takes a second: a well box works off twice what comes.
    pace: {
      parallel: Math.max(8, Math.ceil(2 * rate)),
      promptMs: [100, 500],
      generateMs: [200, 1200],
      badPictures: 0.01,
    },
    collapsed: 0.01,
    leaving: 0.01,
    alarms: spared === "nothing",
  });
  const { probeTimeoutMs, maxCooldownMs, rampMs } = world.limits;
  // A call of the bad times may fail once more, and opens for the longest cooldown there is.
  const closesWithinMs = probeTimeoutMs + 1000 + maxCooldownMs + rampMs + slackMs;
  const healsAt = Math.max(60_000, minutes * 60_000 - closesWithinMs - watchMs);
  startPlagues(world, { healsAt, spared });
  const stopArrivals = world.startArrivals(rate);
  await world.time.run(healsAt);
  const healedAt = await watchHealth(world, closesWithinMs);
  stopArrivals();
  await world.finish(spared);
  const { ledger, lmStudio, time } = world;
  return {
    violations: ledger.violations,
    stats: sumUp(ledger, { virtualMs: time.now(), lmStudioCalls: lmStudio.calls(), healedAt }),
  };
}

/** Waits until everything has been well for so long that nothing may be refused any more; gives when it became so. */
async function watchHealth(world: World, closesWithinMs: number): Promise<number> {
  const { time, ledger } = world;
  const healsAt = time.now();
  let healedAt = healsAt;
  while (time.now() < healedAt + closesWithinMs) {
    await time.run(time.now() + stepMs);
    if (!isWell(world)) healedAt = time.now();
    if (healedAt > healsAt + 10 * 60_000) {
      ledger.violate("the box gets well by itself", "it is stuck");
      return healedAt;
    }
  }
  const from = Math.ceil(time.now() / 1000);
  await time.run(time.now() + watchMs);
  const open = [...world.watch.phases(), ...world.slots.flatMap(({ isolate }) => isolate.states())];
  if (open.some((state) => state.toLowerCase() !== "closed")) {
    ledger.violate("a breaker before a well box closes", `${open.join(" ")}, well since ${healedAt} ms`);
  }
  const spoiled = ledger.spoiled.slice(from).reduce((sum, count) => sum + count, 0);
  if (spoiled > 0) ledger.violate("a well box answers everybody", `${spoiled} requests, well since ${healedAt} ms`);
  return healedAt;
}

/** LM Studio takes calls again, and no clock stands still that a cooldown is measured by. */
function isWell({ box, object, watch }: World): boolean {
  return !box.isStuck() && object.lastCallAt() > watch.steppedAt();
}
