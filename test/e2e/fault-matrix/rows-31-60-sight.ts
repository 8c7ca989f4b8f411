import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import type { AuthorityPort } from "../../../edge/objects/authority-protocol.ts";
import type { BreakerName } from "../../../shared/breaker-state.ts";
import { ask, freshPicture, type Reply } from "../../kit/ask.ts";
import { readMetrics, type WorldEdge } from "../../kit/whole.ts";
import type { WorldSidecar } from "../../kit/world-sidecar.ts";
import { poll, readCounts, tell, tellDifference, type BreakerCounts } from "./observe.ts";

/** The sum of what both breakers learned since `before`, looked at until it is as expected; `ignored` stands for none. */
export async function tellSamples(
  edge: WorldEdge,
  before: BreakerCounts,
  expected: Readonly<Record<BreakerName, string>>,
): Promise<string> {
  const wanted = `samples: sidecar ${expected.sidecar}, lm_studio_api ${expected.lm_studio_api}`;
  const look = async (): Promise<string> => {
    const after = await readCounts(edge);
    const of = (name: BreakerName): string => tellDifference(before, after, name);
    return `samples: sidecar ${of("sidecar")}, lm_studio_api ${of("lm_studio_api")}`;
  };
  return poll(look, (seen) => seen === wanted);
}

/** Resolves once `look` gives true; says what is missing after `limitMs`. */
export async function untilTrue(missing: string, look: () => Promise<boolean>, limitMs = 5000): Promise<void> {
  const turn = async (): Promise<boolean> => {
    // What is looked at may be in this very process, which must get on meanwhile.
    await setImmediate();
    return look();
  };
  assert.ok(await poll(turn, (seen) => seen, limitMs), `after ${limitMs} ms: ${missing}`);
}

/** One figure of a sidecar's metrics, by name and labels as they stand there. */
export async function metricOf(sidecar: Pick<WorldSidecar, "call">, name: string): Promise<number> {
  const response = await sidecar.call({ target: "/metrics" });
  return readMetrics(await response.text()).get(name) ?? 0;
}

/** Whether a store of this edge has the picture's caption. */
export async function isKept(edge: { url: string }, image: Uint8Array): Promise<boolean> {
  const { status } = await ask(edge, { image, headers: { "cache-control": "only-if-cached" } });
  return status === 200;
}

/** Has a picture captioned and waits until it is kept; for edges whose captions stay fresh. */
export async function keepPicture(edge: { url: string }, image: Uint8Array = freshPicture()): Promise<Uint8Array> {
  assert.equal((await ask(edge, { image })).status, 200);
  await untilTrue("the caption is not kept", () => isKept(edge, image));
  return image;
}

/** An object of breakers that is not there: whoever asks decides alone. */
export const silentAuthority: AuthorityPort = {
  report: lost,
  acquire: lost,
  act: lost,
  read: lost,
  bumpCacheEpoch: lost,
};

function lost(): Promise<never> {
  return Promise.reject(Object.assign(new Error("Network connection lost."), { retryable: true }));
}

/** Equal answers counted: `10 x 502 ERR_API_INVALID_RESPONSE`. */
export function tellAll(replies: readonly Reply[]): string {
  const counted = new Map<string, number>();
  for (const reply of replies) counted.set(tell(reply), (counted.get(tell(reply)) ?? 0) + 1);
  return [...counted].map(([words, count]) => `${count} x ${words}`).join(" and ");
}
