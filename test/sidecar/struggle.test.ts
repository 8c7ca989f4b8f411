import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { readConfig } from "../../shared/config.ts";
import {
  sidecarCaptionSchema,
  sidecarEmbeddingSchema,
  sidecarFailureSchema,
  sidecarReadinessSchema,
  type SidecarFailure,
} from "../../shared/wire.ts";
import type { EngineCall } from "../../sidecar/bounded-work.ts";
import { createMemoryReader } from "../../sidecar/memory.ts";
import { startLmStudio, type LmStudio } from "../kit/lm-studio.ts";
import { CATALOGS } from "../kit/lm-studio/catalog.ts";
import { healthyPicture, markedPicture } from "../kit/marked-pictures.ts";
import { fakeEncoderHost, startSidecarInProcess, type SidecarInProcess } from "../kit/sidecar-in-process.ts";
import { within } from "../kit/within.ts";

/** A law that is broken may wait for ever. */
const patience = { timeout: 20_000 };

let studio: LmStudio;
beforeEach(async () => {
  studio = await startLmStudio({ models: CATALOGS.parallelOne });
});
afterEach(() => studio.close());

const opened: SidecarInProcess[] = [];
afterEach(async () => {
  for (const sidecar of opened.splice(0)) await sidecar.close();
});

/** Opens a sidecar for one test; the clock of its decisions can be moved on, on top of the real one. */
async function open(settings: Readonly<Record<string, string | number>> = {}): Promise<{
  sidecar: SidecarInProcess;
  moveOn: (ms: number) => void;
  useMemory: (used: number) => void;
}> {
  let ahead = 0;
  let used = 10;
  const sidecar = await startSidecarInProcess({
    signed: null,
    hostModule: fakeEncoderHost,
    now: () => performance.now() + ahead,
    memory: () => ({ used, limit: 100 }),
    settings: { lm_studio_host: "127.0.0.1", lm_studio_port: studio.port, log_level: "CRITICAL", ...settings },
  });
  opened.push(sidecar);
  return { sidecar, moveOn: (ms) => void (ahead += ms), useMemory: (next) => void (used = next) };
}

let variant = 5000;
const fresh = (): Buffer => healthyPicture((variant += 1));

type Answer = { status: number; retryAfter: string | null; body: unknown };
const post = async (sidecar: SidecarInProcess, target: string, body: Uint8Array = fresh()): Promise<Answer> => {
  const response = await sidecar.call({ method: "POST", target, body, type: "image/png" });
  return { status: response.status, retryAfter: response.headers.get("retry-after"), body: await response.json() };
};
const failureOf = ({ body }: Answer): SidecarFailure => sidecarFailureSchema.parse(body);
const facts = (answer: Answer): unknown[] => {
  const { code, details } = failureOf(answer).error;
  return [answer.status, code, details["kind"], details["reason"], answer.retryAfter];
};
const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
const until = async (what: string, holds: () => boolean): Promise<void> => {
  // A loop that nobody waits for any more must not go on.
  for (const startedAt = performance.now(); !holds();) {
    assert.ok(performance.now() - startedAt < 10_000, `waited in vain for ${what}`);
    await settled();
  }
};
const ready = async (sidecar: SidecarInProcess) => {
  const response = await sidecar.call({ target: "/readyz" });
  return { status: response.status, ...sidecarReadinessSchema.parse(await response.json()) };
};

const gate = "go";
const hold = (): void => studio.enqueue({ kind: "stream", pauses: [{ at: "role", gate }] });

test(
  "F42 a full house refuses with 503 and a wait, fast, never 429, and takes the next when one has left",
  patience,
  async () => {
    const { sidecar } = await open({ max_queue: 2 });
    hold();
    const inside = [post(sidecar, "/v1/caption"), post(sidecar, "/v1/caption")];
    const { engine } = sidecar.sidecar;
    await until("two inside", () => engine.figures().inside === 2);
    assert.deepEqual(facts(await post(sidecar, "/v1/embed")), [503, "ERR_API_OVERLOAD", "queue", "full", "1"]);
    const bytes = fresh();
    const times: number[] = [];
    for (let turn = 0; turn < 200; turn += 1) {
      const call: EngineCall = {
        bytes,
        format: "png",
        sha256: String(turn),
        remainingMs: 5000,
        signal: new AbortController().signal,
        requestId: "r",
      };
      const startedAt = performance.now();
      assert.equal((await engine.caption(call, {})).status, 503);
      times.push(performance.now() - startedAt);
    }
    const p99 = times.sort((left, right) => left - right)[197] ?? Infinity;
    assert.ok(p99 < 10, `99 % of refusals took up to ${p99} ms`);
    studio.gates(gate).open();
    assert.deepEqual(
      (await Promise.all(inside)).map(({ status }) => status),
      [200, 200],
    );
    assert.equal((await post(sidecar, "/v1/caption")).status, 200);
    assert.equal(engine.figures().refused.full, 201);
  },
);

test("F43 a deadline spent on arrival is 504, and nobody is asked", patience, async () => {
  const { sidecar } = await open();
  const before = studio.requests.length;
  const answer = await post(sidecar, "/v1/caption?remaining_ms=20");
  const { details } = failureOf(answer).error;
  assert.deepEqual(facts(answer), [504, "ERR_TIMEOUT_REQUEST", "queue", "spent", null]);
  assert.deepEqual([details["stage"], details["lm_studio_ms"], studio.requests.length], ["queue", 0, before]);
});

test("a wait that is longer than the time left is refused on arrival, a shorter one is waited", patience, async () => {
  const { sidecar, moveOn } = await open();
  const { engine } = sidecar.sidecar;
  hold();
  const first = post(sidecar, "/v1/caption");
  await studio.gates(gate).arrived();
  moveOn(10_000);
  studio.gates(gate).open();
  assert.equal((await first).status, 200);
  studio.gates(gate).shut();
  hold();
  const second = post(sidecar, "/v1/caption");
  await studio.gates(gate).arrived(2);
  const refused = facts(await post(sidecar, "/v1/caption?remaining_ms=9000"));
  assert.deepEqual(refused.slice(0, 4), [503, "ERR_API_OVERLOAD", "queue", "late"]);
  assert.ok(Number(refused[4]) >= 10, `Retry-After ${String(refused[4])}`);
  // An embedding asks nothing of LM Studio.
  assert.equal((await post(sidecar, "/v1/embed?remaining_ms=9000")).status, 200);
  const third = post(sidecar, "/v1/caption?remaining_ms=20000");
  await until("the third in line", () => engine.figures().waiting === 1);
  studio.gates(gate).open();
  assert.deepEqual([(await second).status, (await third).status], [200, 200]);
});

test(
  "who waits in line is answered at its deadline, while the permit is still out, and is never sent to LM Studio",
  patience,
  async () => {
    const { sidecar } = await open();
    hold();
    const holder = post(sidecar, "/v1/caption");
    await studio.gates(gate).arrived();
    const before = studio.chats().length;
    const startedAt = performance.now();
    const answer = await within(5000, () => "the answer", post(sidecar, "/v1/caption?remaining_ms=300"));
    const took = performance.now() - startedAt;
    const failure = failureOf(answer);
    assert.deepEqual(
      [answer.status, failure.error.code, failure.error.details["stage"], failure.error.details["lm_studio_ms"]],
      [504, "ERR_TIMEOUT_REQUEST", "queue", 0],
    );
    // Within 20 ms of it on an idle machine; the tests share theirs.
    assert.ok(took >= 295 && took < 450, `${took} ms`);
    assert.ok(failure.evidence !== null && failure.vector !== null && failure.image !== null);
    studio.gates(gate).open();
    assert.equal((await holder).status, 200);
    assert.equal(studio.chats().length, before);
  },
);

test("a deadline that ends while LM Studio has it says for how long it had it", patience, async () => {
  const { sidecar } = await open();
  hold();
  const answer = await post(sidecar, "/v1/caption?remaining_ms=400");
  const { code, details } = failureOf(answer).error;
  assert.deepEqual([code, details["stage"], details["kind"]], ["ERR_TIMEOUT_REQUEST", "first_token", "out_of_time"]);
  const had = Number(details["lm_studio_ms"]);
  assert.ok(had > 50 && had <= 400, `${had} ms`);
  studio.gates(gate).open();
});

test("F60 above 90 % of its memory the sidecar takes no work, and recovers by itself", patience, async () => {
  const { sidecar, useMemory } = await open();
  useMemory(91);
  assert.deepEqual(facts(await post(sidecar, "/v1/caption")), [503, "ERR_API_OVERLOAD", "queue", "memory", "1"]);
  useMemory(90);
  assert.equal((await post(sidecar, "/v1/caption")).status, 200);
});

test("the memory limit is the configured one, else what the system allows, never more than the machine has", () => {
  assert.equal(createMemoryReader(1000)().limit, 1000);
  const { used, limit } = createMemoryReader(null)();
  assert.ok(used > 2 ** 20 && Number.isSafeInteger(limit) && limit > used);
  const reading = readConfig({ PIXEL_LLM_MEMORY_LIMIT_BYTES: "none" });
  assert.ok(reading.ok && reading.config.memory_limit_bytes === null);
});

test(
  "F36 draining: not ready, nobody new, who could not be done in time is told at once, the rest is answered",
  patience,
  async () => {
    const { sidecar, moveOn } = await open();
    const { engine } = sidecar.sidecar;
    hold();
    const first = post(sidecar, "/v1/caption");
    await studio.gates(gate).arrived();
    moveOn(6000);
    studio.gates(gate).open();
    await first;
    studio.gates(gate).shut();
    hold();
    const working = post(sidecar, "/v1/caption");
    await studio.gates(gate).arrived(2);
    // One service takes 6 s: the next can be done after 12 s, the one behind it after 18 s.
    const next = post(sidecar, "/v1/caption?tenant=a&remaining_ms=29000");
    await until("one in line", () => engine.figures().waiting === 1);
    const late = post(sidecar, "/v1/caption?tenant=b&remaining_ms=13000");
    await until("two in line", () => engine.figures().waiting === 2);
    sidecar.sidecar.drain();
    assert.deepEqual(facts(await late), [503, "ERR_API_OVERLOAD", "queue", "draining", "5"]);
    const { status, ready: isReady } = await ready(sidecar);
    assert.deepEqual([status, isReady], [503, false]);
    for (const route of ["caption", "embed"]) {
      assert.deepEqual(facts(await post(sidecar, `/v1/${route}`)), [503, "ERR_API_OVERLOAD", "queue", "draining", "5"]);
    }
    const chat = await sidecar.call({
      method: "POST",
      target: "/v1/chat/completions",
      body: JSON.stringify({ messages: [{ role: "user", content: "Hello" }] }),
    });
    assert.deepEqual([chat.status, chat.headers.get("retry-after")], [503, "5"]);
    let idle = false;
    const idling = engine.idle().then(() => (idle = true));
    await settled();
    assert.equal(idle, false);
    studio.gates(gate).open();
    assert.deepEqual([(await working).status, (await next).status], [200, 200]);
    await idling;
  },
);

test("closing answers whoever is still inside", patience, async () => {
  const { sidecar } = await open();
  hold();
  const working = post(sidecar, "/v1/caption");
  await studio.gates(gate).arrived();
  await sidecar.sidecar.close();
  assert.deepEqual(facts(await working), [503, "ERR_API_OVERLOAD", "queue", "draining", "5"]);
  studio.gates(gate).open();
});

for (const at of ["status", "role", "tokens"] as const) {
  test(`F47 a caller who leaves at ${at} leaves nothing behind but a permit that frees itself`, patience, async () => {
    const { sidecar } = await open();
    const { engine } = sidecar.sidecar;
    studio.enqueue({ kind: "stream", pauses: [{ at: at === "tokens" ? { tokens: 1 } : at, gate }] });
    const leave = new AbortController();
    const body = fresh();
    const lost = sidecar.call({ method: "POST", target: "/v1/caption", body, type: "image/png", signal: leave.signal });
    await studio.gates(gate).arrived();
    leave.abort(new Error("gone"));
    await assert.rejects(lost);
    await until("nobody inside", () => engine.figures().callers === 0 && engine.figures().inside === 0);
    studio.gates(gate).open();
    await until("the permit free", () => engine.figures().permits.free === 1);
    assert.equal((await post(sidecar, "/v1/caption")).status, 200);
  });
}

test("a caption carries the vector that /v1/embed gives, with its encoder and its floor", patience, async () => {
  const { sidecar } = await open();
  const picture = fresh();
  const caption = sidecarCaptionSchema.parse((await post(sidecar, "/v1/caption", picture)).body);
  const seen = sidecarEmbeddingSchema.parse((await post(sidecar, "/v1/embed", picture)).body);
  const bytes = Buffer.from(caption.vector?.base64 ?? "", "base64");
  const numbers = Array.from({ length: bytes.length / 4 }, (_, at) => bytes.readFloatLE(at * 4));
  assert.deepEqual(
    [numbers, caption.vector?.encoder, caption.vector?.floor, seen.similarity_floor, caption.collapsed],
    [seen.embedding, seen.model, 0.98, 0.98, false],
  );
});

test(
  "F34 LM Studio killed in the middle of its words: a typed error, and its restart is all that is needed",
  patience,
  async () => {
    const { sidecar } = await open();
    studio.enqueue({ kind: "stream", pauses: [{ at: { tokens: 2 }, gate }] });
    const cut = post(sidecar, "/v1/caption");
    await studio.gates(gate).arrived();
    await studio.refuse();
    const { code, details } = failureOf(await cut).error;
    assert.deepEqual([code, details["kind"]], ["ERR_API_INVALID_RESPONSE", "truncated"]);
    assert.deepEqual(facts(await post(sidecar, "/v1/caption")).slice(0, 3), [503, "ERR_CONN_REFUSED", "refused"]);
    await studio.accept();
    assert.equal((await post(sidecar, "/v1/caption")).status, 200);
  },
);

test(
  "F37 an encoder that never returns: 503, /livez answers meanwhile, the process is replaced; a caption goes on without tags",
  patience,
  async () => {
    const { sidecar } = await open();
    const hanging = post(sidecar, "/v1/embed", markedPicture("hang"));
    await until("the picture inside", () => sidecar.sidecar.engine.figures().inside === 1);
    const startedAt = performance.now();
    assert.equal((await sidecar.call({ target: "/livez" })).status, 200);
    assert.ok(performance.now() - startedAt < 50);
    assert.deepEqual(facts(await hanging), [503, "ERR_ENC_FORWARD_FAILED", "host_died", undefined, "1"]);
    assert.equal(sidecar.sidecar.engine.figures().encoder_restarts.hung, 1);
    assert.equal((await post(sidecar, "/v1/embed")).status, 200);
    const caption = sidecarCaptionSchema.parse(
      (await post(sidecar, "/v1/caption", markedPicture("not_a_number"))).body,
    );
    assert.deepEqual([caption.tags, caption.vector, caption.evidence], [[], null, null]);
  },
);

test("F38 a session that ran out of memory is replaced, and the next picture is served", patience, async () => {
  const { sidecar } = await open();
  const answer = await post(sidecar, "/v1/embed", markedPicture("out_of_memory"));
  assert.deepEqual(facts(answer).slice(0, 2), [503, "ERR_ENC_FORWARD_FAILED"]);
  assert.equal((await post(sidecar, "/v1/embed")).status, 200);
  assert.equal(sidecar.sidecar.engine.figures().encoder_restarts.run_failed, 1);
});

test(
  "F40 useless vectors fail each by itself; three in a row replace the process, two and a good one do not",
  patience,
  async () => {
    const { sidecar } = await open();
    const bad = ["not_a_number", "infinite", "wrong_dimension"] as const;
    const restarts = (): number => sidecar.sidecar.engine.figures().encoder_restarts.bad_output;
    const embed = async (picture: Buffer): Promise<number> => (await post(sidecar, "/v1/embed", picture)).status;
    const seen = [await embed(markedPicture(bad[0])), await embed(markedPicture(bad[1])), await embed(fresh())];
    assert.deepEqual([seen, restarts()], [[503, 503, 200], 0]);
    for (const mark of bad) assert.equal(await embed(markedPicture(mark, 1)), 503);
    assert.deepEqual([restarts(), await embed(fresh())], [1, 200]);
  },
);

test(
  "metrics and facts show line, permits, refusals, shared calls, pictures put away and lost processes",
  patience,
  async () => {
    const { sidecar } = await open();
    await post(sidecar, "/v1/caption?remaining_ms=20");
    await post(sidecar, "/v1/caption");
    const text = await (await sidecar.call({ target: "/metrics" })).text();
    for (const line of [
      'pixel_queue_depth{stage="lm_studio"} 0',
      'pixel_permits{stage="lm_studio",state="free"} 1',
      'pixel_permits{stage="lm_studio",state="lost"} 0',
      'pixel_queue_rejected_total{reason="spent"} 1',
      'pixel_queue_rejected_total{reason="full"} 0',
      "pixel_coalesced_total 0",
      "pixel_quarantined_pictures 0",
      'pixel_encoder_restarts_total{reason="hung"} 0',
    ]) {
      assert.ok(text.includes(`\n${line}\n`), `${line}\n${text}`);
    }
    const info = (await (await sidecar.call({ target: "/info" })).json()) as { queue: { refused: { spent: number } } };
    assert.equal(info.queue.refused.spent, 1);
  },
);
