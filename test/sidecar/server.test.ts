import assert from "node:assert/strict";
import { after, test } from "node:test";
import { sha256, signCall } from "../../edge/crypto.ts";
import { errorBodySchema, sidecarEmbeddingSchema, sidecarReadinessSchema } from "../../shared/wire.ts";
import { scene } from "../kit/images.ts";
import { startLmStudio } from "../kit/lm-studio.ts";
import { CATALOGS } from "../kit/lm-studio/catalog.ts";
import { PAYLOADS } from "../kit/lm-studio/payloads.ts";
import { startSidecarInProcess } from "../kit/sidecar-in-process.ts";
import { secret } from "../kit/stack.ts";

const studio = await startLmStudio();
const sidecar = await startSidecarInProcess({
  settings: {
    lm_studio_host: "127.0.0.1",
    lm_studio_port: studio.port,
    timeout_first_token_seconds: 1,
    log_level: "WARNING",
  },
});
after(async () => {
  await sidecar.close();
  await studio.close();
});

type Bytes = Uint8Array<ArrayBuffer>;

/** A signed call to the sidecar, as the edge makes them. */
const call = (
  method: "GET" | "POST",
  target: string,
  body: Bytes | string = "",
  type = "application/json",
  signal?: AbortSignal,
): Promise<Response> => sidecar.call({ method, target, body, type, ...(signal === undefined ? {} : { signal }) });

const chat = (body: object): Promise<Response> => call("POST", "/v1/chat/completions", JSON.stringify(body));
const hello = [{ role: "user", content: "Hello" }];
const errorOf = async (response: Response) =>
  errorBodySchema.parse(((await response.json()) as { error: unknown }).error);

test("every answer carries the sidecar's mark and a request id, refusals too", async () => {
  for (const response of [
    await call("GET", "/info"),
    await fetch(`${sidecar.url}/nothing`),
    await call("GET", "/v1/embed"),
  ]) {
    assert.deepEqual(
      [response.headers.get("x-pixel-llm-sidecar"), (response.headers.get("x-request-id") ?? "").length > 0],
      ["1", true],
    );
  }
});

test("a call whose body is not the one that was signed is refused", async () => {
  const parts = { method: "POST", path: "/v1/log-level", query: "", bodySha256: await sha256('{"level":"DEBUG"}') };
  const headers = await signCall(secret, parts, Date.now(), (count) => crypto.getRandomValues(new Uint8Array(count)));
  const response = await fetch(`${sidecar.url}/v1/log-level`, {
    method: "POST",
    headers,
    body: '{"level":"ERROR"}',
  });
  assert.equal(response.status, 401);
});

test("readiness, facts, embeddings and the log level answer in their shapes", async () => {
  sidecarReadinessSchema.parse(await (await call("GET", "/readyz")).json());
  const info = (await (await call("GET", "/info")).json()) as {
    encoder: { name: string; requested: string; active: string };
  };
  assert.deepEqual([info.encoder.name, info.encoder.requested, info.encoder.active], ["embedded", "cpu", "cpu"]);
  const seen = sidecarEmbeddingSchema.parse(
    await (await call("POST", "/v1/embed", new Uint8Array(await scene()), "image/png")).json(),
  );
  assert.equal(seen.embedding.length, seen.dimensions);
  assert.deepEqual(await (await call("POST", "/v1/log-level", '{"level":"ERROR"}')).json(), { level: "ERROR" });
  assert.equal((await call("POST", "/v1/log-level", '{"level":"LOUD"}')).status, 400);
});

test("a call without time left is not begun; a picture that is refused costs nothing", async () => {
  const late = await call("POST", "/v1/caption?remaining_ms=20", new Uint8Array(await scene()), "image/png");
  assert.deepEqual([late.status, (await errorOf(late)).code], [504, "ERR_TIMEOUT_REQUEST"]);
  assert.equal((await call("POST", "/v1/caption", "", "image/png")).status, 400);
  assert.equal((await call("POST", "/v1/caption?nonsense=1", new Uint8Array(await scene()), "image/png")).status, 400);
});

test("chat answers in OpenAI's shape, with zero kept and a picture as a fresh JPEG", async () => {
  const image = {
    type: "image_url",
    image_url: { url: `data:image/png;base64,${(await scene()).toString("base64")}` },
  };
  const response = await chat({
    messages: [
      { role: "developer", content: "Be brief." },
      { role: "user", content: [{ type: "text", text: "What?" }, image] },
    ],
    temperature: 0,
    unknown_key: 1,
  });
  const body = (await response.json()) as {
    object: string;
    model: string;
    choices: { message: { content: string }; finish_reason: string }[];
    usage: object;
  };
  assert.deepEqual(
    [response.status, body.object, body.model, body.choices[0]?.message.content, body.choices[0]?.finish_reason],
    [200, "chat.completion", "test/vision-4b", "A lighthouse on a cliff.", "stop"],
  );
  const sent = studio.chats().at(-1)?.body ?? "";
  assert.ok(
    sent.includes('"role":"system"') && sent.includes("data:image/jpeg;base64,") && sent.includes('"temperature":0,'),
  );
});

test("chat streams pieces as they come, then the finish, the usage when asked for, and the end", async () => {
  studio.enqueue({ kind: "stream", tokens: ["A ", "<thi", "nk>no</think>", "boat."] });
  const response = await chat({ messages: hello, stream: true, stream_options: { include_usage: true } });
  const lines = (await response.text())
    .split("\n\n")
    .filter((line) => line !== "")
    .map((line) => line.replace("data: ", ""));
  const chunks = lines.slice(0, -1).map(
    (line) =>
      JSON.parse(line) as {
        choices: { delta: { content?: string }; finish_reason: string | null }[];
        usage?: object;
      },
  );
  const text = chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("");
  assert.deepEqual(
    [text, chunks.at(-2)?.choices[0]?.finish_reason, chunks.at(-1)?.choices, lines.at(-1)],
    ["A boat.", "stop", [], "[DONE]"],
  );
});

test("a chat that fails before its first words has a true status; after them an error line and no end mark", async () => {
  studio.enqueue({ kind: "reply", status: 400, body: PAYLOADS.aKeepTokens });
  const early = await chat({ messages: hello, stream: true });
  assert.deepEqual([early.status, (await errorOf(early)).code], [400, "ERR_VAL_INVALID_RANGE"]);
  const at = { tokens: 2 };
  studio.enqueue({ kind: "stream", pauses: [{ at, gate: "cut" }], cut: { at, how: "rst" } });
  // The head comes with the first words; only then is the connection cut.
  const late = await chat({ messages: hello, stream: true });
  studio.gates("cut").open();
  const text = await late.text();
  assert.ok(text.includes('"content":"A "') && text.includes('"code":"ERR_API_INVALID_RESPONSE"'));
  assert.ok(!text.includes("[DONE]") && !text.includes('"finish_reason":"stop"'));
});

const refusals: readonly [string, object, string | null][] = [
  ["no messages", {}, "messages"],
  ["several answers", { messages: hello, n: 2 }, "n"],
  ["tools", { messages: hello, tools: [{}] }, "tools"],
  [
    "an address",
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "http://x/y" } }] }] },
    "messages",
  ],
  ["a model that is not loaded", { messages: hello, model: "other" }, "model"],
];

for (const [name, body, param] of refusals) {
  test(`chat: ${name} is refused by name`, async () => {
    const response = await chat(body);
    assert.deepEqual([response.status, (await errorOf(response)).param], [400, param]);
  });
}

test("a caller who leaves ends the generation, and the next one is served", async () => {
  studio.enqueue({ kind: "stream", pauses: [{ at: { tokens: 1 }, gate: "never" }] });
  const leave = new AbortController();
  const before = studio.chats().length;
  const waiting = call("POST", "/v1/caption?events=true", new Uint8Array(await scene()), "image/png", leave.signal);
  await studio.gates("never").arrived();
  const reading = (await waiting).text();
  leave.abort();
  await assert.rejects(reading);
  await studio.until(() => studio.chats()[before]?.aborted === true);
  assert.equal((await call("POST", "/v1/caption", new Uint8Array(await scene()), "image/png")).status, 200);
});

test("metrics count requests and stages, and a stranger's path adds no series", async () => {
  await fetch(`${sidecar.url}/a-path-of-a-stranger`);
  const text = await (await call("GET", "/metrics")).text();
  assert.match(text, /pixel_sidecar_requests_total\{route="\/v1\/embed",status="2xx"\} 1/);
  assert.match(text, /pixel_sidecar_stage_seconds_count\{stage="encode"\} [1-9]/);
  assert.match(text, /pixel_sidecar_encoder_ready 1/);
  assert.ok(!text.includes("stranger"));
});

test("a picture for a model that does not see is the caller's to mend", async () => {
  studio.have(CATALOGS.text);
  // The model that was listed is gone: this call fails, and the next one asks what there is.
  await chat({ messages: hello });
  const image = {
    type: "image_url",
    image_url: { url: `data:image/png;base64,${(await scene()).toString("base64")}` },
  };
  const response = await chat({ messages: [{ role: "user", content: [image] }] });
  assert.deepEqual([response.status, (await errorOf(response)).param], [400, "model"]);
});
