import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import type { Objects } from "../../edge/deps.ts";
import type { ErrorCode } from "../../shared/errors.ts";
import { captionSchema, errorBodySchema, type Caption, type SidecarCaption } from "../../shared/wire.ts";
import type { VirtualTime } from "../../scripts/simulation/virtual-time.ts";
import { startAuthorityKit } from "../kit/authority.ts";
import { createCacheStores, type CacheStores } from "../kit/cache-stores.ts";
import { events, failureBody, liveBody, marked, startEdgeKit, type EdgeKit, type SeenCall } from "../kit/edge.ts";
import { blueEvidence } from "../kit/evidence.ts";

/** Pictures the header check takes, each of other bytes. */
const picture = (mark: number): Buffer =>
  Buffer.concat([
    Buffer.from("89504e470d0a1a0a0000000d4948445200000004000000040802000000", "hex"),
    Buffer.from([mark]),
  ]);
const result = (status: number, body: unknown): string =>
  `event: accepted\ndata: {}\n\nevent: result\ndata: ${JSON.stringify({ status, body })}\n\n`;
const vectorOf = (...values: number[]): string => Buffer.from(new Float32Array(values).buffer).toString("base64");
const seenBy = (values: number[]) => ({ encoder: "e@1", floor: 0.98, base64: vectorOf(...values) });

/** What the box does next: a caption, a failure of LM Studio's with evidence, one of its own, or no answer at all. */
type Move = Partial<SidecarCaption> | ErrorCode | "gone";

type Bench = { kit: EdgeKit; stores: CacheStores; kept: () => Promise<void> };

/** An edge over in-memory stores whose box plays the given moves, the last one again and again. */
const bench = (...moves: Move[]): Bench => benchOpeningAt(5, ...moves);

/** The same with another threshold at the object, which must be the configured one. */
function benchOpeningAt(failureThreshold: number, ...moves: Move[]): Bench {
  const stores = createCacheStores();
  const authority = startAuthorityKit(realTime(), { failureThreshold }).port;
  const objects: Objects = { authority, shards: (index) => stores.shards(index), similar: (t) => stores.similar(t) };
  const answer = async ({ url }: SeenCall, { body }: RequestInit): Promise<Response> => {
    const sha256 = createHash("sha256")
      .update(body as Uint8Array)
      .digest("hex");
    const image = { ...liveBody.image, sha256 };
    if (url.pathname === "/v1/embed") {
      const { tags, timings_ms } = liveBody;
      const seen = { model: "e@1", dimensions: 2, embedding: [1, 0], similarity_floor: 0.98 };
      return events(result(200, { ...seen, image, tags, evidence: blueEvidence, timings_ms }));
    }
    const move = moves.length > 1 ? moves.shift() : moves[0];
    if (move === "gone") throw new Error("Network connection lost.");
    if (typeof move !== "string") return events(result(200, { ...liveBody, image, vector: seenBy([1, 0]), ...move }));
    const failure = failureBody(move, blueEvidence);
    const lmStudio = { ...failure.error, details: { service: "lm_studio", kind: "upstream_5xx" } };
    return events(result(503, { ...failure, error: lmStudio, vector: seenBy([0.999, 0.0447]) }));
  };
  const kit = startEdgeKit(answer, objects);
  let kept = 0;
  return {
    kit,
    stores,
    async kept() {
      kept += 1;
      // Written behind the answer: there is no event for it but the call itself, the vector's being the last.
      while (stores.calls.filter((call) => call.startsWith("add")).length < kept) await turn();
    },
  };
}

/** The clock of this machine, for parts that take a virtual one. */
function realTime(): VirtualTime {
  const startTimer: VirtualTime["startTimer"] = (ms, elapsed) => {
    const timer = setTimeout(elapsed, ms).unref();
    return () => clearTimeout(timer);
  };
  const sleep = (ms: number): Promise<void> => new Promise((resolve) => void startTimer(ms, resolve));
  return { now: () => performance.now(), startTimer, sleep, run: () => Promise.resolve(), pending: () => 0 };
}

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

const settings = { PIXEL_LLM_RETRY_MAX_ATTEMPTS: "1", PIXEL_LLM_SIDECAR_SECRET: "kit-secret-".repeat(4) };

type Sent = { status: number; cacheStatus: string | null; age: string | null; again: string | null; body: unknown };

async function ask({ kit, kept }: Bench, query = "", cacheControl = "", mark = 1, env = {}): Promise<Sent> {
  const response = await kit.send(
    `/v1/captions${query}`,
    {
      method: "POST",
      headers: { "content-type": "image/png", ...(cacheControl === "" ? {} : { "cache-control": cacheControl }) },
      body: picture(mark),
    },
    { ...settings, ...env },
  );
  const { headers } = response;
  const sent = {
    status: response.status,
    cacheStatus: headers.get("cache-status"),
    age: headers.get("age"),
    again: headers.get("x-should-retry"),
    body: await response.json(),
  };
  if (sent.cacheStatus?.includes("stored") === true) await kept();
  return sent;
}

const captionOf = ({ body }: Sent): Caption => captionSchema.parse(body);
const errorOf = ({ body }: Sent) => errorBodySchema.parse((body as { error: unknown }).error);
const summary = (sent: Sent): unknown[] => {
  const { source, degraded, attempts, cause } = captionOf(sent);
  return [source, degraded, attempts, cause?.code ?? null, sent.cacheStatus, sent.age];
};

test("B7: a live caption is kept, and answers the same question again without the box", async () => {
  const it = bench({});
  assert.deepEqual(summary(await ask(it)), ["lm_studio", false, 1, null, "pixel-llm; fwd=miss; stored", null]);
  const [source, degraded, attempts, cause, cacheStatus, age] = summary(await ask(it));
  assert.deepEqual([source, degraded, attempts, cause, age], ["cache", false, 0, null, "0"]);
  assert.match(String(cacheStatus), /^pixel-llm; hit; ttl=(3600|3599)$/);
  assert.equal(it.kit.calls.length, 1);
});

/** What asks something else, and so must not be answered from the first answer. */
const others: readonly [string, string, number][] = [
  ["another picture", "", 2],
  ["another prompt", "?prompt=x", 1],
  ["another model", "?model=other", 1],
  ["the model that is loaded, whichever is configured", "?model=auto", 1],
  ["another length", "?max_tokens=9", 1],
  ["another temperature, zero too", "?temperature=0", 1],
  ["another seed, zero too", "?seed=0", 1],
];

for (const [name, query, mark] of others) {
  test(`${name} is another question`, async () => {
    const it = bench({});
    await ask(it);
    assert.equal(captionOf(await ask(it, query, "", mark)).source, "lm_studio");
  });
}

test("configured values asked for by name are the same question", async () => {
  const it = bench({});
  await ask(it);
  const sent = await ask(it, "?max_tokens=256&temperature=0.7&top_p=0.9&fallback=none");
  assert.equal(captionOf(sent).source, "cache");
});

/** Request header, what the box says, and the answer's source, status and whether it is there the next time. */
const wishes: readonly [string, Partial<SidecarCaption>, string, boolean][] = [
  ["no-store", {}, "pixel-llm; fwd=bypass", false],
  ["no-cache", {}, "pixel-llm; fwd=request; stored", true],
  ["", { finish: "length" }, "pixel-llm; fwd=miss", false],
  ["", { collapsed: true }, "pixel-llm; fwd=miss; collapsed", false],
  ["max-age=0", {}, "pixel-llm; fwd=miss; stored", true],
];

for (const [control, live, cacheStatus, kept] of wishes) {
  test(`${control || "no header"}, ${JSON.stringify(live)}: ${cacheStatus}`, async () => {
    const it = bench(live);
    const sent = await ask(it, "", control);
    assert.deepEqual([captionOf(sent).source, sent.cacheStatus], ["lm_studio", cacheStatus]);
    assert.equal((await ask(it, "", "only-if-cached")).status, kept ? 200 : 504);
  });
}

test("max-age forbids what is older, and the new answer is kept", async () => {
  const it = bench({});
  await ask(it);
  const sent = await ask(it, "", "max-age=0");
  assert.deepEqual([captionOf(sent).source, sent.cacheStatus], ["lm_studio", "pixel-llm; fwd=request; stored"]);
});

test("no-store reads nothing that is kept, and leaves it there", async () => {
  const it = bench({});
  await ask(it);
  const sent = await ask(it, "", "no-store");
  assert.deepEqual([captionOf(sent).source, sent.cacheStatus], ["lm_studio", "pixel-llm; fwd=bypass"]);
  assert.equal((await ask(it, "", "only-if-cached")).status, 200);
});

test("only-if-cached never calls the box and climbs no ladder", async () => {
  const it = bench({});
  const sent = await ask(it, "?fallback=describe", "only-if-cached");
  assert.deepEqual(
    [sent.status, errorOf(sent).code, sent.cacheStatus, it.kit.calls.length],
    [504, "ERR_CACHE_MISS", null, 0],
  );
});

test("a fresh answer of a model that is not the one any more is made anew", async () => {
  const it = bench({}, { model: "newer" });
  await ask(it);
  assert.equal(captionOf(await ask(it, "", "", 2)).model, "newer");
  const sent = await ask(it);
  assert.deepEqual([captionOf(sent).model, sent.cacheStatus], ["newer", "pixel-llm; fwd=stale; stored"]);
});

test("R29: an old caption stands in for a failed call, marked, with its age; no longer than its stale time", async () => {
  const it = bench({}, "ERR_API_OVERLOAD");
  const old = { PIXEL_LLM_FALLBACK_CACHE_TTL: "0" };
  assert.equal((await ask(it, "", "", 1, old)).cacheStatus, "pixel-llm; fwd=miss; stored");
  const sent = await ask(it, "", "", 1, old);
  assert.deepEqual(summary(sent).slice(0, 4), ["cache", true, 1, "ERR_API_OVERLOAD"]);
  assert.match(sent.cacheStatus ?? "", /^pixel-llm; fwd=stale; fwd-status=503; ttl=-\d; detail=ERR_API_OVERLOAD$/);
  assert.equal(sent.age, "0");
});

test("no-store and no-cache keep the stores out of the ladder, unless the request itself lists the rung", async () => {
  const it = bench({}, "ERR_API_OVERLOAD");
  await ask(it);
  const sources = [];
  for (const [query, control] of [
    ["", "no-cache"],
    ["?fallback=cache,describe", "no-cache"],
    ["?fallback=cache,describe", "no-store"],
    ["?fallback=similar,describe", "no-store"],
  ] as const) {
    sources.push(captionOf(await ask(it, query, control)).source);
  }
  assert.deepEqual(sources, ["describe", "cache", "describe", "describe"]);
});

test("similar: the caption of a near picture, with its age, and never across prompts", async () => {
  const it = bench({ caption: "A boat at sea." }, "ERR_API_OVERLOAD");
  await ask(it);
  const sent = await ask(it, "?fallback=similar", "", 2);
  const caption = captionOf(sent);
  assert.deepEqual(
    [caption.caption, caption.source, caption.degraded, caption.cause?.code, sent.age],
    ["A boat at sea.", "similar", true, "ERR_API_OVERLOAD", "0"],
  );
  assert.equal(sent.cacheStatus, "pixel-llm; fwd=miss; fwd-status=503; detail=ERR_API_OVERLOAD");
  assert.equal((await ask(it, "?fallback=similar&prompt=x", "", 2)).status, 503);
});

test("B7: nothing that a rung answered is ever kept", async () => {
  const it = bench("ERR_API_OVERLOAD");
  assert.equal(captionOf(await ask(it)).source, "describe");
  assert.deepEqual([it.stores.rows().length, (await ask(it, "", "only-if-cached")).status], [0, 504]);
});

test("the ladder is climbed after the calls are used up, and says how many there were", async () => {
  const it = bench("ERR_API_OVERLOAD");
  const retrying = { PIXEL_LLM_RETRY_MAX_ATTEMPTS: "3", PIXEL_LLM_RETRY_INITIAL_DELAY: "0.01" };
  const caption = captionOf(await ask(it, "", "", 1, retrying));
  assert.deepEqual([caption.source, caption.attempts, caption.cause?.code], ["describe", 3, "ERR_RETRY_EXHAUSTED"]);
  const last = caption.cause?.details["last_cause"] as { code: string } | undefined;
  assert.equal(last?.code, "ERR_API_OVERLOAD");
  assert.equal(it.kit.calls.filter(({ url }) => url.pathname === "/v1/embed").length, 0);
});

test("I5: one failure and then an answer is two calls and a live caption", async () => {
  const it = bench("ERR_API_OVERLOAD", {});
  const retrying = { PIXEL_LLM_RETRY_MAX_ATTEMPTS: "3", PIXEL_LLM_RETRY_INITIAL_DELAY: "0.01" };
  assert.deepEqual(summary(await ask(it, "", "", 1, retrying)).slice(0, 4), ["lm_studio", false, 2, null]);
});

test("I7, B4: the circuit opens at the threshold; then nobody is called, and the encoder alone is still asked", async () => {
  const it = benchOpeningAt(3, "ERR_API_OVERLOAD");
  const three = { PIXEL_LLM_CIRCUIT_BREAKER_FAILURE_THRESHOLD: "3" };
  const codes = [];
  for (let call = 0; call < 5; call += 1) codes.push(errorOf(await ask(it, "?fallback=none", "", call, three)).code);
  const [failed, open] = ["ERR_API_OVERLOAD", "ERR_CB_OPEN"];
  assert.deepEqual([codes, it.kit.calls.length], [[failed, failed, failed, open, open], 3]);
  const refused = await ask(it, "?fallback=none", "", 9, three);
  const { retry_after_seconds: seconds, details } = errorOf(refused);
  assert.ok(seconds !== null && seconds > 55 && seconds <= 73);
  assert.deepEqual([details["failure_count"], details["name"], refused.again], [3, "lm_studio_api", "false"]);
  assert.deepEqual(summary(await ask(it, "", "", 9, three)).slice(0, 4), ["describe", true, 0, open]);
  assert.deepEqual(it.kit.calls.map(({ url }) => url.pathname).slice(3), ["/v1/embed"]);
});

test("a cached answer of an open circuit is a hit, with the reason", async () => {
  const it = benchOpeningAt(1, {}, "ERR_API_OVERLOAD");
  const env = { PIXEL_LLM_CIRCUIT_BREAKER_FAILURE_THRESHOLD: "1", PIXEL_LLM_FALLBACK_CACHE_TTL: "0" };
  await ask(it, "", "", 1, env);
  await ask(it, "?fallback=none", "", 2, env);
  const sent = await ask(it, "", "", 1, env);
  assert.match(sent.cacheStatus ?? "", /^pixel-llm; hit; ttl=-\d; detail=ERR_CB_OPEN$/);
  assert.deepEqual(summary(sent).slice(0, 4), ["cache", true, 0, "ERR_CB_OPEN"]);
});

test("a box that is gone is not asked for evidence on top", async () => {
  const it = bench("gone");
  const sent = await ask(it);
  assert.deepEqual([sent.status, errorOf(sent).code, it.kit.calls.length], [503, "ERR_CONN_UNAVAILABLE", 1]);
});

/** Whether a client may repeat: only what may pass by itself, and where we have neither tried nor refused to. */
const repeats: readonly [string, () => Promise<Response>, Record<string, string>, string][] = [
  ["a failure that may pass, one call", () => Promise.reject(new Error("gone")), settings, "true"],
  [
    "a failure that we tried again ourselves",
    () => Promise.reject(new Error("gone")),
    { PIXEL_LLM_RETRY_MAX_ATTEMPTS: "2", PIXEL_LLM_RETRY_INITIAL_DELAY: "0.01" },
    "false",
  ],
  ["a login in front of the box", async () => new Response("", { status: 403 }), settings, "false"],
  [
    "a queue that is full",
    async () => {
      const { error, ...rest } = failureBody("ERR_API_OVERLOAD");
      return marked({ ...rest, error: { ...error, details: { kind: "queue" }, retry_after_seconds: 4 } }, 503);
    },
    settings,
    "false",
  ],
  ["a picture that is broken", async () => marked(failureBody("ERR_ENC_INVALID_INPUT"), 422), settings, "false"],
];

for (const [name, box, env, again] of repeats) {
  test(`x-should-retry is ${again} for ${name}`, async () => {
    const kit = startEdgeKit(box);
    const init = { method: "POST", headers: { "content-type": "image/png" }, body: picture(1) };
    const response = await kit.send("/v1/captions?fallback=none", init, env);
    assert.equal(response.headers.get("x-should-retry"), again);
  });
}

test("F51: a store that fails is a miss, and no answer changes", async () => {
  for (const mood of ["failing", "throwing"] as const) {
    const it = bench({}, "ERR_API_OVERLOAD");
    it.stores.mood = { shards: mood, similar: mood };
    assert.equal(captionOf(await ask(it)).source, "lm_studio");
    assert.equal(captionOf(await ask(it, "", "", 2)).source, "describe");
  }
});

test("F51: an entry that was changed behind our back is never served", async () => {
  const it = bench({});
  await ask(it);
  it.stores.tamper((value) => value.replace("A boat.", "A canary."));
  const other = bench({ caption: "A live one." });
  other.stores.shards = it.stores.shards;
  assert.equal(captionOf(await ask(other)).caption, "A live one.");
});
