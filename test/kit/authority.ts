import type { BreakersHost } from "../../edge/authority-link.ts";
import { createBreakers, type Breakers } from "../../edge/breakers.ts";
import { createAuthorityCore, type AuthorityCore } from "../../edge/objects/authority-core.ts";
import type { AuthorityPort, NamedEvent, Unavailable } from "../../edge/objects/authority-protocol.ts";
import type { VirtualTime } from "../../scripts/simulation/virtual-time.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import type { BreakerName } from "../../shared/breaker-state.ts";
import { guideLimits } from "./breaker-driver.ts";

/** What a test's wall clocks show when its time begins. */
export const wallStartMs = 1_790_000_000_000;

/** What becomes of calls to the object: `silent` = they get lost, `deaf` = their answers do. */
export type AuthorityMode = "up" | "down" | "overloaded" | "silent" | "deaf";

/** The object in memory, with its saved row and its alarm, and switches for what the platform may do to it. */
export type AuthorityKit = {
  port: AuthorityPort;
  /** The process that runs now. */
  core(): AuthorityCore;
  mode: AuthorityMode;
  /** Way to the object and back, together, in ms. */
  delayMs: number;
  /** Each call is delivered twice, the second time `repeatMs` later. */
  repeatMs: number | null;
  /** What a probe finds. */
  probe: (name: BreakerName) => Promise<"failure" | "ignored">;
  probes: BreakerName[];
  /** Calls in the order they were sent. */
  calls: (keyof AuthorityPort)[];
  /** When each of them was sent. */
  sentAt: number[];
  events: NamedEvent[];
  saved: unknown;
  saves: number;
  /** What its wall clock is ahead, in ms. */
  wallSkewMs: number;
  /** A listener that throws. */
  breakObserver: boolean;
  /** Wall time the alarm is set to. */
  alarmAt(): number | null;
  transitions(name?: BreakerName): string[];
  /** Ends the process and starts the next one from what was saved. */
  restart(): void;
};

/** Starts an object on virtual time. */
export function startAuthorityKit(
  time: VirtualTime,
  limits: Partial<BreakerLimits> = {},
  random: () => number = () => 0,
): AuthorityKit {
  let alarm: { at: number; stop: () => void } | null = null;
  const wallNow = (): number => wallStartMs + time.now() + kit.wallSkewMs;

  const start = (): AuthorityCore => {
    const bornAt = time.now();
    return createAuthorityCore({
      now: () => time.now() - bornAt,
      wallNow,
      random,
      limits: { ...guideLimits, ...limits },
      load: () => kit.saved,
      save: (text) => {
        kit.saved = text;
        kit.saves += 1;
      },
      setAlarm(at) {
        alarm?.stop();
        alarm = at === null ? null : { at, stop: time.startTimer(at - wallNow(), ring) };
      },
      probe: (name) => {
        kit.probes.push(name);
        return kit.probe(name);
      },
      emit(event) {
        kit.events.push(event);
        if (kit.breakObserver) throw new Error("the observer is broken");
      },
    });
  };
  const ring = (): void => {
    alarm = null;
    void core.alarm();
  };

  const call = async <Reply>(
    op: keyof AuthorityPort,
    deliver: (to: AuthorityCore) => Reply,
  ): Promise<Reply | Unavailable> => {
    kit.calls.push(op);
    kit.sentAt.push(time.now());
    const { mode, delayMs, repeatMs } = kit;
    if (mode === "down") throw Object.assign(new Error("Network connection lost."), { retryable: true });
    if (mode === "overloaded") throw Object.assign(new Error("Durable Object is overloaded."), { overloaded: true });
    if (mode === "silent") return never();
    if (delayMs > 0) await time.sleep(delayMs / 2);
    const reply = deliver(core);
    if (repeatMs !== null) time.startTimer(repeatMs, () => void deliver(core));
    if (mode === "deaf") return never();
    if (delayMs > 0) await time.sleep(delayMs / 2);
    return travelled(reply);
  };

  const kit: AuthorityKit = {
    port: {
      report: (batch) => call("report", (to) => to.report(travelled(batch))),
      acquire: (name, isolate, ask) => call("acquire", (to) => to.acquire(name, isolate, travelled(ask))),
      act: (name, deed, keyId) => call("act", (to) => to.act(name, travelled(deed), keyId)),
      read: () => call("read", (to) => to.read()),
      bumpCacheEpoch: () => call("bumpCacheEpoch", (to) => to.bumpCacheEpoch()),
    },
    core: () => core,
    mode: "up",
    delayMs: 0,
    repeatMs: null,
    probe: () => Promise.resolve("ignored"),
    probes: [],
    calls: [],
    sentAt: [],
    events: [],
    saved: undefined,
    saves: 0,
    wallSkewMs: 0,
    breakObserver: false,
    alarmAt: () => alarm?.at ?? null,
    transitions: (name) =>
      kit.events.flatMap((told) =>
        told.event.kind === "transition" && (name === undefined || told.name === name)
          ? [`${told.event.from} > ${told.event.to}: ${told.event.reason}`]
          : [],
      ),
    restart() {
      core = start();
    },
  };
  let core = start();
  return kit;
}

/** One isolate of the edge. */
export type IsolateKit = {
  breakers: Breakers;
  /** A second request of the same isolate. */
  bind(): Breakers;
  log: { level: string; message: string; extra: Readonly<Record<string, unknown>> | undefined }[];
  /** Work that goes on behind answers. */
  pending(): number;
  wallSkewMs: number;
  /** The context is torn down: what its timers were to do is never done. */
  tearDown(): void;
};

/** Starts an isolate's breakers on virtual time; `authority` null = no object is bound. */
export function startIsolateKit(
  time: VirtualTime,
  authority: AuthorityPort | null,
  limits: Partial<BreakerLimits> = {},
  random: () => number = () => 0,
): IsolateKit {
  let pending = 0;
  let life = 0;
  isolates += 1;
  const name = isolates;
  const breakers = createBreakers({
    limits: { ...guideLimits, ...limits },
    now: () => wallStartMs + time.now() + kit.wallSkewMs,
    randomBytes: (count) => new Uint8Array(count).fill(name),
    random,
    startTimer(ms, elapsed) {
      const begun = life;
      return time.startTimer(ms, () => {
        if (begun === life) elapsed();
      });
    },
  });
  const host: BreakersHost = {
    authority,
    waitUntil(work) {
      pending += 1;
      void work.finally(() => {
        pending -= 1;
      });
    },
    log: (level, message, fields) => void kit.log.push({ level, message, extra: fields?.extra }),
  };
  const kit: IsolateKit = {
    breakers: breakers.bind(host),
    bind: () => breakers.bind({ ...host }),
    log: [],
    pending: () => pending,
    wallSkewMs: 0,
    tearDown() {
      life += 1;
    },
  };
  return kit;
}

let isolates = 0;

/** A value as it arrives on the other side: plain JSON, or the test is wrong to send it. */
function travelled<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T;
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}
