import { changesOf, sumUp, type Outcome, type StatsFacts } from "./stats.ts";
import type { ObjectMode } from "./object.ts";
import { createWorld, type World } from "./world.ts";
import { goodWire } from "./wire.ts";

/** What scenarios share; everything but the seed has its own default in each. */
export type ScenarioOptions = {
  seed: number;
  /** Requests a second, of all isolates together. */
  rate?: number;
  isolates?: number;
};

const secondMs = 1000;
/** Traffic before anything happens: the windows are full and healthy. */
const warmMs = 30 * secondMs;

/** A box with room for well over 100 calls a second. */
function open({ seed, isolates = 5 }: ScenarioOptions): World {
  return createWorld({
    seed,
    isolates,
    environment: {},
    pace: { parallel: 32, promptMs: [30, 80], generateMs: [80, 200], badPictures: 0 },
    collapsed: 0,
    leaving: 0,
    alarms: true,
  });
}

async function close(world: World, facts: Omit<StatsFacts, "virtualMs" | "lmStudioCalls"> = {}): Promise<Outcome> {
  const { ledger, lmStudio, time } = world;
  const virtualMs = time.now();
  const lmStudioCalls = lmStudio.calls();
  await world.finish("nothing");
  return { violations: ledger.violations, stats: sumUp(ledger, { virtualMs, lmStudioCalls, ...facts }) };
}

/** Lets time pass until the object's breakers are closed, `limitMs` at most, and `afterMs` more. */
async function runUntilClosed(world: World, limitMs: number, afterMs: number): Promise<void> {
  const { time, watch } = world;
  const until = time.now() + limitMs;
  while (time.now() < until && watch.phases().some((phase) => phase !== "closed")) {
    await time.run(time.now() + secondMs / 10);
  }
  await time.run(time.now() + afterMs);
}

/** Every call fails at once, for `minutes`. */
export async function failing({
  rate = 10,
  minutes = 10,
  ...options
}: ScenarioOptions & { minutes?: number }): Promise<Outcome> {
  const world = open(options);
  world.lmStudio.setMode({ kind: "failing", share: 1 });
  const stop = world.startArrivals(rate);
  await world.time.run(minutes * 60 * secondMs);
  stop();
  world.lmStudio.setMode({ kind: "well" });
  return close(world);
}

/** A share of the calls fails by chance, each for itself, until `requests` have come. */
export async function flaky({
  rate = 10,
  share = 0.2,
  requests = 10_000,
  ...options
}: ScenarioOptions & { share?: number; requests?: number }): Promise<Outcome> {
  const world = open(options);
  world.lmStudio.setMode({ kind: "failing", share });
  const stop = world.startArrivals(rate);
  while (world.ledger.requests < requests) await world.time.run(world.time.now() + secondMs);
  stop();
  return close(world);
}

/** LM Studio is down for `seconds`; before and after it is well, until the breaker has closed and its ramp is over. */
export async function outage({
  rate = 50,
  seconds = 60,
  objectMode = "up",
  repeated = 0,
  ...options
}: ScenarioOptions & {
  seconds?: number;
  /** What becomes of calls to the object meanwhile. */
  objectMode?: ObjectMode;
  /** Share of calls to the object that are carried out twice. */
  repeated?: number;
}): Promise<Outcome> {
  const world = open(options);
  const { time, lmStudio, limits } = world;
  for (const slot of world.slots) slot.toObject = { ...goodWire, repeated };
  const stop = world.startArrivals(rate);
  await time.run(warmMs);
  const before = lmStudio.calls();
  world.object.setMode(objectMode);
  lmStudio.setMode({ kind: "down" });
  await time.run(warmMs + seconds * secondMs);
  const outageCalls = lmStudio.calls() - before;
  lmStudio.setMode({ kind: "well" });
  world.object.setMode("up");
  await runUntilClosed(world, 2 * limits.maxCooldownMs, limits.rampMs + 10 * secondMs);
  stop();
  return close(world, { outage: { fromMs: warmMs, toMs: warmMs + seconds * secondMs, calls: outageCalls } });
}

/** While the breaker is open the box gets well; then `callers` ask, and each asks again when it was told to. */
export async function recovery({
  callers = 1000,
  ...options
}: ScenarioOptions & { callers?: number }): Promise<Outcome> {
  const world = open(options);
  const { time, lmStudio, ledger } = world;
  const stop = world.startArrivals(options.rate ?? 50);
  await time.run(warmMs);
  lmStudio.setMode({ kind: "down" });
  await time.run(warmMs + 10 * secondMs);
  stop();
  lmStudio.setMode({ kind: "well" });
  const cooldown = changesOf(ledger.changes, "lm_studio_api").findLast(({ to }) => to === "open");
  if (cooldown === undefined) ledger.violate("an outage opens the breaker", "it did not");
  await time.run((cooldown?.atMs ?? 0) + (cooldown?.cooldownMs ?? 0));
  const waitsUntil = time.now() + 5 * 60 * secondMs;
  const call = async (): Promise<void> => {
    while (time.now() < waitsUntil) {
      const { answer, retryAfterSeconds } = await world.ask();
      if (answer === "live") return;
      await time.sleep((retryAfterSeconds ?? 1) * secondMs);
    }
    ledger.violate("everybody who waits is served", "somebody was not within 5 minutes");
  };
  for (let caller = 0; caller < callers; caller += 1) void call();
  await runUntilClosed(world, waitsUntil - time.now(), 60 * secondMs);
  return close(world);
}

/** LM Studio is up for 5 s and down for 5 s, for `minutes`; then it is well until the breaker has closed. */
export async function flap({
  rate = 10,
  minutes = 10,
  ...options
}: ScenarioOptions & { minutes?: number }): Promise<Outcome> {
  const world = open(options);
  const { time, lmStudio, limits } = world;
  const stop = world.startArrivals(rate);
  for (let turn = 0; turn < minutes * 6; turn += 1) {
    lmStudio.setMode({ kind: "well" });
    await time.run(time.now() + 5 * secondMs);
    lmStudio.setMode({ kind: "down" });
    await time.run(time.now() + 5 * secondMs);
  }
  lmStudio.setMode({ kind: "well" });
  const healedAt = time.now();
  await runUntilClosed(world, 2 * limits.maxCooldownMs, limits.rampMs);
  stop();
  return close(world, { healedAt });
}

/** While the breaker is open the object is started anew and every isolate is replaced by a cold one. */
export async function restart({ rate = 50, ...options }: ScenarioOptions): Promise<Outcome> {
  const world = open(options);
  const { time, lmStudio, ledger, limits } = world;
  const stop = world.startArrivals(rate);
  await time.run(warmMs);
  lmStudio.setMode({ kind: "down" });
  const at = warmMs + 20 * secondMs;
  await time.run(at);
  const opening = changesOf(ledger.changes, "lm_studio_api").findLast(({ to }) => to === "open");
  if (opening === undefined) ledger.violate("an outage opens the breaker", "it did not");
  const endsAt = (opening?.atMs ?? 0) + (opening?.cooldownMs ?? 0);
  world.object.evict();
  for (const slot of world.slots) world.replace(slot);
  const before = lmStudio.calls();
  const until = at + 20 * secondMs;
  const ask = async (): Promise<void> => {
    while (time.now() < until) {
      const { answer, retryAfterSeconds } = await world.ask();
      const restSeconds = (endsAt - time.now()) / secondMs;
      const known = answer === "ERR_CB_OPEN" && retryAfterSeconds !== null;
      if (known && Math.abs(retryAfterSeconds - restSeconds) > 1.1) {
        ledger.violate("a cold isolate tells the rest of the cooldown", `${retryAfterSeconds} s of ${restSeconds} s`);
      }
      await time.sleep(secondMs);
    }
  };
  void ask();
  await time.run(until);
  const calls = lmStudio.calls() - before;
  lmStudio.setMode({ kind: "well" });
  await runUntilClosed(world, 2 * limits.maxCooldownMs, limits.rampMs);
  stop();
  return close(world, { outage: { fromMs: at, toMs: until, calls } });
}
