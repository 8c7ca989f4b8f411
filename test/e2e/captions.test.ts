import assert from "node:assert/strict";
import { request } from "node:http";
import { after, test } from "node:test";
import * as z from "zod";
import { errorBodySchema, captionSchema, type Caption } from "../../shared/wire.ts";
import { acceptedForms, hostileCorpus, scene } from "../kit/images.ts";
import { CATALOGS } from "../kit/lm-studio/catalog.ts";
import { PAYLOADS } from "../kit/lm-studio/payloads.ts";
import { startWhole } from "../kit/stack.ts";

// One call a picture and nothing kept: what is tested here is the way of one request.
const alone = { retry_max_attempts: 1, fallback_cache_enabled: "false" };
const whole = await startWhole({}, { timeout_first_token_seconds: 2, ...alone });
after(() => whole[Symbol.asyncDispose]());
const { edgeUrl, sidecarUrl } = whole.stack;
const captions = `${edgeUrl}/v1/captions`;

const envelope = z.strictObject({ error: errorBodySchema });
type Sent = { status: number; body: unknown; headers: Headers };

async function send(path: string, init: RequestInit): Promise<Sent> {
  const response = await fetch(`${edgeUrl}${path}`, { method: "POST", ...init });
  return { status: response.status, body: await response.json(), headers: response.headers };
}

const sendImage = (bytes: Uint8Array, type: string, query = ""): Promise<Sent> =>
  send(`/v1/captions${query}`, { headers: { "content-type": type }, body: new Uint8Array(bytes) });

const live = async (sent: Promise<Sent>): Promise<Caption> => {
  const { status, body } = await sent;
  assert.equal(status, 200, JSON.stringify(body));
  return captionSchema.parse(body);
};

test("every accepted form sent as it is gets LM Studio's caption, with its upright size", async () => {
  for (const form of await acceptedForms()) {
    const caption = await live(sendImage(form.bytes, `image/${form.format}`));
    assert.deepEqual(
      [
        form.name,
        caption.caption,
        caption.source,
        caption.degraded,
        caption.route,
        caption.cause,
        caption.image.format,
      ],
      [form.name, "A lighthouse on a cliff.", "lm_studio", false, "vision", null, form.format],
    );
    assert.deepEqual([form.name, caption.image.width, caption.image.height], [form.name, form.width, form.height]);
  }
});

test("the three ways to send a picture, and two to name options, come to the same call", async () => {
  const png = await scene();
  const form = new FormData();
  form.append("image", new Blob([new Uint8Array(png)], { type: "image/png" }), "p.png");
  form.append("temperature", "0");
  form.append("prompt", "What is it?");
  const json = { image: `data:image/png;base64,${png.toString("base64")}`, temperature: 0, prompt: "What is it?" };
  const bare = { ...json, image: png.toString("base64") };
  const ways = [
    () => sendImage(png, "image/png", "?temperature=0&prompt=What%20is%20it%3F"),
    () => send("/v1/captions", { body: form }),
    () => send("/v1/captions", { headers: { "content-type": "application/json" }, body: JSON.stringify(json) }),
    () => send("/v1/captions", { headers: { "content-type": "application/json" }, body: JSON.stringify(bare) }),
  ];
  const hashes = new Set<string>();
  // One after the other: at the same time they would be one call.
  for (const way of ways) hashes.add((await live(way())).image.sha256);
  assert.equal(hashes.size, 1);
  const bodies = whole.studio
    .chats()
    .slice(-4)
    .map(({ body }) => body);
  assert.equal(new Set(bodies).size, 1);
  assert.match(bodies[0] ?? "", /"temperature":0,/);
});

test("every hostile file is refused with its own status in the contract's envelope, and the next picture is served", async () => {
  for (const { name, bytes, type, status, code } of await hostileCorpus()) {
    const sent = await sendImage(bytes, type);
    const { error } = envelope.parse(sent.body);
    assert.deepEqual([name, sent.status, error.code], [name, status, code]);
    assert.equal(error.request_id, sent.headers.get("x-request-id"));
  }
  await live(sendImage(await scene(), "image/png"));
});

const refusals: readonly [string, string, RequestInit, number, string, string | null][] = [
  ["no content type", "/v1/captions", { body: new Uint8Array([1]) }, 415, "ERR_ENC_INVALID_INPUT", null],
  [
    "text",
    "/v1/captions",
    { headers: { "content-type": "text/plain" }, body: "x" },
    415,
    "ERR_ENC_INVALID_INPUT",
    null,
  ],
  [
    "an encoded body",
    "/v1/captions",
    { headers: { "content-type": "image/png", "content-encoding": "gzip" }, body: "x" },
    415,
    "ERR_ENC_INVALID_INPUT",
    null,
  ],
  [
    "a wrong option",
    "/v1/captions?temperature=9",
    { headers: { "content-type": "image/png" }, body: "x" },
    400,
    "ERR_VAL_INVALID_RANGE",
    "temperature",
  ],
  [
    "an unknown option",
    "/v1/captions?temprature=1",
    { headers: { "content-type": "image/png" }, body: "x" },
    400,
    "ERR_VAL_INVALID_RANGE",
    "temprature",
  ],
  [
    "an option twice",
    "/v1/captions?seed=1&seed=2",
    { headers: { "content-type": "image/png" }, body: "x" },
    400,
    "ERR_VAL_INVALID_RANGE",
    "seed",
  ],
  [
    "JSON without a picture",
    "/v1/captions",
    { headers: { "content-type": "application/json" }, body: "{}" },
    400,
    "ERR_VAL_MISSING_FIELD",
    "image",
  ],
  [
    "JSON with an address",
    "/v1/captions",
    { headers: { "content-type": "application/json" }, body: '{"image":"http://x/y.png"}' },
    400,
    "ERR_VAL_INVALID_RANGE",
    "image",
  ],
  [
    "no JSON",
    "/v1/captions",
    { headers: { "content-type": "application/json" }, body: "{" },
    400,
    "ERR_VAL_INVALID_RANGE",
    null,
  ],
  [
    "a prototype key",
    "/v1/captions",
    { headers: { "content-type": "application/json" }, body: '{"image":"aGk=","__proto__":{"a":1}}' },
    400,
    "ERR_VAL_INVALID_RANGE",
    null,
  ],
  [
    "a form without a picture",
    "/v1/captions",
    {
      headers: { "content-type": "multipart/form-data; boundary=b" },
      body: '--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhi\r\n--b--\r\n',
    },
    400,
    "ERR_VAL_MISSING_FIELD",
    "image",
  ],
  ["an unknown route", "/v1/nothing", {}, 404, "ERR_NOT_FOUND", null],
];

for (const [name, path, init, status, code, param] of refusals) {
  test(`${name} is ${status} ${code}`, async () => {
    const sent = await send(path, init);
    const { error } = envelope.parse(sent.body);
    assert.deepEqual([sent.status, error.code, error.param], [status, code, param]);
  });
}

test("a wrong method says which is right", async () => {
  const response = await fetch(captions);
  assert.deepEqual([response.status, response.headers.get("allow")], [405, "POST"]);
  envelope.parse(await response.json());
});

/** Sends a head and some bytes, never the end, and gives the status that comes all the same. */
function sendOpen(headers: Record<string, string | number>, bytes: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    const outgoing = request(captions, { method: "POST", headers: { "content-type": "image/jpeg", ...headers } });
    outgoing.once("error", reject);
    outgoing.once("response", (response) => {
      outgoing.off("error", reject).on("error", () => response.destroy());
      resolve(response.statusCode ?? 0);
      outgoing.destroy();
    });
    outgoing.flushHeaders();
    if (bytes.length > 0) outgoing.write(bytes);
  });
}

test("a picture over the limit is 413 as soon as that is known: by its length, by its bytes, or by its text", async () => {
  const limit = 8 * 2 ** 20;
  assert.equal(await sendOpen({ "content-length": limit + 1 }, new Uint8Array()), 413);
  assert.equal(await sendOpen({ "transfer-encoding": "chunked" }, new Uint8Array(limit + 1)), 413);
  const body = JSON.stringify({ image: "A".repeat(2.7 * 2 ** 20) });
  assert.equal((await send("/v1/captions", { headers: { "content-type": "application/json" }, body })).status, 413);
});

test("only-if-cached finds nothing stored, and the box is not asked", async () => {
  const before = whole.studio.chats().length;
  const sent = await send("/v1/captions", {
    headers: { "content-type": "image/png", "cache-control": "only-if-cached" },
    body: new Uint8Array(await scene()),
  });
  const { error } = envelope.parse(sent.body);
  assert.deepEqual([sent.status, error.code, whole.studio.chats().length], [504, "ERR_CACHE_MISS", before]);
});

test("when LM Studio fails after the encoder, the answer is made from evidence and names its cause", async () => {
  whole.studio.enqueue({ kind: "reply", status: 400, body: PAYLOADS.aCrashed });
  const caption = await live(sendImage(await scene(), "image/png"));
  assert.deepEqual(
    [caption.source, caption.degraded, caption.cause?.code, caption.route, caption.model],
    ["describe", true, "ERR_API_OVERLOAD", null, null],
  );
  assert.match(caption.caption, /^A .*image/);
  assert.ok(caption.tags.length > 0);
});

test("with fallback none, the failure itself is answered", async () => {
  whole.studio.enqueue({ kind: "reply", status: 401, body: PAYLOADS.bNoToken });
  const sent = await sendImage(await scene(), "image/png", "?fallback=none");
  const { error } = envelope.parse(sent.body);
  // LM Studio's 401 is ours to mend: a caller must not think their key is wrong.
  assert.deepEqual([sent.status, error.code, error.details["kind"]], [502, "ERR_API_UNAUTHORIZED", "token_refused"]);
});

test("the caller's model must be loaded", async () => {
  const sent = await sendImage(await scene(), "image/png", "?model=other");
  const { error } = envelope.parse(sent.body);
  assert.deepEqual([sent.status, error.code, error.param], [400, "ERR_VAL_INVALID_RANGE", "model"]);
});

test("a text model captions from evidence", async () => {
  whole.studio.have(CATALOGS.text);
  // The model that was listed is gone: this call fails, and the next one asks what there is.
  await sendImage(await scene(), "image/png");
  whole.studio.enqueue({ kind: "stream", tokens: ["A landscape image, blue and grey."] });
  const caption = await live(sendImage(await scene(), "image/png"));
  assert.deepEqual(
    [caption.route, caption.source, caption.caption],
    ["tags", "lm_studio", "A landscape image, blue and grey."],
  );
  assert.ok(!(whole.studio.chats().at(-1)?.body ?? "").includes("image_url"));
  whole.studio.have(CATALOGS.vision);
});

test("embeddings come in OpenAI's shape, the same bits as numbers and as base64", async () => {
  const png = await scene();
  const uri = `data:image/png;base64,${png.toString("base64")}`;
  const ask = (body: object): Promise<Sent> =>
    send("/v1/embeddings", { headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  type List = { object: string; model: string; data: { embedding: number[] | string; index: number }[]; usage: object };
  const raw = (await send("/v1/embeddings", { headers: { "content-type": "image/png" }, body: new Uint8Array(png) }))
    .body as List;
  const floats = (await ask({ input: [uri, uri], model: "x", user: "y" })).body as List;
  const base64 = (await ask({ input: uri, encoding_format: "base64" })).body as List;
  const decoded = Buffer.from(String(base64.data[0]?.embedding), "base64");
  const numbers = Array.from({ length: 128 }, (_, at) => decoded.readFloatLE(at * 4));
  assert.deepEqual([raw.object, floats.data.length, floats.data[1]?.index], ["list", 2, 1]);
  assert.deepEqual(floats.data[0]?.embedding, raw.data[0]?.embedding);
  assert.deepEqual(numbers, raw.data[0]?.embedding);
  assert.match(raw.model, /^embedded@[0-9a-f]{16}$/);
  const refused = await Promise.all([
    ask({ input: "a plain text" }),
    ask({ input: uri, dimensions: 64 }),
    ask({ input: uri, encoding_format: "hex" }),
  ]);
  assert.deepEqual(
    refused.map(({ status, body }) => [status, envelope.parse(body).error.param]),
    [
      [400, "input"],
      [400, "dimensions"],
      [400, "encoding_format"],
    ],
  );
});

test("health, readiness and status say what is so, each dependency by name", async () => {
  const get = async (path: string): Promise<{ status: number; body: Record<string, unknown> }> => {
    const response = await fetch(`${edgeUrl}${path}`);
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  };
  const ready = await get("/readyz");
  assert.deepEqual([(await get("/healthz")).status, ready.status, ready.body["ready"]], [200, 200, true]);
  assert.deepEqual(Object.keys(ready.body["dependencies"] as object), ["sidecar", "encoder", "lm_studio"]);
  assert.equal((await get("/v1/status")).body["version"], "0.1.0");
});

test("the sidecar answers nothing but /livez to who cannot sign, and a signed call only once", async () => {
  const statuses = await Promise.all(
    ["/livez", "/readyz", "/info", "/v1/caption"].map(async (path) => (await fetch(`${sidecarUrl}${path}`)).status),
  );
  assert.deepEqual(statuses, [200, 401, 401, 401]);
});

test("no picture, prompt, caption or secret stands in the log", async () => {
  whole.studio.enqueue({ kind: "stream", tokens: ["canary-caption"] });
  await live(sendImage(await scene(), "image/png", "?prompt=canary-prompt"));
  whole.studio.enqueue({ kind: "reply", status: 500, body: '{"error":"boom"}' });
  await live(sendImage(await scene(), "image/png", "?prompt=canary-prompt"));
  const log = whole.log();
  assert.ok(log.includes("caption failed"));
  assert.deepEqual(
    ["canary-prompt", "canary-caption", "kit-secret", "base64,"].filter((word) => log.includes(word)),
    [],
  );
});
