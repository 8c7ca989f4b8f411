import type { Dice } from "./dice.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** What a way between two machines does to what goes over it; changed while a run goes on. */
export type Wire = {
  /** One leg takes between these, in ms, each by itself: later messages overtake earlier ones. */
  delayMs: readonly [number, number];
  /** Share of messages that are lost, in each direction. */
  lost: number;
  /** Share of calls that are delivered twice. */
  repeated: number;
  /** `refusing` = the sender is told at once; `silent` = it hears nothing, ever. */
  cut: "refusing" | "silent" | null;
};

/** A good line. */
export const goodWire: Wire = Object.freeze({ delayMs: [2, 15] as const, lost: 0, repeated: 0, cut: null });

/** One leg over a wire: false = it never arrives. */
export async function travel(wire: Wire, time: VirtualTime, dice: Dice): Promise<boolean> {
  const [from, to] = wire.delayMs;
  await time.sleep(dice.between(from, to));
  return wire.cut === null && !dice.chance(wire.lost);
}

/** A wait for what never comes. */
export function never(): Promise<never> {
  return new Promise(() => undefined);
}
