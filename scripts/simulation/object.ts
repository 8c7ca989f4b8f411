import { createAuthorityCore, type AuthorityCore } from "../../edge/objects/authority-core.ts";
import type { NamedEvent } from "../../edge/objects/authority-protocol.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import type { BreakerName } from "../../shared/breaker-state.ts";
import { startClock, tick } from "../../shared/clock.ts";
import type { Dice } from "./dice.ts";
import type { VirtualTime } from "./virtual-time.ts";
import type { WallClock } from "./wall-clock.ts";

/** What becomes of calls that reach the object's machine. */
export type ObjectMode = "up" | "unreachable" | "overloaded" | "slow";

/** The object on its platform: one process at a time, one stored text, one alarm. */
export type SimulatedObject = {
  /** Runs `work` in the process, which is started where there is none; rejects as a stub does. */
  call<Reply>(work: (core: AuthorityCore) => Reply): Promise<Reply>;
  setMode(mode: ObjectMode): void;
  /** The process that runs, or starts now. */
  core(): AuthorityCore;
  /** Ends the process; what it had not stored is gone. */
  evict(): void;
  stepWall(ms: number): void;
  /** Alarms that are set: one at most. */
  alarms(): 0 | 1;
  /** When a process last read the clock for a call. */
  lastCallAt(): number;
};

/** How long a slow object takes, in ms. */
const slowMs = 5000;

/** An object that has never stored anything. */
export function createObject(parts: {
  time: VirtualTime;
  wall: WallClock;
  dice: Dice;
  limits: BreakerLimits;
  /** False = the platform has lost the alarm, which it may after some failures. */
  alarms: boolean;
  probe: (name: BreakerName) => Promise<"failure" | "ignored">;
  emit: (event: NamedEvent) => void;
  /** A process begins with what was stored at a virtual time; undefined = nothing ever was. */
  started: (saved: { text: string; at: number } | undefined) => void;
}): SimulatedObject {
  const { time, wall, limits, probe } = parts;
  const random = parts.dice.random;
  let saved: { text: string; at: number } | undefined;
  let mode: ObjectMode = "up";
  let running: { core: AuthorityCore; ends: () => void } | null = null;
  let alarm: { at: number; stop: () => void } | null = null;
  let lastCallAt = 0;

  function setAlarm(at: number | null): void {
    alarm?.stop();
    alarm = at === null || !parts.alarms ? null : { at, stop: time.startTimer(at - wall.now(), ring) };
  }

  function ring(): void {
    alarm = null;
    void core().alarm();
  }

  function core(): AuthorityCore {
    if (running !== null) return running.core;
    let alive = true;
    let clock = startClock(wall.now());
    const before = saved;
    const started = createAuthorityCore({
      now() {
        clock = tick(clock, wall.now());
        return clock.elapsedMs;
      },
      wallNow: () => wall.now(),
      random,
      limits,
      load: () => before?.text,
      save(text) {
        if (alive) saved = { text, at: time.now() };
      },
      setAlarm(at) {
        if (alive) setAlarm(at);
      },
      probe,
      emit(event) {
        if (alive) parts.emit(event);
      },
    });
    running = {
      core: started,
      ends() {
        alive = false;
      },
    };
    parts.started(before);
    return started;
  }

  return {
    async call(work) {
      if (mode === "unreachable") throw Object.assign(new Error("Network connection lost."), { retryable: true });
      if (mode === "overloaded") throw Object.assign(new Error("Durable Object is overloaded."), { overloaded: true });
      if (mode === "slow") await time.sleep(slowMs);
      lastCallAt = time.now();
      return work(core());
    },
    setMode(next) {
      mode = next;
    },
    core,
    evict() {
      running?.ends();
      running = null;
    },
    stepWall(ms) {
      wall.step(ms);
      // The platform rings by the same clock.
      if (alarm !== null) setAlarm(alarm.at);
    },
    alarms: () => (alarm === null ? 0 : 1),
    lastCallAt: () => lastCallAt,
  };
}
