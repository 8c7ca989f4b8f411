import { settled, withFakeTime, type FakeTime } from "./fake-time.ts";
import { cockatiel } from "./library-cockatiel.ts";
import { opossum } from "./library-opossum.ts";
import { ours } from "./library-ours.ts";
import { callOnce, Cancelled, hold, type Held, type Library, type Subject } from "./library.ts";

/** What one scenario came to with each library; "-" = it has no such part. */
export type DifferentialRow = { id: string; scenario: string; ours: string; cockatiel: string; opossum: string };

/** A defect that a library of this kind is known to have, made to show: a short word says what happened. */
type Scenario = { id: string; scenario: string; play: (library: Library, time: FakeTime) => Promise<string> };

const cooldownMs = 60_000;
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

/** The scenarios of which each came from a defect of some library. */
export const scenarios: readonly Scenario[] = [
  {
    id: "G1",
    scenario: "call from closed fails late, in half-open",
    async play(library, time) {
      const { subject, late, probe } = await lateInHalfOpen(library, time);
      late.fail();
      await late.outcome;
      if (subject.phase() === "half_open") return nameLate(subject);
      probe.succeed();
      await probe.outcome;
      return subject.phase() === "open" ? "re-opens, then ignores the good probe" : "re-opens";
    },
  },
  {
    id: "G2",
    scenario: "call from closed succeeds late, in half-open",
    async play(library, time) {
      const { subject, late } = await lateInHalfOpen(library, time);
      late.succeed();
      await late.outcome;
      return subject.phase() === "half_open" ? nameLate(subject) : "closes";
    },
  },
  {
    id: "G3",
    scenario: "a probe never ends, 100 callers come",
    async play(library, time) {
      const subject = library.open();
      await openUp(subject);
      await time.pass(cooldownMs);
      const probe = hold(subject);
      let waiting = 100;
      for (let caller = 0; caller < 100; caller += 1) void hold(subject).outcome.then(() => (waiting -= 1));
      // Whoever got a place as a further probe never ends either; all others should know by now.
      const atExpiry = await time.pass(31_000).then(() => subject.phase());
      await time.pass(hourMs);
      if (!probe.begun()) return "no probe";
      if (waiting === 100) return "100 of 100 still queued";
      const next = hold(subject);
      await settled();
      if (!next.begun()) return "stuck";
      return atExpiry === "open" ? "lease expiry = failure" : "probes again";
    },
  },
  {
    id: "G4",
    scenario: "500 callers a second from the moment it closes",
    async play(library, time) {
      const subject = library.open();
      await openUp(subject);
      await time.pass(cooldownMs);
      for (let probes = 0; probes < 5 && subject.phase() !== "closed"; probes += 1) await callOnce(subject, true);
      const peaks: number[] = [];
      for (let second = 0; second < 3; second += 1) {
        const callers = Array.from({ length: 500 }, () => hold(subject));
        await settled();
        peaks.push(callers.filter((caller) => caller.begun()).length);
        for (const caller of callers) caller.succeed();
        await time.pass(1000);
      }
      const [first = 0, second = 0, third = 0] = peaks;
      if (first === 500) return "500 at once";
      return first < second && second < third ? "ramp" : peaks.join(", ");
    },
  },
  {
    id: "G5",
    scenario: "own bulkhead refuses: healthy backend, 20 calls, 2 places",
    async play(library) {
      const subject = library.openNarrow(2);
      const callers = Array.from({ length: 20 }, () => hold(subject));
      await settled();
      for (const caller of callers) caller.succeed();
      const outcomes = await Promise.all(callers.map(({ outcome }) => outcome));
      const served = outcomes.filter((outcome) => outcome === "ok").length;
      return subject.phase() === "closed" && served === 2 ? "ignored" : `${served} ok, then ${subject.phase()}`;
    },
  },
  {
    id: "G6",
    scenario: "4 failures, idle 1 h, 1 failure",
    async play(library, time) {
      const subject = library.open();
      for (let call = 0; call < 4; call += 1) await callOnce(subject, false);
      await time.pass(hourMs);
      await callOnce(subject, false);
      if (subject.phase() === "open") return "opens";
      for (let call = 0; call < 3; call += 1) await callOnce(subject, false);
      if (subject.phase() === "open") return "opens at the next";
      await callOnce(subject, false);
      return subject.phase() === "open" ? "window cleared" : "never opens";
    },
  },
  {
    id: "G7",
    scenario: "wall clock back 1 day while open; and restored then",
    async play(library, time) {
      const live = library.open();
      await openUp(live);
      time.step(-dayMs);
      const alive = await secondsToProbe(live, time);
      const saved = library.open();
      await openUp(saved);
      await time.pass(50_000);
      const text = saved.save();
      time.step(-dayMs);
      const restored = await secondsToProbe(library.open(text), time);
      if (alive > 62) return alive > 80_000 ? "open a day" : `open ${alive} s`;
      return restored <= 11 ? "monotonic, clamped" : "live ok; restored: whole cooldown again";
    },
  },
  {
    id: "G8",
    scenario: "restored with 10 of 60 s of cooldown left",
    async play(library, time) {
      const subject = library.open();
      await openUp(subject);
      await time.pass(50_000);
      const left = await secondsToProbe(library.open(subject.save()), time);
      if (left === 10) return "remaining kept";
      return left === 60 ? "whole cooldown again" : `${left} s`;
    },
  },
  {
    id: "G9",
    scenario: "a probe is cancelled by its caller, and told apart from a failure",
    async play(library, time) {
      const subject = library.open();
      await openUp(subject);
      await time.pass(cooldownMs);
      const probe = hold(subject);
      probe.cancel();
      await probe.outcome;
      if (subject.phase() !== "half_open") return subject.phase() === "closed" ? "closes" : "re-opens";
      const next = hold(subject);
      await settled();
      return next.begun() ? "ignored" : "slot lost";
    },
  },
  {
    id: "G10",
    scenario: "5 calls longer than the counting interval fail",
    async play(library, time) {
      const subject = library.open();
      const callers = Array.from({ length: 5 }, () => hold(subject));
      await time.pass(61_000);
      for (const caller of callers) caller.fail();
      await Promise.all(callers.map(({ outcome }) => outcome));
      return subject.phase() === "open" ? "counted at its end" : "never counted";
    },
  },
  {
    id: "G11",
    scenario: "cache key; switching off",
    async play(library) {
      const key = library.countAsked === null ? "-" : await nameKey(library.countAsked);
      const off = library.openOff === null ? "-" : await nameOff(library.openOff(2));
      return key === "-" && off === "-" ? "-" : `${key}; ${off}`;
    },
  },
  {
    id: "G12",
    scenario: "abort at 20 ms of a back-off of 300 ms; handing over a slot",
    async play(library, time) {
      const back = library.retry === null ? "-" : await nameAbort(library.retry, time);
      const slot = library.openQueue === null ? "-" : await nameHandover(library.openQueue());
      return back === "-" && slot === "-" ? "-" : `${back}; ${slot}`;
    },
  },
];

/** Plays every scenario with every library, each on a clock of its own; takes under a second. */
export async function playDifferential(): Promise<DifferentialRow[]> {
  const rows: DifferentialRow[] = [];
  for (const { id, scenario, play } of scenarios) {
    const word = (library: Library): Promise<string> => withFakeTime((time) => play(library, time));
    rows.push({
      id,
      scenario,
      ours: await word(ours),
      cockatiel: await word(cockatiel),
      opossum: await word(opossum),
    });
  }
  return rows;
}

/** Fails calls until it is open. */
async function openUp(subject: Subject): Promise<void> {
  for (let call = 0; call < 10 && subject.phase() !== "open"; call += 1) await callOnce(subject, false);
  if (subject.phase() !== "open") throw new Error("ten failures do not open it");
}

/** A call from when it was closed and a probe, both under way in half-open. */
async function lateInHalfOpen(
  library: Library,
  time: FakeTime,
): Promise<{ subject: Subject; late: Held; probe: Held }> {
  const subject = library.open();
  const late = hold(subject);
  await openUp(subject);
  await time.pass(cooldownMs);
  const probe = hold(subject);
  await settled();
  if (!probe.begun() || subject.phase() !== "half_open") throw new Error("the cooldown's end brings no probe");
  return { subject, late, probe };
}

function nameLate(subject: Subject): string {
  return subject.late() === 1 ? "late" : "ignored";
}

/** Seconds until a call goes through, asked every second for two minutes and every hour of a day and an hour then. */
async function secondsToProbe(subject: Subject, time: FakeTime): Promise<number> {
  let seconds = 0;
  while (seconds < 25 * 3600) {
    if ((await callOnce(subject, true)) !== "refused") break;
    const step = seconds < 120 ? 1 : 3600;
    seconds += step;
    await time.pass(step * 1000);
  }
  return seconds;
}

async function nameKey(countAsked: NonNullable<Library["countAsked"]>): Promise<string> {
  const reordered = await countAsked(
    [
      { prompt: "a", seed: 1 },
      { seed: 1, prompt: "a" },
    ],
    "a lighthouse",
  );
  const unset = await countAsked([{ seed: 0 }, { seed: "" }, { seed: null }, {}], "a lighthouse");
  const falsy = await countAsked([{ seed: 1 }, { seed: 1 }], 0);
  const words = [
    ...(reordered === 1 ? [] : ["key order matters"]),
    ...(unset === 4 ? [] : ["unset is a value"]),
    ...(falsy === 1 ? [] : ["falsy never served"]),
  ];
  return words.length === 0 ? "canonical" : words.join(", ");
}

/** A switched-off breaker around two places, with a dependency that is down and then more calls than places. */
async function nameOff(subject: Subject): Promise<string> {
  for (let call = 0; call < 10; call += 1) await callOnce(subject, false);
  const counted = subject.failures() === 10;
  const callers = Array.from({ length: 5 }, () => hold(subject));
  await settled();
  const inside = callers.filter((caller) => caller.begun()).length;
  if (inside === 0) return "off refuses";
  return counted && inside === 2 ? "off = count only" : "off drops all protection";
}

async function nameAbort(retry: NonNullable<Library["retry"]>, time: FakeTime): Promise<string> {
  const caller = new AbortController();
  const startedAt = time.wallMs();
  const work = async (): Promise<void> => {
    throw new Error("the dependency is down");
  };
  const ended: number[] = [];
  const end = (): void => void ended.push(time.wallMs() - startedAt);
  void retry(work, 300, caller.signal).then(end, end);
  await time.pass(20);
  caller.abort(new Cancelled("the caller left"));
  for (let ms = 20; ms < 400; ms += 1) await time.pass(1);
  const [took = Infinity] = ended;
  return took === 20 ? "same tick" : `returns at ${took} ms`;
}

async function nameHandover(run: ReturnType<NonNullable<Library["openQueue"]>>): Promise<string> {
  const never = new AbortController().signal;
  const leaver = new AbortController();
  const order: string[] = [];
  const first = Promise.withResolvers<void>();
  const rest = Promise.withResolvers<void>();
  const begin = (name: string) => (): Promise<void> => {
    order.push(name);
    return rest.promise;
  };
  void run(() => first.promise, never);
  let left = false;
  const leave = (): void => {
    left = true;
  };
  void run(begin("leaver"), leaver.signal).then(leave, leave);
  void run(begin("waiter"), never);
  await settled();
  leaver.abort(new Cancelled("the caller left"));
  await settled();
  const settledAtOnce = left;
  // Comes in the very tick in which the place becomes free.
  void first.promise.then(() => run(begin("newcomer"), never));
  first.resolve();
  await settled();
  const turn = order[0] === "waiter" ? "handed over" : `${order[0] ?? "nobody"} overtakes`;
  return settledAtOnce ? turn : `${turn}, aborted waiter unsettled`;
}
