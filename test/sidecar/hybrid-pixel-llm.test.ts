import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { PixelLLMError, type ErrorCode } from "../../shared/errors.ts";
import { captionSchema } from "../../shared/wire.ts";
import type { Engine } from "../../sidecar/engine.ts";
import type { HybridConfig } from "../../sidecar/hybrid-options.ts";
import { HybridPixelLLM, quickCaption, type HybridParts } from "../../sidecar/hybrid-pixel-llm.ts";
import { createImageDoor } from "../../sidecar/image.ts";
import type { PictureSource } from "../../sidecar/picture-source.ts";
import { encodePng, type RawFrame } from "../../sidecar/raw-frame.ts";
import { openEngine } from "../../sidecar/sidecar.ts";
import { temporaryFolder } from "../kit/folders.ts";
import { scene } from "../kit/images.ts";
import { startLmStudio, type LmStudio } from "../kit/lm-studio.ts";
import { configWith, listeningLogger } from "../kit/settings.ts";

let studio: LmStudio;
/** One engine for all instances but those that need their own: what is tested stands in front of it. */
let engine: Engine;
let picture: Uint8Array;

const quiet = { logger: () => listeningLogger() };
const failing = { kind: "reply", status: 500, body: "{}" } as const;

before(async () => {
  studio = await startLmStudio();
  picture = await scene();
  const config = configWith({ lm_studio_port: studio.port });
  engine = await openEngine({ config, profile: "test", logger: () => listeningLogger() });
});
after(async () => {
  await engine.close();
  await studio.close();
});

/** An instance whose waits are short, over the shared engine. */
async function hybrid(config: HybridConfig = {}, parts: HybridParts = {}) {
  const settings = { lm_studio_port: studio.port, retry_initial_delay: 0.001, retry_jitter: false, ...config };
  return HybridPixelLLM.create(settings, { ...quiet, openEngine: async () => engine, ...parts });
}

/** Chats that LM Studio is asked for while `work` runs. */
async function chatsDuring(work: () => Promise<unknown>): Promise<number> {
  const earlier = studio.chats().length;
  await work();
  return studio.chats().length - earlier;
}

/** LM Studio fails every chat while `work` runs. */
async function whileFailing<T>(work: () => Promise<T>): Promise<T> {
  studio.answer(failing);
  try {
    return await work();
  } finally {
    studio.answer({ kind: "stream" });
  }
}

async function failureOf(work: Promise<unknown>): Promise<PixelLLMError> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof PixelLLMError, String(error));
    return error;
  }
  return assert.fail("nothing was thrown");
}

const none = { fallback_chain: "none" } as const;

test("I1 an instance has circuitBreaker, encoder, getErrorMetrics and close", async () => {
  const instance = await hybrid();
  assert.equal(typeof instance.getErrorMetrics, "function");
  assert.equal(typeof instance.close, "function");
  assert.equal(instance.circuitBreaker.name, "lm_studio_api");
  assert.equal(instance.circuitBreaker.view().state, "CLOSED");
  const info = await instance.encoder.info();
  assert.deepEqual([info["requested"], info["active"], info["state"]], ["cpu", "cpu", "ready"]);
  assert.match(String(info["fingerprint"]), /^[0-9a-f]{16}$/);
});

test("a live caption is the contract's caption object", async () => {
  const instance = await hybrid();
  const caption = await instance.generate(picture);
  assert.deepEqual(captionSchema.parse(caption), caption);
  const { source, degraded, attempts, cause, route, image } = caption;
  assert.deepEqual([caption.caption, source, degraded], ["A lighthouse on a cliff.", "lm_studio", false]);
  assert.deepEqual([attempts, cause, route, image.width, image.height], [1, null, "vision", 300, 200]);
});

const wrongPictures: readonly [string, unknown, ErrorCode][] = [
  ["null", null, "ERR_VAL_EMPTY_INPUT"],
  ["undefined", undefined, "ERR_VAL_EMPTY_INPUT"],
  ["no bytes", new Uint8Array(), "ERR_VAL_EMPTY_INPUT"],
  ["an empty path", "", "ERR_VAL_EMPTY_INPUT"],
  ["a frame without data", { data: new Uint8Array(), width: 0, height: 0, channels: 3 }, "ERR_VAL_EMPTY_INPUT"],
  ["a frame of rank 2", { data: new Uint8Array(16), width: 4, height: 4 }, "ERR_VAL_INVALID_TENSOR"],
  ["a frame of two channels", { data: new Uint8Array(32), width: 4, height: 4, channels: 2 }, "ERR_VAL_INVALID_TENSOR"],
  ["too little data", { data: new Uint8Array(47), width: 4, height: 4, channels: 3 }, "ERR_VAL_INVALID_TENSOR"],
  ["too much data", { data: new Uint8Array(49), width: 4, height: 4, channels: 3 }, "ERR_VAL_INVALID_TENSOR"],
  ["a broken side", { data: new Uint8Array(48), width: 4.5, height: 4, channels: 3 }, "ERR_VAL_INVALID_TENSOR"],
  ["floats", { data: new Float32Array(48), width: 4, height: 4, channels: 3 }, "ERR_VAL_INVALID_TENSOR"],
  [
    "rows of numbers",
    [
      [1, 2],
      [3, 4],
    ],
    "ERR_VAL_INVALID_TENSOR",
  ],
  ["a number", 7, "ERR_VAL_INVALID_TENSOR"],
  ["a missing file", "/nowhere/at/all.png", "ERR_VAL_INVALID_RANGE"],
  ["a path with a NUL", "a\0b.png", "ERR_VAL_INVALID_RANGE"],
  ["no picture", Buffer.from("plain words, many of them"), "ERR_ENC_INVALID_INPUT"],
];

for (const [what, value, code] of wrongPictures) {
  test(`I2 ${what} is ${code}: LM Studio sees no call, the ladder is not climbed`, async () => {
    const instance = await hybrid();
    const chats = await chatsDuring(async () => {
      const error = await failureOf(instance.generate(value as PictureSource));
      assert.deepEqual([error.code, error.param], [code, "image"]);
    });
    assert.equal(chats, 0);
    assert.deepEqual(instance.getErrorMetrics().error_counts, { [code]: 1 });
  });
}

test("I2 bytes and pixels over the limits are refused, whatever they come in", async () => {
  const instance = await hybrid({ max_image_bytes: 1024, max_image_pixels: 100 });
  const file = join(temporaryFolder(), "scene.png");
  writeFileSync(file, picture);
  const frame: RawFrame = { data: new Uint8Array(11 * 10), width: 11, height: 10, channels: 1 };
  for (const source of [picture, file, halves(picture), frame]) {
    const error = await failureOf(instance.generate(source));
    assert.deepEqual([error.code, error.status], ["ERR_VAL_INVALID_RANGE", 413]);
  }
});

async function* halves(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes.subarray(0, 1000);
  yield bytes.subarray(1000);
}

test("path, bytes and stream of one picture give its one hash", async () => {
  const instance = await hybrid();
  const file = join(temporaryFolder(), "scene.png");
  writeFileSync(file, picture);
  const captions = await instance.generateBatch([picture, file, halves(picture)]);
  const hashes = new Set(captions.map((item) => (item.ok ? item.caption.image.sha256 : item.error.code)));
  assert.equal(hashes.size, 1);
  assert.ok(captions.every(({ ok }) => ok));
});

for (const channels of [1, 3, 4] as const) {
  test(`a raw frame of ${channels} channels becomes a picture of the same pixels`, async () => {
    const data = Uint8Array.from({ length: 20 * 16 * channels }, (_, at) =>
      channels === 4 && at % 4 === 3 ? 255 : (at * 37) % 256,
    );
    const bytes = await encodePng({ data, width: 20, height: 16, channels });
    const recipe = { width: 20, height: 16, fit: "squash", kernel: "cubic", alpha: "drop" } as const;
    const decoded = await createImageDoor({ maxPixels: 1000 }).decode(bytes, {
      format: "png",
      recipes: [recipe],
      jpeg: false,
      signal: new AbortController().signal,
      timeoutMs: 5000,
    });
    const rgb = Uint8Array.from({ length: 20 * 16 * 3 }, (_, at) => {
      const pixel = Math.floor(at / 3) * channels;
      return data[pixel + (channels === 1 ? 0 : at % 3)] ?? 0;
    });
    assert.deepEqual([decoded.width, decoded.height, decoded.tensors[0]], [20, 16, rgb]);
  });
}

test("a raw frame is captioned", async () => {
  const frame: RawFrame = { data: new Uint8Array(64 * 48 * 3).fill(90), width: 64, height: 48, channels: 3 };
  const { image, source } = await (await hybrid()).generate(frame);
  assert.deepEqual([image.format, image.width, image.height, source], ["png", 64, 48, "lm_studio"]);
});

const zero = {
  total_requests: 0,
  successful_requests: 0,
  fallback_answers: 0,
  success_rate: 0,
  error_counts: {},
  circuit_breaker_state: "CLOSED",
} as const;

test("I3 I9 metrics have all their keys and start at 0; a breaker can be reset", async () => {
  const instance = await hybrid();
  assert.deepEqual(instance.getErrorMetrics(), zero);
  instance.circuitBreaker.reset();
  assert.deepEqual(instance.getErrorMetrics(), zero);
});

test("I4 LM Studio refuses every call: evidence speaks, and the cause says why", async () => {
  await studio.refuse();
  try {
    const instance = await hybrid();
    const caption = await instance.generate(picture);
    assert.deepEqual(captionSchema.parse(caption), caption);
    assert.deepEqual([caption.source, caption.degraded, caption.attempts], ["describe", true, 3]);
    assert.equal(caption.cause?.code, "ERR_RETRY_EXHAUSTED");
    assert.deepEqual(caption.cause.details, {
      attempts: 3,
      stopped_by: "attempts",
      last_cause: { code: "ERR_CONN_REFUSED", category: "connection", severity: "MEDIUM", retryable: true },
    });
    assert.ok(caption.tags.length > 0 && caption.image.width === 300);
  } finally {
    await studio.accept();
  }
});

test("I4 R25 the same with chain `none`: that error is thrown, configured or asked for", async () => {
  await studio.refuse();
  try {
    for (const [config, options] of [
      [none, {}],
      [{}, { fallback: "none" }],
    ] as const) {
      const error = await failureOf((await hybrid(config)).generate(picture, options));
      const last = error.details["last_cause"] as { code: string };
      assert.deepEqual([error.code, last.code], ["ERR_RETRY_EXHAUSTED", "ERR_CONN_REFUSED"]);
    }
  } finally {
    await studio.accept();
  }
});

test("I5 two attempts, one failure: exactly 2 calls, a live caption that says so", async () => {
  const instance = await hybrid({ retry_max_attempts: 2 });
  studio.enqueue(failing);
  const chats = await chatsDuring(async () => {
    const { source, attempts } = await instance.generate(picture);
    assert.deepEqual([source, attempts], ["lm_studio", 2]);
  });
  assert.equal(chats, 2);
  const { successful_requests, success_rate, error_counts } = instance.getErrorMetrics();
  assert.deepEqual([successful_requests, success_rate, error_counts], [1, 1, { ERR_API_OVERLOAD: 1 }]);
});

test("I6 two attempts, all failing, chain `none`: exactly 2 calls, exhaustion", async () => {
  const instance = await hybrid({ retry_max_attempts: 2, ...none });
  const chats = await chatsDuring(() =>
    whileFailing(async () => {
      const error = await failureOf(instance.generate(picture));
      assert.deepEqual([error.code, error.details["attempts"]], ["ERR_RETRY_EXHAUSTED", 2]);
    }),
  );
  assert.equal(chats, 2);
});

test("I7 threshold 3, five requests of two attempts: exactly 3 calls, then OPEN", async () => {
  const instance = await hybrid({ retry_max_attempts: 2, circuit_breaker_failure_threshold: 3, ...none });
  const codes: string[] = [];
  const chats = await chatsDuring(() =>
    whileFailing(async () => {
      for (let request = 0; request < 5; request += 1) codes.push((await failureOf(instance.generate(picture))).code);
    }),
  );
  assert.equal(chats, 3);
  assert.deepEqual(codes, ["ERR_RETRY_EXHAUSTED", "ERR_CB_OPEN", "ERR_CB_OPEN", "ERR_CB_OPEN", "ERR_CB_OPEN"]);
  assert.equal(instance.circuitBreaker.view().state, "OPEN");
  assert.equal(instance.getErrorMetrics().circuit_breaker_state, "OPEN");
});

test("I8 B6 threshold 2: 2 calls in 5 requests, the other four ERR_CB_OPEN without a wait, with what it knows", async () => {
  const config = { retry_max_attempts: 2, retry_initial_delay: 0, circuit_breaker_failure_threshold: 2, ...none };
  const instance = await hybrid(config);
  const errors: PixelLLMError[] = [];
  const chats = await chatsDuring(() =>
    whileFailing(async () => {
      for (let request = 0; request < 5; request += 1) errors.push(await failureOf(instance.generate(picture)));
    }),
  );
  assert.equal(chats, 2);
  for (const error of errors.slice(1)) {
    assert.equal(error.code, "ERR_CB_OPEN");
    assert.deepEqual([error.details["name"], error.details["failure_count"]], ["lm_studio_api", 2]);
    assert.ok(error.retryAfterSeconds !== null && error.retryAfterSeconds >= 60 && error.retryAfterSeconds <= 72);
  }
});

test("I8 B4 an open breaker leads to the ladder at once, with fresh evidence and no attempt", async () => {
  const config = { retry_max_attempts: 2, circuit_breaker_failure_threshold: 2 };
  const instance = await hybrid(config);
  await whileFailing(() => instance.generate(picture));
  const chats = await chatsDuring(async () => {
    const { source, attempts, cause } = await instance.generate(picture);
    assert.deepEqual([source, attempts, cause?.code], ["describe", 0, "ERR_CB_OPEN"]);
  });
  assert.equal(chats, 0);
});

test("R18 R19 R20 after the cooldown probes close it; reset closes it at once", async () => {
  let now = 1000;
  const clock = { now: () => now };
  const config = { retry_max_attempts: 1, circuit_breaker_failure_threshold: 1, ...none };
  const instance = await hybrid(config, { ...clock, random: () => 0 });
  await whileFailing(() => failureOf(instance.generate(picture)));
  assert.equal(instance.circuitBreaker.view().state, "OPEN");
  now += 59_999;
  assert.equal((await failureOf(instance.generate(picture))).code, "ERR_CB_OPEN");
  now += 1;
  await instance.generate(picture);
  assert.equal(instance.circuitBreaker.view().state, "HALF_OPEN");
  await instance.generate(picture);
  assert.equal(instance.circuitBreaker.view().state, "CLOSED");

  await whileFailing(() => failureOf(instance.generate(picture)));
  instance.circuitBreaker.reset();
  assert.equal(instance.circuitBreaker.view().state, "CLOSED");
  assert.equal((await instance.generate(picture)).source, "lm_studio");
});

test("I10 I11 one failed request: total 1, success 0, rate 0, every code counted; reset makes all of it 0", async () => {
  const instance = await hybrid({ retry_max_attempts: 2, ...none });
  await whileFailing(() => failureOf(instance.generate(picture)));
  const metrics = instance.getErrorMetrics();
  assert.deepEqual(metrics, { ...zero, total_requests: 1, error_counts: { ERR_API_OVERLOAD: 2 } });
  metrics.error_counts.ERR_API_OVERLOAD = 99;
  assert.equal(instance.getErrorMetrics().error_counts.ERR_API_OVERLOAD, 2);
  instance.resetMetrics();
  assert.deepEqual(instance.getErrorMetrics(), zero);
});

test("a fallback answer is counted as one, and never as a success", async () => {
  const instance = await hybrid({ retry_max_attempts: 1 });
  await whileFailing(() => instance.generate(picture));
  const { total_requests, successful_requests, fallback_answers, success_rate } = instance.getErrorMetrics();
  assert.deepEqual([total_requests, successful_requests, fallback_answers, success_rate], [1, 0, 1, 0]);
});

test("B7 R22 a live caption is kept for its own question, and only for that", async () => {
  const instance = await hybrid({ retry_max_attempts: 1, fallback_chain: "cache", circuit_breaker_enabled: false });
  await instance.generate(picture, { seed: 0 });
  await whileFailing(async () => {
    const kept = await instance.generate(picture, { seed: 0 });
    assert.deepEqual([kept.source, kept.degraded, kept.caption], ["cache", true, "A lighthouse on a cliff."]);
    assert.deepEqual([kept.model, kept.route, kept.cause?.code], ["test/vision-4b", "vision", "ERR_API_OVERLOAD"]);
    for (const other of [{}, { seed: 1 }, { seed: 0, prompt: "Why?" }, { seed: 0, temperature: 0 }]) {
      assert.equal((await failureOf(instance.generate(picture, other))).code, "ERR_API_OVERLOAD");
    }
    instance.clearCache();
    assert.equal((await failureOf(instance.generate(picture, { seed: 0 }))).code, "ERR_API_OVERLOAD");
  });
});

test("B7 what stood in is never kept, and neither is what was cut by its length", async () => {
  const instance = await hybrid({ retry_max_attempts: 1, circuit_breaker_failure_threshold: 100 });
  await whileFailing(() => instance.generate(picture));
  studio.enqueue({ kind: "stream", finishReason: "length" });
  assert.equal((await instance.generate(picture)).source, "lm_studio");
  await whileFailing(async () => {
    assert.equal((await failureOf(instance.generate(picture, { fallback: "cache" }))).code, "ERR_API_OVERLOAD");
  });
});

test("R28 R29 C29 captions are kept for as long as configured, and not at all when switched off", async () => {
  let now = 0;
  const ttl = { fallback_cache_ttl: 10, fallback_cache_stale_seconds: 20 };
  const base = { retry_max_attempts: 1, fallback_chain: "cache", circuit_breaker_enabled: false };
  const instance = await hybrid({ ...base, ...ttl }, { now: () => now });
  await instance.generate(picture);
  await whileFailing(async () => {
    now += 19_999;
    assert.equal((await instance.generate(picture)).source, "cache");
    now += 1;
    assert.equal((await failureOf(instance.generate(picture))).code, "ERR_API_OVERLOAD");
  });
  for (const off of [{ fallback_cache_enabled: false }, { fallback_cache_max_size: 0 }]) {
    const forgetful = await hybrid({ ...base, ...off });
    await forgetful.generate(picture);
    await whileFailing(() => failureOf(forgetful.generate(picture)));
  }
});

test("R21 R23 the rungs in their order: a broken one passes on, an own function is called once, then the text", async () => {
  const seen: unknown[] = [];
  const chain = { fallback_chain: "describe,default", fallback_default_value: "No caption.", retry_max_attempts: 1 };
  const own = await hybrid(chain, {
    describe: ({ evidence, cause }) => {
      seen.push([evidence.frame.width, cause.code]);
      return "Own words.";
    },
  });
  await whileFailing(async () => {
    assert.equal((await own.generate(picture)).caption, "Own words.");
    assert.deepEqual(seen, [[300, "ERR_API_OVERLOAD"]]);
    for (const describe of [() => "", async () => Promise.reject(new Error("broken"))]) {
      const { source, caption } = await (await hybrid(chain, { describe })).generate(picture);
      assert.deepEqual([source, caption], ["default", "No caption."]);
    }
  });
});

test("R24 a ladder without an answer throws the failure: nothing is ever null", async () => {
  const instance = await hybrid({ retry_max_attempts: 1, fallback_chain: "similar,default" });
  await whileFailing(async () => {
    assert.equal((await failureOf(instance.generate(picture))).code, "ERR_API_OVERLOAD");
  });
});

test("B4 the request's own faults never lead to the ladder", async () => {
  const instance = await hybrid();
  const error = await failureOf(instance.generate(picture, { model: "nobody/loaded-this" }));
  assert.deepEqual([error.code, error.param], ["ERR_VAL_INVALID_RANGE", "model"]);
});

test("B23 every option reaches LM Studio; 0 is a value", async () => {
  const instance = await hybrid();
  const options = { prompt: "Which hour?", maxTokens: 7, temperature: 0, topP: 0, seed: 0 };
  await instance.generate(picture, { ...options, model: "test/vision-4b" });
  const body = JSON.parse(studio.chats().at(-1)?.body ?? "") as Record<string, unknown>;
  const { max_tokens, temperature, top_p, seed, model } = body;
  assert.deepEqual([max_tokens, temperature, top_p, seed, model], [7, 0, 0, 0, "test/vision-4b"]);
  assert.ok(JSON.stringify(body["messages"]).includes("Which hour?"));
});

for (const [what, options] of [
  ["unknown", { tempo: 1 }],
  ["out of range", { maxTokens: 0 }],
  ["a rung there is not", { fallback: "pray" }],
] as const) {
  test(`B23 an option that is ${what} is refused before any call`, async () => {
    const instance = await hybrid();
    const chats = await chatsDuring(async () => {
      const error = await failureOf(instance.generate(picture, options as object));
      assert.equal(error.code, "ERR_VAL_INVALID_RANGE");
    });
    assert.equal(chats, 0);
  });
}

test("a configuration is refused with every problem at once, before anything is opened", async () => {
  let opened = 0;
  const parts = { ...quiet, openEngine: async () => ((opened += 1), engine) };
  const wrong = { lm_studio_port: 70_000, lm_studio_host: "", retries: 3, api_keys: 7 } as HybridConfig;
  const error = await failureOf(HybridPixelLLM.create(wrong, parts));
  const problems = error.details["problems"] as { field: string }[];
  assert.deepEqual(problems.map(({ field }) => field).sort(), [
    "api_keys",
    "lm_studio_host",
    "lm_studio_port",
    "retries",
  ]);
  assert.deepEqual([error.code, opened], ["ERR_VAL_INVALID_RANGE", 0]);
});

test("nothing is opened before it is needed, and then once; what could not open is tried again", async () => {
  let opened = 0;
  const openOnce = async (): Promise<Engine> => {
    opened += 1;
    if (opened === 1) throw new PixelLLMError("ERR_ENC_LOAD_FAILED");
    return engine;
  };
  const instance = await HybridPixelLLM.fromDefaultConfig({ ...quiet, openEngine: openOnce });
  assert.equal(opened, 0);
  assert.equal((await failureOf(instance.start())).code, "ERR_ENC_LOAD_FAILED");
  await Promise.all([instance.start(), instance.start(), instance.encode(picture)]);
  assert.equal(opened, 2);
});

test("R11 two instances share nothing", async () => {
  const config = { retry_max_attempts: 1, circuit_breaker_failure_threshold: 1, fallback_chain: "cache" };
  const [one, other] = [await hybrid(config), await hybrid(config)];
  await other.generate(picture);
  await whileFailing(() => failureOf(one.generate(picture)));
  assert.deepEqual([one.circuitBreaker.view().state, other.circuitBreaker.view().state], ["OPEN", "CLOSED"]);
  assert.deepEqual([one.getErrorMetrics().total_requests, other.getErrorMetrics().successful_requests], [1, 1]);
  assert.equal((await failureOf(one.generate(picture))).code, "ERR_CB_OPEN");
});

test("B20 a batch keeps its order, at most `concurrency` at once, and one failure takes only its own place", async () => {
  const instance = await hybrid();
  let inside = 0;
  let most = 0;
  const counting: Engine = {
    ...engine,
    caption: async (call, options) => {
      most = Math.max(most, (inside += 1));
      try {
        return await engine.caption(call, options);
      } finally {
        inside -= 1;
      }
    },
  };
  const watched = await hybrid({}, { openEngine: async () => counting });
  const frames = [40, 50, 60, 70, 80].map((width): RawFrame => ({
    data: new Uint8Array(width * 40).fill(width),
    width,
    height: 40,
    channels: 1,
  }));
  const items = await watched.generateBatch([...frames.slice(0, 2), null, ...frames.slice(2)], { concurrency: 2 });
  assert.deepEqual(
    items.map((item) => (item.ok ? item.caption.image.width : item.error.code)),
    [40, 50, "ERR_VAL_EMPTY_INPUT", 60, 70, 80],
  );
  assert.equal(most, 2);
  assert.deepEqual(await instance.generateBatch([]), []);
  for (const concurrency of [0, 1.5, 65]) {
    const error = await failureOf(instance.generateBatch([picture], { concurrency }));
    assert.deepEqual([error.code, error.param], ["ERR_VAL_INVALID_RANGE", "concurrency"]);
  }
});

test("encode gives the unit vector and asks LM Studio nothing", async () => {
  const instance = await hybrid();
  const chats = await chatsDuring(async () => {
    const { embedding, dimensions } = await instance.encode(picture);
    assert.equal(embedding.length, dimensions);
    assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-4);
    assert.deepEqual((await instance.encode(picture)).embedding, embedding);
  });
  assert.equal(chats, 0);
});

test("B3 a caller who leaves gets the signal's reason, in a call and in a wait; nothing is counted against LM Studio", async () => {
  const slow = { retry_initial_delay: 300, retry_max_delay: 300, timeout_seconds: 600 };
  const instance = await hybrid(slow);
  const gone = new Error("gone");
  const earlier = new AbortController();
  earlier.abort(gone);
  await assert.rejects(instance.generate(picture, { signal: earlier.signal }), gone);

  const inCall = new AbortController();
  studio.enqueue({ kind: "stream", pauses: [{ at: "role", gate: "held" }] });
  const seen = studio.chats().length;
  const held = instance.generate(picture, { signal: inCall.signal });
  await studio.until(() => studio.chats().length > seen);
  inCall.abort(gone);
  await assert.rejects(held, gone);
  studio.gates("held").open();

  const inWait = new AbortController();
  studio.enqueue(failing);
  const logger = listeningLogger();
  const waiting = await hybrid(slow, {
    logger: () => ({
      ...logger,
      warning: (message) => {
        if (message === "attempt failed") setImmediate(() => inWait.abort(gone));
      },
    }),
  });
  await assert.rejects(waiting.generate(picture, { signal: inWait.signal }), gone);
  assert.deepEqual(instance.circuitBreaker.view().failure_count, 0);
});

test("F58 an empty retry budget ends the loop: eleven retries are wanted, ten are paid", async () => {
  const instance = await hybrid({ retry_max_attempts: 2, circuit_breaker_enabled: false, ...none });
  const reasons: unknown[] = [];
  await whileFailing(async () => {
    for (let request = 0; request < 11; request += 1) {
      reasons.push((await failureOf(instance.generate(picture))).details["stopped_by"]);
    }
  });
  assert.deepEqual(reasons, [...Array.from({ length: 10 }, () => "attempts"), "budget"]);
});

test("a closed instance refuses, and closing twice is closing once", async () => {
  let closes = 0;
  const closing: Engine = { ...engine, close: async () => void (closes += 1) };
  const instance = await hybrid({}, { openEngine: async () => closing });
  await instance.start();
  await Promise.all([instance.close(), instance.close()]);
  assert.equal(closes, 1);
  for (const call of [instance.generate(picture), instance.encode(picture), instance.start()]) {
    assert.equal((await failureOf(call)).code, "ERR_API_OVERLOAD");
  }
  await (await hybrid({}, { openEngine: async () => closing })).close();
  assert.equal(closes, 1);
});

test("quickCaption captions and always closes", async () => {
  let closes = 0;
  const closing: Engine = { ...engine, close: async () => void (closes += 1) };
  const parts = { ...quiet, openEngine: async () => closing };
  const config = { lm_studio_port: studio.port };
  assert.equal((await quickCaption(picture, config, parts)).source, "lm_studio");
  await whileFailing(() => failureOf(quickCaption(picture, { ...config, retry_max_attempts: 1, ...none }, parts)));
  assert.equal(closes, 2);
});

test("with nothing but a configuration it opens its own engine, and closing ends it", async () => {
  const instance = await HybridPixelLLM.create({ lm_studio_port: studio.port }, quiet);
  assert.equal((await instance.generate(picture)).source, "lm_studio");
  await instance.close();
});
