import assert from "node:assert/strict";
import { ask, freshPicture, type Reply } from "../../kit/ask.ts";
import { seededRandom } from "../../kit/fault-proxy/sockets.ts";
import { temporaryFolder } from "../../kit/folders.ts";
import type { Place } from "../../kit/lm-studio/modes.ts";
import { startLmStudio } from "../../kit/lm-studio.ts";
import { openRaw, rawRequest } from "../../kit/raw-client.ts";
import { startSidecarInProcess } from "../../kit/sidecar-in-process.ts";
import { secret } from "../../kit/stack.ts";
import { readMetrics } from "../../kit/whole.ts";
import { within } from "../../kit/within.ts";
import { readCounts, tell } from "./observe.ts";
import type { Row } from "./row.ts";
import { startNodeEdge } from "./rows-31-60-node-edge.ts";
import { tellAll, tellSamples, untilTrue } from "./rows-31-60-sight.ts";
import { world } from "./rows-31-60-worlds.ts";

const { studio } = world;
const { once, thrice } = world.edges;
const none = { query: { fallback: "none" } };
const callers = (): number => world.sidecar.inside?.sidecar.engine.figures().callers ?? 0;

/**
 * A question whose caller leaves when told to. By RST: of a mere FIN the local workerd learns when it has something to
 * send, and not before. `gone` tells what the caller got.
 */
async function leaving(
  edge: { url: string },
  image: Uint8Array = freshPicture(),
): Promise<{ leave: () => void; gone: Promise<string> }> {
  const client = await openRaw(edge.url);
  const { head, body } = rawRequest({
    target: "/v1/captions?fallback=none",
    headers: [["content-type", "image/png"]],
    body: image,
  });
  await client.send(head);
  await client.send(body);
  const gone = client.answer().then((answer) => (answer === "closed" ? "nothing" : `answered ${answer.body}`));
  return { leave: () => client.leave("rst"), gone };
}

const places: readonly Place[] = ["status", "mid-head", "head", "role", { tokens: 1 }, { tokens: 3 }];

const left: Row = {
  id: "F47",
  fault: "caller leaves at a seeded moment",
  expected: [
    "eight moments of an answer: 8 x nothing",
    "samples: sidecar 8 ignored, lm_studio_api 8 ignored",
    "in the wait before a retry: nothing, 1 call of LM Studio",
  ],
  async run() {
    await world.reset();
    const seed = 47;
    const random = seededRandom(seed);
    const before = await readCounts(once);
    const seen = [];
    for (let n = 0; n < 8; n += 1) {
      const at = places[Math.floor(random() * places.length)] ?? "head";
      const gate = studio.gates(`left ${n}`);
      studio.enqueue({ kind: "stream", pauses: [{ at, gate: gate.name }] });
      const { leave, gone } = await leaving(once);
      const early = gone.then((told) => assert.fail(`${told} before ${JSON.stringify(at)}, n ${n}, seed ${seed}`));
      await Promise.race([gate.arrived(), early]);
      early.catch(() => undefined);
      leave();
      seen.push(await gone);
      await untilTrue(`the sidecar does not notice, seed ${seed}`, async () => callers() === 0);
      gate.open();
    }
    const samples = await tellSamples(once, before, { sidecar: "8 ignored", lm_studio_api: "8 ignored" });
    const chats = studio.chats().length;
    // The wait that LM Studio asks for is the longest there is here, and the caller leaves within it.
    studio.answer({ kind: "reply", status: 429, body: "{}", headers: [["retry-after", "1"]] });
    const { leave, gone } = await leaving(thrice);
    const failedOnce = studio.until(() => studio.chats().length > chats && studio.counts().working === 0);
    await within(2000, () => "no call has failed", failedOnce);
    await untilTrue("the failed call is still inside", async () => callers() === 0);
    leave();
    const waited = await gone;
    await world.reset();
    await world.settled("once", "thrice");
    // The healthy requests since then are calls of their own: the one that was left had no second.
    const asked = studio.chats().length - chats - 2;
    return [
      `eight moments of an answer: ${seen.filter((each) => each === "nothing").length} x nothing`,
      samples,
      `in the wait before a retry: ${waited}, ${asked} call of LM Studio`,
    ];
  },
};

const leader: Row = {
  id: "F48",
  fault: "leader of ten coalesced calls leaves",
  expected: [
    "the others: 9 x 200 caption",
    "samples: sidecar 9 success and ignored, lm_studio_api success and 9 ignored",
    "calls of LM Studio: 1",
  ],
  async run() {
    await world.reset();
    const before = await readCounts(once);
    const chats = studio.chats().length;
    const gate = studio.gates("shared");
    studio.enqueue({ kind: "stream", pauses: [{ at: "head", gate: gate.name }] });
    const image = freshPicture();
    const first = await leaving(once, image);
    await gate.arrived();
    const others = Array.from({ length: 9 }, () => ask(once, { image, ...none }));
    await untilTrue("not all have joined", async () => callers() === 10);
    first.leave();
    await first.gone;
    await untilTrue("the leader is still counted", async () => callers() === 9);
    gate.open();
    const replies = await Promise.all(others);
    const samples = await tellSamples(once, before, {
      sidecar: "9 success and ignored",
      lm_studio_api: "success and 9 ignored",
    });
    const asked = studio.chats().length - chats;
    await world.reset();
    await world.settled("once");
    return [`the others: ${tellAll(replies)}`, samples, `calls of LM Studio: ${asked}`];
  },
};

const replayed: Row = {
  id: "F54",
  fault: "signed request replayed or altered, also after a restart",
  expected: [
    "first: 200",
    "replayed: 401 ERR_API_UNAUTHORIZED, no reason",
    "altered (method, path, query, body, nonce, time, key): 7 x 401",
    "after a restart: 401",
    "LM Studio: 1 call",
    "replays counted: 2",
  ],
  async run() {
    await using lm = await startLmStudio();
    const settings = { lm_studio_host: "127.0.0.1", lm_studio_port: lm.port, state_dir: temporaryFolder() };
    const { sha256, signCall } = await import("../../../edge/crypto.ts");
    const random = (count: number): Uint8Array<ArrayBuffer> => crypto.getRandomValues(new Uint8Array(count));
    const body = new Uint8Array(freshPicture());
    const path = "/v1/caption";
    const query = "remaining_ms=5000";
    const parts = { method: "POST", path, query, bodySha256: await sha256(body) };
    const signed = await signCall(secret, parts, Date.now(), random);
    const headers = { ...signed, "content-type": "image/png" };
    type Sent = { url: string; init?: RequestInit; target?: string; more?: Record<string, string> };
    const send = ({ url, init = {}, target = `${path}?${query}`, more = {} }: Sent): Promise<Response> =>
      fetch(`${url}${target}`, { method: "POST", body, ...init, headers: { ...headers, ...more } });
    const replays = async (sidecar: { call(call: { target: string }): Promise<Response> }): Promise<number> => {
      const metrics = readMetrics(await (await sidecar.call({ target: "/metrics" })).text());
      return metrics.get('pixel_sidecar_unsigned_total{fault="replayed"}') ?? 0;
    };

    const first = await startSidecarInProcess({ settings });
    const { url } = first;
    const good = await send({ url });
    const again = await send({ url });
    const { error } = (await again.json()) as { error: { code: string; details: object } };
    const flipped = (name: string): Record<string, string> => {
      const key = Object.keys(signed).find((each) => each.includes(name)) ?? "";
      const value = (signed as Readonly<Record<string, string>>)[key] ?? "";
      return { [key]: `${value.slice(0, -1)}${value.endsWith("0") ? "1" : "0"}` };
    };
    const names = Object.keys(signed);
    const other = new Uint8Array(freshPicture());
    const fresh = async (): Promise<Record<string, string>> => ({
      ...(await signCall(secret, parts, Date.now(), random)),
    });
    const altered = [
      await send({ url, init: { method: "PUT" }, more: await fresh() }),
      await send({ url, target: `/v1/embed?${query}`, more: await fresh() }),
      await send({ url, target: `${path}?remaining_ms=6000`, more: await fresh() }),
      await send({ url, init: { body: other }, more: await fresh() }),
      ...(await Promise.all(names.slice(0, 3).map((name) => send({ url, more: flipped(name) })))),
    ];
    const counted = await replays(first);
    await first.close();
    await using second = await startSidecarInProcess({ settings });
    const restarted = await send({ url: second.url });
    const all = counted + (await replays(second));
    return [
      `first: ${good.status}`,
      `replayed: ${again.status} ${error.code}, ${Object.keys(error.details).length === 0 ? "no reason" : JSON.stringify(error.details)}`,
      `altered (method, path, query, body, nonce, time, key): ${altered.filter(({ status }) => status === 401).length} x 401`,
      `after a restart: ${restarted.status}`,
      `LM Studio: ${lm.chats().length} call`,
      `replays counted: ${all}`,
    ];
  },
};

const rotated: Row = {
  id: "F55",
  fault: "secret rotated under traffic",
  expected: [
    "old secret before, both meanwhile, new one after: 60 x 200 caption",
    "removed key: 502 ERR_API_UNAUTHORIZED",
  ],
  async run() {
    await using lm = await startLmStudio();
    const [old, fresh] = ["old-secret-".repeat(4), "new-secret-".repeat(4)];
    const shared = { lm_studio_host: "127.0.0.1", lm_studio_port: lm.port };
    const at = async (secrets: string): ReturnType<typeof startSidecarInProcess> =>
      startSidecarInProcess({ signed: null, settings: { ...shared, sidecar_secret: secrets } });
    let current = await at(old);
    // The box keeps its address while its process is replaced.
    const toBox = (url: string, init: RequestInit): Promise<Response> => {
      const { pathname, search } = new URL(url);
      return fetch(`${current.url}${pathname}${search}`, init);
    };
    const edgeWith = (secrets: string): ReturnType<typeof startNodeEdge> =>
      startNodeEdge({ settings: { sidecar_secret: secrets, retry_max_attempts: 1 }, fetch: toBox });
    using before = edgeWith(old);
    using between = edgeWith(`${fresh},${old}`);
    using afterwards = edgeWith(fresh);
    const ten = (edge: ReturnType<typeof startNodeEdge>): Promise<Reply[]> =>
      Promise.all(Array.from({ length: 10 }, () => edge.ask(none)));
    const replies = [...(await ten(before))];
    const both = await at(`${fresh},${old}`);
    const retired = current;
    current = both;
    for (const edge of [before, between, afterwards]) replies.push(...(await ten(edge)));
    await retired.close();
    const last = await at(fresh);
    current = last;
    for (const edge of [between, afterwards]) replies.push(...(await ten(edge)));
    const removed = await before.ask(none);
    await both.close();
    await last.close();
    return [`old secret before, both meanwhile, new one after: ${tellAll(replies)}`, `removed key: ${tell(removed)}`];
  },
};

/** Rows of callers who leave, repeat themselves, or sign with another secret. */
export const callerRows: readonly Row[] = [left, leader, replayed, rotated];
