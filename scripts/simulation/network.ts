import { abortReason, until } from "../../edge/deadline.ts";
import type { AuthorityCore } from "../../edge/objects/authority-core.ts";
import type { AuthorityPort, AuthoritySnapshot } from "../../edge/objects/authority-protocol.ts";
import type { SidecarCall, SidecarOutcome } from "../../edge/sidecar-client.ts";
import { PixelLLMError, toPixelLLMError, type ErrorCode } from "../../shared/errors.ts";
import { fromErrorBody } from "../../shared/wire.ts";
import type { BoxAnswer, Connection, SimulatedBox } from "./box.ts";
import type { Dice } from "./dice.ts";
import type { SimulatedObject } from "./object.ts";
import type { VirtualTime } from "./virtual-time.ts";
import { never, travel, type Wire } from "./wire.ts";

/** What both ways stand in. */
type Ports = { time: VirtualTime; dice: Dice };

type Range = readonly [number, number];

/** How long the platform takes to find that a connection is lost, in ms: when something tells it, and when nothing does. */
const lostMs: readonly [Range, Range] = [
  [50, 3000],
  [3000, 60_000],
];

/**
 * One isolate's way to the object. A call may be lost before it is carried out or after; its sender then hears of a
 * lost connection, soon or only after a minute. Or it is carried out twice, the second time up to ten seconds later.
 */
export function connectObject(
  { time, dice }: Ports,
  wire: () => Wire,
  object: SimulatedObject,
  sent: (snapshot: AuthoritySnapshot) => void,
): AuthorityPort {
  const lose = async (): Promise<never> => {
    const [from, to] = dice.pick<Range>(lostMs);
    await time.sleep(dice.between(from, to));
    throw Object.assign(new Error("Network connection lost."), { retryable: true });
  };
  const call = async <Reply>(work: (core: AuthorityCore) => Reply): Promise<Reply> => {
    if (wire().cut === "refusing") throw new Error("Network connection lost.");
    if (!(await travel(wire(), time, dice))) return lose();
    const reply = await object.call(work);
    if (hasSnapshot(reply)) sent(reply.snapshot);
    if (dice.chance(wire().repeated)) {
      time.startTimer(dice.gap(2000) % 10_000, () => void object.call(work).catch(() => undefined));
    }
    return (await travel(wire(), time, dice)) ? reply : lose();
  };
  return {
    report: (batch) => call((core) => core.report(batch)),
    acquire: (name, isolate, ask) => call((core) => core.acquire(name, isolate, ask)),
    act: (name, deed, keyId) => call((core) => core.act(name, deed, keyId)),
    read: () => call((core) => core.read()),
    bumpCacheEpoch: () => call((core) => core.bumpCacheEpoch()),
  };
}

/**
 * One isolate's way to the sidecar, as its client tells of it: no head within the connect limit, a refused connection,
 * a head and then nothing whole, or the sidecar's own answer.
 */
export function connectBox(
  { time, dice }: Ports,
  wire: () => Wire,
  box: SimulatedBox,
  /** `collapsed`: share of captions that were made for another call. */
  { connectMs, collapsed }: { connectMs: number; collapsed: number },
): (call: SidecarCall) => Promise<SidecarOutcome> {
  /** Sends, and waits for the head. */
  const open = async (call: SidecarCall, signal: AbortSignal): Promise<Connection> => {
    if (wire().cut === "refusing" || !(await travel(wire(), time, dice))) {
      if (wire().cut !== "silent" && dice.chance(0.5)) throw ours("ERR_CONN_UNAVAILABLE");
      return never();
    }
    signal.throwIfAborted();
    // The sidecar answers first, and names the stage that took the time.
    const remainingMs = call.remainingMs - Math.min(250, call.remainingMs / 10);
    const connection = box.open({ remainingMs, needsWords: call.path === "/v1/caption" });
    if (connection === null) throw ours("ERR_CONN_UNAVAILABLE");
    // Whoever leaves from now on is seen leaving.
    signal.addEventListener("abort", () => connection.close(), { once: true });
    return (await travel(wire(), time, dice)) ? connection : never();
  };

  const read = async (connection: Connection): Promise<BoxAnswer> => {
    const answer = await connection.answer;
    return (await travel(wire(), time, dice)) ? answer : never();
  };

  return async (call) => {
    const { signal } = call;
    const limit = new AbortController();
    const stop = time.startTimer(connectMs, () => limit.abort(ours("ERR_CONN_TIMEOUT")));
    try {
      if (signal.aborted) throw abortReason(signal);
      const either = AbortSignal.any([signal, limit.signal]);
      const connection = await until(either, open(call, either));
      stop();
      const answer = await until(signal, read(connection));
      switch (answer.kind) {
        case "done":
          return { ok: true, status: 200, body: { collapsed: dice.chance(collapsed) } };
        case "failure": {
          const { status, body } = answer;
          return { ok: false, error: fromErrorBody(body.error, status), failure: body };
        }
        case "broken":
          throw ours("ERR_API_INVALID_RESPONSE");
      }
    } catch (thrown) {
      return { ok: false, error: toPixelLLMError(thrown), failure: null };
    } finally {
      stop();
    }
  };
}

/** A failure of the way to the sidecar, not of what it says. */
function ours(code: ErrorCode): PixelLLMError {
  return new PixelLLMError(code, { details: { service: "sidecar" } });
}

function hasSnapshot(reply: unknown): reply is { snapshot: AuthoritySnapshot } {
  return typeof reply === "object" && reply !== null && "snapshot" in reply;
}
