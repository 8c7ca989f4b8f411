import type { Act } from "../../shared/breaker.ts";
import { breakerNames } from "../../shared/breaker-state.ts";
import type { LmStudioMode } from "./lm-studio.ts";
import type { ObjectMode } from "./object.ts";
import type { Slot, Spared, World } from "./world.ts";
import { goodWire, type Wire } from "./wire.ts";

/** How a world goes wrong. */
export type PlagueOptions = {
  /** Virtual time at which everything is well again. */
  healsAt: number;
  spared: Spared;
};

/** One thing that goes wrong now and then. */
type Plague = {
  /** Mean time from the end of one to the next, in ms. */
  everyMs: number;
  /** How long one lasts, in ms. */
  lastsMs: readonly [number, number];
  /** Begins it; what is returned ends it. */
  begin: () => () => void;
};

const day = 86_400_000;
const nothing = (): void => undefined;

/** A wire with so little wrong that nobody would look for it. */
const wornWire: Wire = { delayMs: [2, 25], lost: 0.003, repeated: 0.005, cut: null };

/** Lets everything go wrong by chance, several things at once, until `healsAt`; from then on the world is well. */
export function startPlagues(world: World, options: PlagueOptions): void {
  const { time, dice, slots } = world;
  const worn = wornWires(options.spared);
  for (const slot of slots) Object.assign(slot, worn);
  for (const plague of plaguesOf(world, options)) void run(plague);
  time.startTimer(options.healsAt - time.now(), () => {
    for (const slot of slots) Object.assign(slot, { toObject: goodWire, toBox: goodWire });
  });

  async function run({ everyMs, lastsMs, begin }: Plague): Promise<void> {
    for (;;) {
      const gapMs = dice.gap(everyMs);
      // Early enough that the last change is over and seen when all is to be well.
      if (time.now() + gapMs >= options.healsAt) return;
      await time.sleep(gapMs);
      const end = begin();
      await time.sleep(Math.min(dice.between(...lastsMs), options.healsAt - time.now()));
      end();
    }
  }
}

function wornWires(spared: Spared): Record<"toObject" | "toBox", Wire> {
  return { toObject: spared === "messages" ? { ...wornWire, lost: 0 } : wornWire, toBox: wornWire };
}

function plaguesOf(world: World, { healsAt, spared }: PlagueOptions): Plague[] {
  const { time, dice, lmStudio, box, object, slots, limits } = world;
  const { toObject, toBox } = wornWires(spared);
  // A lease that comes too late for its caller is told twice in the counts: as that, and as the call that went without.
  const slowestMs = spared === "counts" ? 120 : 500;
  const someSlot = (): Slot | undefined => slots[Math.floor(dice.random() * slots.length)];
  /** One isolate's way, or everybody's. */
  const spoil = (way: "toObject" | "toBox", wire: Wire): (() => void) => {
    const one = someSlot();
    const hit = dice.chance(0.5) ? slots : slots.filter((slot) => slot === one);
    for (const slot of hit) slot[way] = wire;
    return () => {
      for (const slot of hit) slot[way] = time.now() >= healsAt ? goodWire : wornWires(spared)[way];
    };
  };
  const upset = (mode: LmStudioMode): (() => void) => {
    lmStudio.setMode(mode);
    return () => lmStudio.setMode({ kind: "well" });
  };

  const common: Plague[] = [
    {
      everyMs: 25_000,
      lastsMs: [3000, 60_000],
      begin: () =>
        upset(
          dice.pick<LmStudioMode>([
            { kind: "down" },
            { kind: "hanging" },
            { kind: "slow", factor: dice.between(2, 15) },
            { kind: "throttled", retryAfterMs: dice.between(1000, 120_000) },
            { kind: "failing", share: 1 },
            { kind: "failing", share: dice.between(0.1, 0.9) },
            { kind: "loading" },
          ]),
        ),
    },
    {
      everyMs: 90_000,
      lastsMs: [1000, 8000],
      begin() {
        lmStudio.crash();
        return upset({ kind: "down" });
      },
    },
    {
      everyMs: 120_000,
      lastsMs: [500, 30_000],
      begin() {
        box.kill();
        return () => box.start();
      },
    },
    {
      everyMs: 200_000,
      lastsMs: [2000, 6000],
      begin() {
        box.drain();
        return () => {
          box.kill();
          box.start();
        };
      },
    },
    {
      everyMs: 80_000,
      lastsMs: [1000, 20_000],
      begin: () =>
        spoil(
          "toBox",
          dice.pick<Wire>([
            { ...toBox, cut: "refusing" },
            { ...toBox, cut: "silent" },
            { ...toBox, lost: dice.between(0.1, 0.6) },
            { ...toBox, delayMs: [200, 4000] },
          ]),
        ),
    },
    {
      everyMs: 60_000,
      lastsMs: [1000, 20_000],
      begin: () =>
        spoil(
          "toObject",
          dice.pick<Wire>([
            { ...toObject, repeated: 0.5 },
            { ...toObject, delayMs: [1, slowestMs] },
            { ...toObject, delayMs: [1, slowestMs], repeated: 0.3, lost: spared === "messages" ? 0 : 0.2 },
          ]),
        ),
    },
  ];
  if (spared !== "nothing") return common;
  return [
    ...common,
    {
      everyMs: 60_000,
      lastsMs: [1000, 30_000],
      begin: () =>
        spoil(
          "toObject",
          dice.pick<Wire>([
            { ...toObject, cut: "refusing" },
            { ...toObject, cut: "silent" },
            { ...toObject, delayMs: [100, 3000], lost: 0.1, repeated: 0.2 },
          ]),
        ),
    },
    {
      everyMs: 60_000,
      lastsMs: [2000, 40_000],
      begin() {
        object.setMode(dice.pick<ObjectMode>(["unreachable", "overloaded", "slow"]));
        return () => object.setMode("up");
      },
    },
    { everyMs: 45_000, lastsMs: [0, 1], begin: () => (object.evict(), nothing) },
    {
      everyMs: 45_000,
      lastsMs: [0, 1],
      begin() {
        const slot = someSlot();
        if (slot !== undefined) world.replace(slot);
        return nothing;
      },
    },
    {
      everyMs: 20_000,
      lastsMs: [0, 1],
      begin() {
        const sizes = [500, 10_000, 600_000, day] as const;
        const ms = dice.between(-1, 1) * dice.pick(sizes);
        const slot = someSlot();
        if (slot === undefined || dice.chance(0.4)) object.stepWall(ms);
        else slot.isolate.wall.step(ms);
        return nothing;
      },
    },
    {
      everyMs: 240_000,
      lastsMs: [0, 1],
      begin() {
        const forMs = dice.between(1000, Math.min(30_000, limits.maxCooldownMs));
        const deed = dice.pick<Act>([{ kind: "open", reason: "by hand", forMs }, { kind: "close" }, { kind: "reset" }]);
        const name = dice.pick(breakerNames);
        void object.call((core) => core.act(name, deed, "operator")).catch(() => time.now());
        return nothing;
      },
    },
  ];
}
