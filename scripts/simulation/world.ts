import { readBreakerLimits, type BreakerLimits } from "../../shared/breaker-limits.ts";
import { breakerNames, type BreakerName } from "../../shared/breaker-state.ts";
import { readConfig, renderProblems, type Config } from "../../shared/config.ts";
import { createBox, type SimulatedBox } from "./box.ts";
import { createDice, type Dice } from "./dice.ts";
import { createIsolate, type SimulatedIsolate, type Told } from "./isolate.ts";
import { createLedger, type Ledger } from "./ledger.ts";
import { createLmStudio, type LmStudioPace, type SimulatedLmStudio } from "./lm-studio.ts";
import { connectBox, connectObject } from "./network.ts";
import { createObject, type SimulatedObject } from "./object.ts";
import { createVirtualTime, type VirtualTime } from "./virtual-time.ts";
import { createWallClock } from "./wall-clock.ts";
import { watchObject, type ObjectWatch } from "./watched-object.ts";
import { goodWire, type Wire } from "./wire.ts";

/** What a world is made of. */
export type WorldOptions = {
  seed: number;
  isolates: number;
  /** Configuration of edge, object and box, as texts. */
  environment: Readonly<Record<string, string>>;
  pace: LmStudioPace;
  /** Share of captions that were made for another call. */
  collapsed: number;
  /** Share of callers who go away. */
  leaving: number;
  /** The object's alarms ring. */
  alarms: boolean;
};

/**
 * What was spared of all that may go wrong, so that more can be asked of the rest. `counts`: nothing that may lose what an isolate or the object
 * knows, as deaths, evictions, steps of clocks, a slow or absent object. `messages`: nothing on the way to it either.
 */
export type Spared = "nothing" | "counts" | "messages";

/** A place where an isolate runs, and its ways to the others. */
export type Slot = { isolate: SimulatedIsolate; toObject: Wire; toBox: Wire };

/** Edge, object, box and LM Studio of one run. */
export type World = {
  time: VirtualTime;
  dice: Dice;
  config: Config;
  limits: BreakerLimits;
  ledger: Ledger;
  lmStudio: SimulatedLmStudio;
  box: SimulatedBox;
  object: SimulatedObject;
  watch: ObjectWatch;
  slots: Slot[];
  /** The isolate of a slot ends, and a cold one takes its place. */
  replace(slot: Slot): void;
  /** One request at some isolate; resolves when it is answered. */
  ask(): Promise<Told>;
  /** Requests that come by chance, so many a second, until the returned function is called. */
  startArrivals(rate: number): () => void;
  /** Lets everything under way end, and looks whether all that was lent is back, and what was spared is all there. */
  finish(spared: Spared): Promise<void>;
};

/** Callers who leave do so within this, in ms. */
const leavingMs = 4000;
/** Longer than anything that is still under way may take: a deadline, a permit's last try, an empty budget. */
const quietMs = 180_000;

/** A world at rest, in which all is well. */
export function createWorld(options: WorldOptions): World {
  const reading = readConfig(options.environment);
  if (!reading.ok) throw new Error(renderProblems(reading.problems));
  const { config } = reading;
  const limits = readBreakerLimits(config);
  const time = createVirtualTime();
  const dice = createDice(options.seed);
  const ledger = createLedger(options.seed, time.now);
  const lmStudio = createLmStudio(time, dice.fork(), options.pace, (inside) =>
    ledger.violate("LM Studio is given no more than it can work on", `${inside} of ${options.pace.parallel}`),
  );
  const box = createBox(time, dice.fork(), lmStudio, {
    maxQueue: config.max_queue,
    timeoutMs: config.timeout_seconds * 1000,
    firstTokenMs: config.timeout_first_token_seconds * 1000,
    idleMs: config.timeout_idle_seconds * 1000,
  });
  const objectWall = createWallClock(time);
  const watch = watchObject(ledger, limits, time.now, objectWall);
  const object = createObject({
    time,
    wall: objectWall,
    dice: dice.fork(),
    limits,
    alarms: options.alarms,
    probe,
    emit: watch.told,
    started: watch.started,
  });
  const ports = { time, dice: dice.fork() };
  const slots: Slot[] = [];

  /** The object's own look at the box, over a line of its own. */
  async function probe(name: BreakerName): Promise<"failure" | "ignored"> {
    await time.sleep(ports.dice.between(5, 50));
    const seen = box.readiness();
    if (seen === null) return name === "sidecar" ? "failure" : "ignored";
    return name === "lm_studio_api" && seen.lmStudioDown ? "failure" : "ignored";
  }

  function start(slot: Omit<Slot, "isolate">): SimulatedIsolate {
    const own = { time, dice: dice.fork() };
    return createIsolate({
      ...own,
      wall: createWallClock(time),
      ledger,
      environment: options.environment,
      authority: connectObject(own, () => slot.toObject, object, watch.sent),
      send: connectBox(own, () => slot.toBox, box, {
        connectMs: config.timeout_connect_seconds * 1000,
        collapsed: options.collapsed,
      }),
    });
  }

  function checkBudget({ isolate }: Slot): void {
    const { tokens, retries, allowed } = isolate.budget();
    if (retries > allowed) ledger.violate("retries stay within the budget", `${retries} of ${allowed}`);
    if (tokens < 0 || tokens > 10) ledger.violate("tokens are between none and ten", `${tokens}`);
  }

  for (let index = 0; index < options.isolates; index += 1) {
    const ways = { toObject: goodWire, toBox: goodWire };
    const slot: Slot = Object.assign(ways, { isolate: start(ways) });
    slots.push(slot);
  }

  const ask = (): Promise<Told> => {
    const [first, ...others] = slots;
    if (first === undefined) throw new Error("a world without isolates answers nobody");
    const { isolate } = dice.pick([first, ...others]);
    return isolate.request(dice.chance(options.leaving) ? dice.between(0, leavingMs) : null);
  };

  return {
    time,
    dice,
    config,
    limits,
    ledger,
    lmStudio,
    box,
    object,
    watch,
    slots,
    replace(slot) {
      checkBudget(slot);
      slot.isolate.die();
      slot.isolate = start(slot);
    },
    ask,
    startArrivals(rate) {
      let stop = (): void => undefined;
      const next = (): void => {
        stop = time.startTimer(dice.gap(1000 / rate), () => {
          void ask();
          next();
        });
      };
      next();
      return () => stop();
    },
    async finish(spared) {
      await time.run(time.now() + quietMs);
      const left = (what: string, count: number): void => {
        if (count !== 0) ledger.violate("everything lent comes back", `${what}: ${count}`);
      };
      left("requests without an answer", ledger.waiting());
      const isOpen = watch.phases().includes("open");
      left("timers", time.pending() - (isOpen ? object.alarms() : 0));
      left("calls in LM Studio", lmStudio.inside());
      const admission = box.admission()?.view();
      left("calls inside the sidecar", admission?.inside ?? 0);
      left("calls in line", admission?.waiting ?? 0);
      for (const state of ["in_use", "draining", "lost"] as const) {
        left(`permits ${state}`, admission?.permits[state] ?? 0);
      }
      for (const slot of slots) {
        const { isolate } = slot;
        checkBudget(slot);
        left("work behind answers", isolate.pending());
        left("tokens of the retry budget", 10 - isolate.budget().tokens);
        const { admitted, settled } = isolate.tally;
        left("tokens of breakers", admitted - settled.sidecar - settled.lm_studio_api);
      }
      for (const name of breakerNames) {
        left(`probes of ${name}`, ledger.probes[name].now);
        const expired = watch.expired[name];
        if (spared === "messages") left(`leases of ${name} that nobody ended`, expired);
        if (spared !== "counts") continue;
        const { counts } = object.core().read().reading.breakers[name];
        const counted = counts.success + counts.failure + counts.slow + counts.ignored + counts.late;
        const settled = slots.reduce((sum, { isolate }) => sum + isolate.tally.settled[name], 0);
        const expected = settled + expired;
        if (counted !== expected) ledger.violate("counters sum to calls", `${name} ${counted} of ${expected}`);
      }
    },
  };
}
