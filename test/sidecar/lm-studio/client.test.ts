import assert from "node:assert/strict";
import { test } from "node:test";
import { isPixelLLMError, type PixelLLMError } from "../../../shared/errors.ts";
import { lmStudioKinds, type LmStudioKind } from "../../../shared/lm-studio-kinds.ts";
import { createLmStudio, type CaptionCall, type LmStudio as Client } from "../../../sidecar/lm-studio/client.ts";
import { blueEvidence } from "../../kit/evidence.ts";
import { startLmStudio, type LmStudio } from "../../kit/lm-studio.ts";
import { CATALOGS } from "../../kit/lm-studio/catalog.ts";
import type { ChatMode, Script } from "../../kit/lm-studio/modes.ts";
import { objectError, PAYLOADS, proxyPage, stringError, TEXTS } from "../../kit/lm-studio/payloads.ts";
import { configWith, listeningLogger } from "../../kit/settings.ts";

/** Limits short enough for a test to meet them, in seconds. */
const limits = { timeout_connect_seconds: 0.5, timeout_first_token_seconds: 0.25, timeout_idle_seconds: 0.2 };

const call = (fields: Partial<CaptionCall> = {}): CaptionCall => ({
  jpeg: () => Promise.resolve(new Uint8Array([0xff, 0xd8, 0xff])),
  evidence: blueEvidence,
  prompt: null,
  model: null,
  settings: { maxTokens: 64, temperature: 0, topP: 0.9, seed: null },
  temperatureGiven: true,
  signal: new AbortController().signal,
  ...fields,
});

const clientOf = (port: number, settings: Record<string, string | number> = {}): Client =>
  createLmStudio({
    config: configWith({ lm_studio_host: "127.0.0.1", lm_studio_port: port, ...limits, ...settings }),
    logger: listeningLogger(),
  });

async function withStudio(script: Script, use: (studio: LmStudio, client: Client) => Promise<void>): Promise<void> {
  const studio = await startLmStudio(script);
  const client = clientOf(studio.port);
  try {
    await use(studio, client);
    await studio.until(() => studio.counts().sockets === 0);
  } finally {
    await client.close();
    await studio.close();
  }
}

async function failureOf(work: Promise<unknown>): Promise<PixelLLMError> {
  try {
    await work;
  } catch (error) {
    if (isPixelLLMError(error)) return error;
    throw error;
  }
  throw new Error("nothing failed");
}

const reply = (status: number, body: string, contentType?: string): ChatMode => ({
  kind: "reply",
  status,
  body,
  ...(contentType === undefined ? {} : { contentType }),
});
const stream = (fields: object = {}): ChatMode => ({ kind: "stream", ...fields });
const garbage = Buffer.from("\u0000\u0001 nothing like HTTP\r\n\r\n").toString("base64");

const answers: readonly [string, ChatMode, string][] = [
  ["a stream", stream(), "A lighthouse on a cliff."],
  ["a stream without usage", stream({ usage: false }), "A lighthouse on a cliff."],
  ["a stream without end marker", stream({ done: false }), "A lighthouse on a cliff."],
  ["a stream of CRLF lines", stream({ newline: "\r\n" }), "A lighthouse on a cliff."],
  ["a stream with comments", stream({ comments: true }), "A lighthouse on a cliff."],
  ["the role in every chunk", stream({ roleEveryChunk: true }), "A lighthouse on a cliff."],
  ["empty tool calls", stream({ emptyToolCalls: true }), "A lighthouse on a cliff."],
  ["thinking before the words", stream({ reasoning: ["hm", "yes"] }), "A lighthouse on a cliff."],
  ["thinking inside the words", stream({ tokens: ["<think>a bo", "at?</think>", "A boat."] }), "A boat."],
  ["JSON although a stream was asked for", { kind: "plain" }, "A lighthouse on a cliff."],
  ["the finish and then a hang-up", stream({ cut: { at: "finish", how: "eof" } }), "A lighthouse on a cliff."],
  ["the finish and then a reset", stream({ cut: { at: "usage", how: "rst" } }), "A lighthouse on a cliff."],
  ["the finish and then silence", stream({ pauses: [{ at: "finish", gate: "never" }] }), "A lighthouse on a cliff."],
  ["letters of several bytes", stream({ tokens: ["Ein ", "Hügel", " 山."] }), "Ein Hügel 山."],
  ["markup and links", stream({ tokens: ["**A** [cat](http://x.y) <b>here</b> http://z.w"] }), "A cat here"],
];

for (const [name, mode, caption] of answers) {
  test(`${name} gives the caption`, async () => {
    await withStudio({ chat: mode }, async (studio, client) => {
      const words = await client.caption(call());
      assert.deepEqual([words.caption, words.route, words.finish], [caption, "vision", "stop"]);
      assert.equal(studio.chats().length, 1);
    });
  });
}

/** Every kind that an answer of LM Studio can have: what it sends, and whose words caused it. */
const failures: readonly [string, LmStudioKind, ChatMode, { prompt?: string; status?: number }?][] = [
  ["silence before the status", "no_first_token", stream({ pauses: [{ at: "status", gate: "never" }] })],
  ["silence after the head", "no_first_token", stream({ pauses: [{ at: "head", gate: "never" }] })],
  ["silence after the role", "no_first_token", stream({ pauses: [{ at: "role", gate: "never" }] })],
  ["silence after two tokens", "stalled", stream({ pauses: [{ at: { tokens: 2 }, gate: "never" }] })],
  ["the end before the status", "unreachable", stream({ cut: { at: "status", how: "eof" } })],
  ["a reset before the status", "unreachable", stream({ cut: { at: "status", how: "rst" } })],
  ["the end in the head", "unreachable", stream({ cut: { at: "mid-head", how: "eof" } })],
  ["the end after the head", "truncated", stream({ cut: { at: "head", how: "eof" } })],
  ["the end after a token", "truncated", stream({ cut: { at: { tokens: 2 }, how: "eof" } })],
  ["a reset after a token", "truncated", stream({ cut: { at: { tokens: 2 }, how: "rst" } })],
  ["the end inside a chunk", "truncated", stream({ cut: { at: { tokens: 1 }, how: "eof", midChunk: true } })],
  ["the end inside a character", "truncated", stream({ tokens: ["山山山"], cut: { at: { byte: 310 }, how: "rst" } })],
  ["no finish reason", "truncated", stream({ finishReason: null })],
  ["less than its length says", "truncated", { kind: "reply", status: 200, body: "{}", promiseMore: 10 }],
  ["garbage in place of HTTP", "malformed", { kind: "noise", base64: garbage, how: "eof" }],
  ["a broken event", "malformed", stream({ raw: "data: {broken\n\n" })],
  ["a page with status 200", "malformed", reply(200, "<html>hello</html>", "text/html")],
  ["JSON of wrong types", "malformed", reply(200, '{"choices":[{"message":{"content":5}}]}')],
  ["an endless stream", "too_long", stream({ tokens: { repeat: "la ".repeat(400), count: "endless" } })],
  ["a huge event", "too_long", stream({ tokens: ["x".repeat(70_000)] })],
  ["a huge answer", "too_long", { kind: "plain", content: "y".repeat(2 ** 21) }],
  ["an empty text", "empty", { kind: "plain", content: "" }],
  ["white space", "empty", stream({ tokens: [" ", "\n"] })],
  ["only thinking", "reasoning_only", stream({ tokens: [], reasoning: ["a boat?"] })],
  ["only thinking, cut by length", "reasoning_only", stream({ tokens: [], reasoning: ["a"], finishReason: "length" })],
  ["only a think block", "reasoning_only", stream({ tokens: ["<think>boat"] })],
  ["a bad image", "bad_image", reply(400, PAYLOADS.aBadImage)],
  ["too much for the context", "context_overflow", reply(400, PAYLOADS.aKeepTokens)],
  [
    "too long a prompt of the caller",
    "context_overflow",
    reply(400, PAYLOADS.aKeepTokens),
    { prompt: "long", status: 400 },
  ],
  [
    "an error event of overflow",
    "context_overflow",
    stream({ failAfter: { tokens: 0, payload: PAYLOADS.dDoesNotFit } }),
  ],
  [
    "an error line without event",
    "context_overflow",
    stream({ failAfter: { tokens: 1, payload: PAYLOADS.dDoesNotFit, event: false } }),
  ],
  ["the engine's own overflow", "context_overflow", reply(400, PAYLOADS.cNestedContext)],
  ["a schema complaint", "bad_request", reply(400, PAYLOADS.aSchemaComplaint)],
  ["a missing field", "bad_request", reply(400, PAYLOADS.aFieldRequired)],
  ["an unknown 4xx", "bad_request", reply(418, stringError("no"))],
  ["a template that does not render", "template", reply(400, stringError(TEXTS.jinja))],
  ["a template inside the engine's words", "template", reply(400, PAYLOADS.cNestedTemplate)],
  ["a numeric code", "template", reply(500, PAYLOADS.cNumericCode)],
  ["no model", "not_loaded", reply(400, PAYLOADS.bNoModels)],
  ["no model on an old version", "not_loaded", reply(404, PAYLOADS.bNoModels)],
  ["an unloaded model", "not_loaded", reply(400, stringError(TEXTS.unloaded))],
  ["an unknown model", "not_loaded", reply(404, PAYLOADS.bModelNotFound)],
  ["a cancelled load", "not_loaded", reply(400, stringError(TEXTS.loadCancelled))],
  ["a failed load", "load_failed", reply(400, stringError(TEXTS.loadFailed))],
  ["a load without memory", "load_failed", reply(500, objectError(TEXTS.loadNoMemory))],
  ["a crash", "crashed", reply(400, PAYLOADS.aCrashed)],
  ["a dead engine", "engine", reply(500, PAYLOADS.cEngineGone)],
  ["a closed channel", "engine", reply(400, stringError(TEXTS.channel))],
  ["a refused token", "token_refused", reply(401, PAYLOADS.bNoToken)],
  ["a forbidden token", "token_refused", reply(403, stringError("no"))],
  ["the wrong path with status 200", "wrong_path", reply(200, PAYLOADS.eWrongPath)],
  ["a 429", "throttled", reply(429, stringError("slow down"))],
  ["a 500", "upstream_5xx", reply(500, stringError("oops"))],
  ["a proxy's 502", "upstream_5xx", reply(502, proxyPage(502), "text/html")],
  ["a proxy's 503", "upstream_5xx", reply(503, proxyPage(503), "text/html")],
  ["a proxy's 504", "upstream_5xx", reply(504, proxyPage(504), "text/html")],
];

for (const [name, kind, mode, facts = {}] of failures) {
  test(`${name} is ${kind}${facts.prompt === undefined ? "" : ", the caller's"}`, async () => {
    await withStudio({ chat: mode }, async (_, client) => {
      const error = await failureOf(client.caption(call({ prompt: facts.prompt ?? null })));
      const row = lmStudioKinds[kind];
      const callers = facts.status !== undefined && "callers" in row;
      assert.deepEqual(
        [error.details["kind"], error.code, error.status],
        [kind, callers ? row.callers.code : row.code, facts.status ?? ("status" in row ? row.status : error.status)],
      );
    });
  });
}

test("a refused connection is refused", async () => {
  const studio = await startLmStudio();
  await studio.close();
  const error = await failureOf(clientOf(studio.port).caption(call()));
  assert.deepEqual([error.details["kind"], error.code], ["refused", "ERR_CONN_REFUSED"]);
});

test("a name that does not resolve is unreachable", async () => {
  const client = clientOf(1, { lm_studio_host: "nowhere.invalid" });
  const error = await failureOf(client.caption(call()));
  assert.deepEqual([error.details["kind"], error.code], ["unreachable", "ERR_CONN_UNAVAILABLE"]);
});

test("a listing that never comes is a timeout, and readiness says so", async () => {
  const silent = { kind: "reply", status: 200, body: "{}", pauses: [{ at: "status", gate: "never" }] } as const;
  await withStudio({ discovery: silent }, async (_, client) => {
    const error = await failureOf(client.caption(call()));
    const status = await client.status();
    assert.deepEqual(
      [error.code, status.status, status.detail],
      ["ERR_TIMEOUT_RESPONSE", "down", "LM Studio does not answer."],
    );
  });
});

test("a port that hangs up at once is unreachable", async () => {
  await withStudio({ connection: { kind: "end", how: "rst" } }, async (_, client) => {
    assert.equal((await failureOf(client.caption(call()))).details["kind"], "unreachable");
  });
});

test("the whole request's end ends the call with its own error", async () => {
  await withStudio({ chat: stream({ pauses: [{ at: "role", gate: "never" }] }) }, async (studio, client) => {
    const end = new AbortController();
    const words = client.caption(call({ signal: end.signal }));
    await studio.until(() => studio.counts().working === 1);
    const reason = new Error("time is over");
    end.abort(reason);
    await assert.rejects(words, reason);
    await studio.until(() => studio.chats()[0]?.aborted === true);
  });
});

test("a Retry-After reaches the caller as whole seconds", async () => {
  const mode: ChatMode = {
    kind: "reply",
    status: 429,
    body: "{}",
    headers: [
      ["Retry-After", "1.5"],
      ["Retry-After", "2"],
    ],
  };
  await withStudio({ chat: mode }, async (_, client) => {
    assert.equal((await failureOf(client.caption(call()))).retryAfterSeconds, 2);
  });
});

test("a model that claims to see and refuses is answered by evidence in the same attempt", async () => {
  const models = CATALOGS.flagSaysSeeing;
  const chat = stream({ tokens: ['{"caption":"A dark landscape image, mostly blue.",', '"used":["dark","blue"]}'] });
  await withStudio({ models, chat }, async (studio, client) => {
    const first = await client.caption(call());
    assert.deepEqual([first.route, first.caption], ["tags", "A dark landscape image, mostly blue."]);
    assert.equal(client.expectsImage(null), true);
    await client.caption(call());
    // The doubt is kept: the second caption sends no picture any more.
    assert.equal(studio.chats().filter(({ body }) => body.includes("image_url")).length, 1);
  });
});

const tagsAnswers: readonly [string, string[], string][] = [
  ["JSON", ['{"caption":"A dark blue image.","used":["dark","blue"]}'], "A dark blue image."],
  ["JSON in a fence", ['```json\n{"caption":"Mostly blue.","used":[]}\n```'], "Mostly blue."],
  ["plain text", ["A dark image, mostly blue."], "A dark image, mostly blue."],
  ["a colour it was not told", ["A dark image, mostly red."], "untrue"],
  ["a number it was not told", ["Three or 12 boats."], "untrue"],
  ["a name it was not told", ["A dark image of Lake Garda."], "untrue"],
  ["a quotation", ['A sign says "stop".'], "untrue"],
  ["words it did not get", ['{"caption":"A dark image.","used":["sailing boat"]}'], "untrue"],
  ["broken JSON", ['{"caption": A dark}'], "untrue"],
];

for (const [name, tokens, expected] of tagsAnswers) {
  test(`route tags: ${name} is ${expected}`, async () => {
    await withStudio({ models: CATALOGS.text, chat: stream({ tokens }) }, async (_, client) => {
      if (expected in lmStudioKinds) {
        assert.equal((await failureOf(client.caption(call()))).details["kind"], expected);
      } else {
        const words = await client.caption(call());
        assert.deepEqual([words.route, words.caption], ["tags", expected]);
      }
    });
  });
}

test("route tags: JSON where the model thinks is taken when a schema was asked for", async () => {
  const chat = stream({ tokens: [], reasoning: ['I answer {"caption":"Dark and blue.","used":["blue"]}'] });
  await withStudio({ models: CATALOGS.text, chat }, async (_, client) => {
    assert.equal((await client.caption(call())).caption, "Dark and blue.");
  });
});

test("route tags without evidence is the encoder's failure, and nothing is sent", async () => {
  await withStudio({ models: CATALOGS.text }, async (studio, client) => {
    const error = await failureOf(client.caption(call({ evidence: null })));
    assert.deepEqual([error.code, studio.chats().length], ["ERR_ENC_FORWARD_FAILED", 0]);
  });
});

const discoveries: readonly [string, Script, string, string][] = [
  ["version 0.4", {}, "test/vision-4b", "vision"],
  ["version 0.3", { discovery: { kind: "v0" } }, "test/vision-4b", "vision"],
  ["a text model before one that sees", { models: CATALOGS.textThenVision }, "test/vision-4b", "vision"],
  ["two instances", { models: CATALOGS.duplicate }, "test/vision-4b", "vision"],
  ["no parallel", { models: CATALOGS.noParallel }, "test/vision-4b", "vision"],
];

for (const [name, script, model, route] of discoveries) {
  test(`discovery: ${name} is understood`, async () => {
    await withStudio(script, async (_, client) => {
      const words = await client.caption(call());
      assert.deepEqual([words.model, words.route], [model, route]);
    });
  });
}

const notReady: readonly [string, Script, string][] = [
  ["nothing loaded", { models: CATALOGS.nothingLoaded }, "ERR_API_OVERLOAD"],
  ["an embedding model alone", { models: CATALOGS.embeddingOnly }, "ERR_API_OVERLOAD"],
  ["nothing downloaded", { models: CATALOGS.nothingDownloaded }, "ERR_API_OVERLOAD"],
  ["a token that is asked for", { token: "secret" }, "ERR_API_UNAUTHORIZED"],
  ["a stranger on the port", { discovery: { kind: "reply", status: 200, body: "<html>" } }, "ERR_API_INVALID_RESPONSE"],
];

for (const [name, script, code] of notReady) {
  test(`discovery: ${name} is ${code}, for callers and in readiness, and sends no chat`, async () => {
    await withStudio(script, async (studio, client) => {
      const error = await failureOf(client.caption(call()));
      const status = await client.status();
      assert.deepEqual([error.code, status.status, status.code, studio.chats().length], [code, "down", code, 0]);
    });
  });
}

test("a caller's model that is not loaded is refused by name and never sent", async () => {
  await withStudio({}, async (studio, client) => {
    const error = await failureOf(client.caption(call({ model: "other/model" })));
    assert.deepEqual([error.code, error.param, studio.chats().length], ["ERR_VAL_INVALID_RANGE", "model", 0]);
  });
});

test("twenty callers of a configured model that is not loaded cause one load, and it answers after it", async () => {
  const script: Script = { models: CATALOGS.nothingLoaded, load: { kind: "load", gate: "load" } };
  const studio = await startLmStudio(script);
  const client = clientOf(studio.port, { lm_studio_model: "test/vision-4b" });
  const errors = await Promise.all(Array.from({ length: 20 }, () => failureOf(client.caption(call()))));
  assert.deepEqual(
    [...new Set(errors.map(({ code, retryAfterSeconds }) => `${code} ${retryAfterSeconds}`))],
    ["ERR_API_OVERLOAD 20"],
  );
  await studio.until(() => studio.counts().loads > 0);
  studio.gates("load").open();
  await studio.until(() => studio.counts().sockets === 0);
  let words = null;
  // The client learns of the load's end in its own time: asking again is what a caller would do.
  for (let tries = 0; words === null && tries < 200; tries += 1) words = await client.caption(call()).catch(() => null);
  assert.deepEqual([words?.caption, studio.counts().loads], ["A lighthouse on a cliff.", 1]);
  await client.close();
  await studio.close();
});

test("no more calls are under way than LM Studio works on at once, and each gets its answer", async () => {
  await withStudio(
    { models: CATALOGS.parallelOne, chat: stream({ pauses: [{ at: "role", gate: "go" }] }) },
    async (studio, client) => {
      const all = Promise.all(Array.from({ length: 5 }, () => client.caption(call())));
      await studio.gates("go").arrived();
      studio.gates("go").open();
      assert.equal((await all).length, 5);
      assert.equal(studio.counts().most, 1);
    },
  );
});

test("zero is sent as zero, the seed only when given, and the picture as a JPEG data URI", async () => {
  await withStudio({}, async (studio, client) => {
    await client.caption(call());
    const body = JSON.parse(studio.chats()[0]?.body ?? "{}") as Record<string, unknown>;
    assert.deepEqual(
      [
        body["temperature"],
        body["max_tokens"],
        "seed" in body,
        body["stream"],
        JSON.stringify(body).includes("data:image/jpeg;base64,/9j/"),
      ],
      [0, 64, false, true, true],
    );
  });
});

test("a token is sent with every call and stands in no log line", async () => {
  const studio = await startLmStudio({ token: "the-token" });
  const logger = listeningLogger();
  const config = configWith({
    lm_studio_host: "127.0.0.1",
    lm_studio_port: studio.port,
    lm_studio_api_token: "the-token",
  });
  const client = createLmStudio({ config, logger });
  assert.equal((await client.caption(call())).caption, "A lighthouse on a cliff.");
  assert.ok(!logger.messages.join().includes("the-token"));
  await studio.close();
});

test("a listing that stalls after its head, ended by a time limit, is a failure like any other and ends no process", async () => {
  const stalled = { kind: "reply", status: 200, body: "{}", pauses: [{ at: "head", gate: "never" }] } as const;
  await withStudio({ discovery: stalled }, async (_, client) => {
    assert.equal((await failureOf(client.caption(call()))).category, "timeout");
  });
});
