import assert from "node:assert/strict";
import { test } from "node:test";
import type { ErrorBody } from "../../shared/errors.ts";
import { captionSchema, errorBodySchema } from "../../shared/wire.ts";
import { events, failureBody, liveBody, marked, silence, startEdgeKit, type EdgeKit } from "../kit/edge.ts";
import { blueEvidence } from "../kit/evidence.ts";

/** The smallest thing that passes the header check: a PNG's first bytes, 4 × 4. */
const png = Buffer.from("89504e470d0a1a0a0000000d4948445200000004000000040802000000", "hex");
const post = (
  body: RequestInit["body"] = png,
  headers: Record<string, string> = { "content-type": "image/png" },
): RequestInit => ({
  method: "POST",
  headers,
  ...(body === undefined ? {} : { body }),
});
const result = (status: number, body: unknown): string =>
  `event: accepted\ndata: {}\n\n: working\n\nevent: result\ndata: ${JSON.stringify({ status, body })}\n\n`;

/** One call a request: what a failure means by itself. */
const once = { PIXEL_LLM_RETRY_MAX_ATTEMPTS: "1" };

async function errorOf(response: Response): Promise<ErrorBody> {
  return errorBodySchema.parse(((await response.json()) as { error: unknown }).error);
}

/** What the box does, and what the caller then gets with fallback none: status, code. */
const outcomes: readonly [string, Parameters<typeof startEdgeKit>[0], number, string][] = [
  [
    "does not answer the connection",
    () => Promise.reject(new Error("Network connection lost.")),
    503,
    "ERR_CONN_UNAVAILABLE",
  ],
  [
    "answers without its mark: 502",
    () => Promise.resolve(new Response("<html>", { status: 502 })),
    503,
    "ERR_CONN_UNAVAILABLE",
  ],
  [
    "answers without its mark: 530",
    () => Promise.resolve(new Response("<html>", { status: 530 })),
    503,
    "ERR_CONN_UNAVAILABLE",
  ],
  [
    "answers without its mark: 524",
    () => Promise.resolve(new Response("<html>", { status: 524 })),
    504,
    "ERR_CONN_TIMEOUT",
  ],
  [
    "hides behind a login",
    () => Promise.resolve(new Response(null, { status: 302, headers: { location: "/login" } })),
    503,
    "ERR_CONN_UNAVAILABLE",
  ],
  [
    "is somebody else: 200",
    () => Promise.resolve(Response.json({ caption: "stolen" })),
    502,
    "ERR_API_INVALID_RESPONSE",
  ],
  [
    "refuses our signature",
    () => Promise.resolve(marked(failureBody("ERR_API_UNAUTHORIZED"), 401)),
    502,
    "ERR_API_UNAUTHORIZED",
  ],
  [
    "ends its stream without a result",
    () => Promise.resolve(events("event: accepted\ndata: {}\n\n")),
    502,
    "ERR_API_INVALID_RESPONSE",
  ],
  [
    "is cut inside its result",
    () => Promise.resolve(events(result(200, liveBody).slice(0, -40))),
    502,
    "ERR_API_INVALID_RESPONSE",
  ],
  [
    "sends a result of another shape",
    () => Promise.resolve(events(result(200, { caption: 7 }))),
    502,
    "ERR_API_INVALID_RESPONSE",
  ],
  [
    "sends too much",
    () => Promise.resolve(events(`: ${"x".repeat(2 ** 20 + 1)}\n\n`)),
    502,
    "ERR_API_INVALID_RESPONSE",
  ],
  [
    "says that LM Studio refuses",
    () => Promise.resolve(events(result(503, failureBody("ERR_CONN_REFUSED")))),
    503,
    "ERR_CONN_REFUSED",
  ],
  [
    "says that it is full",
    () => Promise.resolve(marked(failureBody("ERR_API_OVERLOAD"), 503)),
    503,
    "ERR_API_OVERLOAD",
  ],
  [
    "refuses our signature without a word",
    () => Promise.resolve(new Response(null, { status: 401, headers: { "x-pixel-llm-sidecar": "1" } })),
    502,
    "ERR_API_UNAUTHORIZED",
  ],
  [
    "does not know the route",
    () => Promise.resolve(marked(failureBody("ERR_NOT_FOUND"), 404)),
    502,
    "ERR_API_INVALID_RESPONSE",
  ],
  [
    "speaks of a rate limit",
    () => Promise.resolve(marked(failureBody("ERR_API_RATE_LIMIT"), 429)),
    503,
    "ERR_API_RATE_LIMIT",
  ],
  [
    "says that the picture is broken",
    () => Promise.resolve(marked(failureBody("ERR_ENC_INVALID_INPUT"), 422)),
    422,
    "ERR_ENC_INVALID_INPUT",
  ],
];

for (const [name, box, status, code] of outcomes) {
  test(`when the box ${name}, the caller gets ${status} ${code}`, async () => {
    const kit = startEdgeKit(box);
    const response = await kit.send("/v1/captions?fallback=none", post(), once);
    assert.deepEqual([response.status, (await errorOf(response)).code, kit.calls.length], [status, code, 1]);
    assert.ok(!kit.lines.join("").includes("<html>"));
  });
}

test("a box that gives no head in time is ERR_CONN_TIMEOUT; one that gives no result in time is ERR_TIMEOUT_REQUEST", async () => {
  const env = { ...once, PIXEL_LLM_TIMEOUT_SECONDS: "0.4", PIXEL_LLM_TIMEOUT_CONNECT_SECONDS: "0.1" };
  const first = await startEdgeKit(silence).send("/v1/captions?fallback=none", post(), env);
  const stalled = startEdgeKit((_, init) => {
    const body = new ReadableStream({
      start: (controller) => {
        init.signal?.addEventListener("abort", () => controller.error(init.signal?.reason));
      },
    });
    return Promise.resolve(
      new Response(body, { headers: { "x-pixel-llm-sidecar": "1", "content-type": "text/event-stream" } }),
    );
  });
  const second = await stalled.send("/v1/captions?fallback=none", post(), env);
  assert.deepEqual(
    [(await errorOf(first)).code, (await errorOf(second)).code],
    ["ERR_CONN_TIMEOUT", "ERR_TIMEOUT_REQUEST"],
  );
});

const ladder: readonly [
  string,
  string,
  Record<string, string>,
  Parameters<typeof startEdgeKit>[0],
  number,
  string | null,
][] = [
  [
    "describe speaks from the evidence of the failed answer",
    "",
    {},
    () => Promise.resolve(events(result(503, failureBody("ERR_CONN_REFUSED", blueEvidence)))),
    200,
    "describe",
  ],
  [
    "describe looks again when the failed answer had no evidence",
    "",
    {},
    ({ url }) =>
      Promise.resolve(
        events(
          url.pathname === "/v1/embed"
            ? result(200, {
                model: "e",
                dimensions: 1,
                embedding: [1],
                similarity_floor: null,
                image: liveBody.image,
                tags: [],
                evidence: blueEvidence,
                timings_ms: liveBody.timings_ms,
              })
            : result(503, failureBody("ERR_API_OVERLOAD")),
        ),
      ),
    200,
    "describe",
  ],
  [
    "without the box there is no evidence, and the failure stands",
    "",
    {},
    () => Promise.reject(new Error("gone")),
    503,
    null,
  ],
  [
    "default is the owner's text",
    "?fallback=describe,default",
    { PIXEL_LLM_FALLBACK_DEFAULT_VALUE: "No caption now." },
    () => Promise.reject(new Error("gone")),
    200,
    "default",
  ],
  ["default without a text passes on", "?fallback=default", {}, () => Promise.reject(new Error("gone")), 503, null],
  [
    "the configured chain may be none",
    "",
    { PIXEL_LLM_FALLBACK_CHAIN: "none" },
    () => Promise.resolve(events(result(503, failureBody("ERR_CONN_REFUSED", blueEvidence)))),
    503,
    null,
  ],
  [
    "the caller's own fault climbs no ladder",
    "",
    {},
    () => Promise.resolve(marked(failureBody("ERR_ENC_INVALID_INPUT", blueEvidence), 422)),
    422,
    null,
  ],
];

for (const [name, query, env, box, status, source] of ladder) {
  test(`ladder: ${name}`, async () => {
    const response = await startEdgeKit(box).send(`/v1/captions${query}`, post(), { ...once, ...env });
    const body = (await response.json()) as { source?: string; degraded?: boolean; cause?: unknown };
    assert.deepEqual([response.status, body.source ?? null], [status, source]);
    if (source !== null) {
      const caption = captionSchema.parse(body);
      assert.deepEqual([caption.degraded, caption.cause === null, caption.attempts], [true, false, 1]);
    }
  });
}

test("a live caption is the contract's object, private, and names its request", async () => {
  const kit = startEdgeKit(() => Promise.resolve(events(result(200, liveBody))));
  const response = await kit.send("/v1/captions", post(png, { "content-type": "image/png", "x-request-id": "mine-1" }));
  const caption = captionSchema.parse(await response.json());
  assert.deepEqual(
    [caption.caption, caption.source, caption.degraded, caption.cause],
    ["A boat.", "lm_studio", false, null],
  );
  assert.deepEqual(
    ["x-request-id", "cache-control", "x-content-type-options", "referrer-policy", "cross-origin-resource-policy"].map(
      (name) => response.headers.get(name),
    ),
    ["mine-1", "private, no-store", "nosniff", "no-referrer", "same-origin"],
  );
  assert.equal(kit.calls[0]?.headers.get("x-request-id"), "mine-1");
});

test("a caller who leaves ends the call to the box; the local runtime does not tell, so the signal is ours here", async () => {
  const leave = new AbortController();
  const aborted = Promise.withResolvers<void>();
  const kit = startEdgeKit((call, init) => {
    init.signal?.addEventListener("abort", () => aborted.resolve(), { once: true });
    leave.abort(new Error("left"));
    return silence(call, init);
  });
  const response = await kit.send("/v1/captions", { ...post(), signal: leave.signal });
  await aborted.promise;
  assert.ok(response.status >= 500);
  assert.equal(kit.calls.length, 1);
  const told = kit.lines.map(
    (line) => JSON.parse(line) as { level: string; message: string; error_code: string | null },
  );
  assert.deepEqual(
    told.map(({ level, message, error_code: code }) => [level, message, code]),
    [
      ["INFO", "cancelled", null],
      ["INFO", "request", null],
    ],
  );
});

test("F59: a log that cannot be written changes no answer, and the lines it lost are counted", async () => {
  const kit = startEdgeKit(() => Promise.resolve(events(result(200, liveBody))));
  kit.breakLog();
  assert.equal((await kit.send("/v1/captions", post())).status, 200);
  const status = (await (await kit.send("/v1/status")).json()) as { isolate: { lost_log_lines: number } };
  assert.ok(status.isolate.lost_log_lines > 0);
});

test("markup in a caption leaves as JSON escapes", async () => {
  const kit = startEdgeKit(() => Promise.resolve(events(result(200, { ...liveBody, caption: "</script><b>" }))));
  const text = await (await kit.send("/v1/captions", post())).text();
  assert.ok(!text.includes("<"));
  assert.equal(captionSchema.parse(JSON.parse(text)).caption, "</script><b>");
});

test("the picture goes on as it came, its options in the query, zero as zero, and the time that is left", async () => {
  const kit = startEdgeKit(() => Promise.resolve(events(result(200, liveBody))));
  await kit.send("/v1/captions?temperature=0&prompt=a%26b&fallback=none", post(), { PIXEL_LLM_TIMEOUT_SECONDS: "10" });
  const [call] = kit.calls;
  const query = Object.fromEntries(call?.url.searchParams ?? []);
  const remaining = Number(query["remaining_ms"]);
  assert.deepEqual(
    [call?.bytes, query["temperature"], query["prompt"], query["tenant"], query["events"], query["fallback"]],
    [png.length, "0", "a&b", "local", "true", undefined],
  );
  assert.ok(remaining > 8000 && remaining <= 10_000 - 250 - 500);
});

const keys = { PIXEL_LLM_API_KEYS: "first-key, second-key" };
const authentication: readonly [string, string, Record<string, string>, Record<string, string>, number][] = [
  ["no keys, on loopback", "http://127.0.0.1/v1/captions", {}, {}, 200],
  ["no keys, on the internet", "https://captions.example/v1/captions", {}, {}, 401],
  ["a right key", "https://captions.example/v1/captions", { authorization: "Bearer second-key" }, keys, 200],
  ["a wrong key", "http://localhost/v1/captions", { authorization: "Bearer third-key" }, keys, 401],
  ["no key", "http://localhost/v1/captions", {}, keys, 401],
  ["another scheme", "http://localhost/v1/captions", { authorization: "Basic first-key" }, keys, 401],
];

for (const [name, url, headers, env, status] of authentication) {
  test(`${name} is ${status}`, async () => {
    const kit = startEdgeKit(() => Promise.resolve(events(result(200, liveBody))));
    const response = await kit.send(url, post(png, { "content-type": "image/png", ...headers }), env);
    assert.deepEqual([response.status, kit.calls.length], [status, status === 200 ? 1 : 0]);
    if (status === 401) assert.equal(response.headers.get("www-authenticate"), "Bearer");
    assert.ok(!kit.lines.join("").includes("-key"));
  });
}

test("who has no key does not make the edge read a body; a wrong header comes before the key", async () => {
  const pulls = { count: 0 };
  const body = new ReadableStream({ pull: () => void (pulls.count += 1) }, { highWaterMark: 0 });
  const kit = startEdgeKit(silence);
  const request: RequestInit = { ...post(body), duplex: "half" };
  assert.equal((await kit.send("/v1/captions", request, keys)).status, 401);
  assert.equal(pulls.count, 0);
  assert.equal((await kit.send("/v1/captions?top_p=3", post(), keys)).status, 400);
  assert.equal((await kit.send("/v1/captions", post("x", { "content-type": "image/heic" }), keys)).status, 415);
});

test("a slow upload ends at the deadline, and the box is not asked", async () => {
  const kit = startEdgeKit(silence);
  const body = new ReadableStream({ pull: () => new Promise(() => undefined) });
  const response = await kit.send(
    "/v1/captions",
    { ...post(body), duplex: "half" },
    { PIXEL_LLM_TIMEOUT_SECONDS: "0.2" },
  );
  assert.deepEqual(
    [response.status, (await errorOf(response)).code, kit.calls.length],
    [504, "ERR_TIMEOUT_REQUEST", 0],
  );
});

test("calls are signed with the newest secret, each attempt anew, over query and body", async () => {
  const secret = "0123456789abcdef0123456789abcdef";
  const kit = startEdgeKit(() => Promise.resolve(events(result(200, liveBody))));
  const env = { PIXEL_LLM_SIDECAR_SECRET: secret };
  await kit.send("/v1/captions", post(), env);
  await kit.send("/v1/captions", post(), env);
  const nonces = kit.calls.map(({ headers }) => headers.get("x-pixel-llm-nonce"));
  assert.equal(new Set(nonces).size, 2);
  for (const { headers } of kit.calls) assert.match(headers.get("x-pixel-llm-signature") ?? "", /^[0-9a-f]{64}$/);
  assert.ok(!kit.lines.join("").includes(secret));
});

test("a bad configuration answers 500 and tells only the log", async () => {
  const kit = startEdgeKit(silence);
  const response = await kit.send("/healthz", {}, { PIXEL_LLM_TOP_P: "9" });
  assert.deepEqual([response.status, (await errorOf(response)).details], [500, {}]);
  assert.match(kit.lines.join(""), /top_p = 9/);
});

for (const status of [302, 401, 403]) {
  test(`a login in front of the box that answers ${status} is logged as misconfiguration`, async () => {
    const kit = startEdgeKit(() => Promise.resolve(new Response("<html>", { status })));
    const error = await errorOf(await kit.send("/v1/captions?fallback=none", post()));
    assert.deepEqual([error.code, error.details["kind"]], ["ERR_CONN_UNAVAILABLE", "access"]);
    assert.match(kit.lines.join(""), /misconfiguration: a login/);
  });
}

test("readiness names our signature when the box refuses it", async () => {
  const kit = startEdgeKit(() => Promise.resolve(marked(failureBody("ERR_API_UNAUTHORIZED"), 401)));
  const response = await kit.send("/readyz");
  const { dependencies } = (await response.json()) as { dependencies: Record<string, { code: string }> };
  assert.deepEqual([response.status, dependencies["sidecar"]?.code], [503, "ERR_API_UNAUTHORIZED"]);
});

const embeddingRefusals: readonly [string, object, string][] = [
  ["both `input` and `image`", { input: "aGk=", image: "aGk=" }, "image"],
  ["plain text", { input: "a plain text" }, "input"],
  ["plain text that happens to be base64", { input: "word" }, "input"],
];

for (const [name, body, param] of embeddingRefusals) {
  test(`embeddings refuse ${name} by the key's name`, async () => {
    const headers = { "content-type": "application/json" };
    const response = await startEdgeKit(silence).send("/v1/embeddings", post(JSON.stringify(body), headers));
    assert.deepEqual([response.status, (await errorOf(response)).param], [400, param]);
  });
}

test("readiness is 503 with the dependency's code when LM Studio is down, and says who is down", async () => {
  const down = { status: "down", detail: "LM Studio does not answer.", code: "ERR_CONN_REFUSED" };
  const ok = { status: "ok", detail: "x", code: null };
  const kit: EdgeKit = startEdgeKit(() =>
    Promise.resolve(marked({ ready: true, dependencies: { encoder: ok, lm_studio: down } })),
  );
  const response = await kit.send("/readyz");
  const body = (await response.json()) as { error: unknown; dependencies: Record<string, { status: string }> };
  assert.deepEqual(
    [response.status, errorBodySchema.parse(body.error).code, body.dependencies["sidecar"]?.status],
    [503, "ERR_CONN_REFUSED", "ok"],
  );
  const gone = await startEdgeKit(() => Promise.reject(new Error("gone"))).send("/readyz");
  assert.equal(gone.status, 503);
});
