import assert from "node:assert/strict";
import { ask, freshPicture } from "../../kit/ask.ts";
import { hostileCorpus } from "../../kit/images.ts";
import { createCacheStores } from "../../kit/cache-stores.ts";
import { openRaw, rawRequest, sendRaw } from "../../kit/raw-client.ts";
import { startSidecarInProcess } from "../../kit/sidecar-in-process.ts";
import { startLmStudio } from "../../kit/lm-studio.ts";
import { secret } from "../../kit/stack.ts";
import { readCounts, standard, tell, tellCalls } from "./observe.ts";
import type { Row } from "./row.ts";
import { startNodeEdge } from "./rows-31-60-node-edge.ts";
import { silentAuthority, tellSamples } from "./rows-31-60-sight.ts";
import { injected, world } from "./rows-31-60-worlds.ts";

const { studio, p1 } = world;
const { once, narrow } = world.edges;
const none = { query: { fallback: "none" } };

/** The edge's clock moves while the body comes: the sidecar is left with some 20 ms. */
const spent: Row = {
  id: "F43",
  fault: "deadline spent on arrival",
  expected: [
    `20 ms left: 504 ERR_TIMEOUT_REQUEST, {"lm_studio_ms":0,"kind":"queue","reason":"spent","stage":"queue"}`,
    "samples: sidecar success and ignored, lm_studio_api success and ignored",
    "work begun: 0 encoder runs, 0 calls of LM Studio",
    // The half second kept for the ladder is enough for evidence alone.
    "ladder: with an entry cache, without describe",
  ],
  async run() {
    await using lm = await startLmStudio();
    await using sidecar = await startSidecarInProcess({
      settings: { lm_studio_host: "127.0.0.1", lm_studio_port: lm.port, timeout_seconds: 10 },
    });
    let aheadMs = 0;
    const stores = createCacheStores();
    using edge = startNodeEdge({
      settings: { sidecar_url: sidecar.url, sidecar_secret: secret, timeout_seconds: 10, fallback_cache_ttl: 0 },
      now: () => Date.now() + aheadMs,
      objects: { authority: silentAuthority, shards: stores.shards, similar: stores.similar },
    });
    const image = new Uint8Array(freshPicture());
    assert.equal((await edge.ask({ image })).status, 200);
    const late = async (chain: string, bytes = new Uint8Array(freshPicture())): Promise<string> => {
      const body = new ReadableStream<Uint8Array>({
        pull(controller) {
          // What is left when the body is here: the ladder's half second, and 25 ms.
          aheadMs += 10_000 - 500 - 25;
          controller.enqueue(bytes);
          controller.close();
        },
      });
      const init = { method: "POST", headers: { "content-type": "image/png" }, body, duplex: "half" } as const;
      const response = await edge.send(`/v1/captions?fallback=${chain}`, init);
      const answer = (await response.json()) as { source?: string; error?: { code: string; details: object } };
      return answer.source ?? `${response.status} ${answer.error?.code}, ${JSON.stringify(answer.error?.details)}`;
    };
    const encoded = async (): Promise<number> => {
      const text = await (await sidecar.call({ target: "/metrics" })).text();
      return Number(/^pixel_sidecar_stage_seconds_count\{stage="encode"\} (\d+)/m.exec(text)?.[1]);
    };
    const before = [await encoded(), lm.chats().length];
    const alone = await late("none");
    const begun = [(await encoded()) - (before[0] ?? 0), lm.chats().length - (before[1] ?? 0)];
    const counts = await edge.ask({ method: "GET", path: "/v1/circuit-breakers" });
    const { data } = counts.body as { data: { name: string; counts: Record<string, number> }[] };
    const sum = data.map(({ name, counts: of }) => `${name} ${nonZero(of)}`).join(", ");
    const [withEntry, without] = [await late("cache", image), await late("describe")];
    return [
      `20 ms left: ${alone}`,
      `samples: ${sum}`,
      `work begun: ${begun[0]} encoder runs, ${begun[1]} calls of LM Studio`,
      `ladder: with an entry ${withEntry}, without ${without}`,
    ];
  },
};

function nonZero(counts: Readonly<Record<string, number>>): string {
  const kinds = ["success", "failure", "slow", "ignored", "late"].filter((kind) => (counts[kind] ?? 0) > 0);
  return kinds.map((kind) => (counts[kind] === 1 ? kind : `${counts[kind]} ${kind}`)).join(" and ") || "none";
}

const corpusNames = ["no bytes", "a PNG of 12000 × 12000, 16-bit RGBA", "SVG", "a PNG cut in half"];

const hostile: Row = {
  id: "F44",
  fault: "empty; bomb; wrong type; corrupt",
  expected: [
    "no bytes: 400 ERR_VAL_EMPTY_INPUT after 1 call",
    "a PNG of 12000 × 12000, 16-bit RGBA: 413 ERR_VAL_INVALID_RANGE after 1 call",
    "SVG: 415 ERR_ENC_INVALID_INPUT after 1 call",
    "a PNG cut in half: 422 ERR_ENC_INVALID_INPUT after 1 call",
    "samples: sidecar ignored, lm_studio_api ignored",
    "refused: each in its bound",
    "calls of LM Studio: 0",
  ],
  async run() {
    await world.reset();
    const corpus = await hostileCorpus();
    const lines = [];
    const chats = studio.chats().length;
    let slow = "each in its bound";
    const before = await readCounts(once);
    for (const name of corpusNames) {
      const file = corpus.find((each) => each.name === name);
      assert.ok(file !== undefined);
      // The default chain: the ladder is not for the caller's own mistakes.
      const replies = [];
      for (const edge of name === "a PNG cut in half" ? [once] : [once, world.edges.thrice]) {
        replies.push(await ask(edge, { image: file.bytes, type: file.type }));
      }
      const [first] = replies;
      assert.ok(first !== undefined);
      // Over HTTP and on a busy machine; the bounds alone are measured where the corpus is tested.
      if (first.elapsedMs > 500) slow = `${name} after ${first.elapsedMs} ms`;
      lines.push(`${name}: ${[...new Set(replies.map((reply) => tellCalls(reply)))].join(" or ")}`);
    }
    const samples = await tellSamples(once, before, { sidecar: "ignored", lm_studio_api: "ignored" });
    const asked = studio.chats().length - chats;
    await world.settled("once");
    return [...lines, samples, `refused: ${slow}`, `calls of LM Studio: ${asked}`];
  },
};

const limit = 65_536;
const spare = 65_536;

const tooLarge: Row = {
  id: "F45",
  fault: "too large: length, chunked, lying length",
  expected: [
    "length: 413 ERR_VAL_INVALID_RANGE before a byte of the body",
    "chunked: 413 ERR_VAL_INVALID_RANGE by limit + 64 KiB",
    "lying length (app on Node): 413 ERR_VAL_INVALID_RANGE by limit + 64 KiB",
    "lying length and chunked: 413 ERR_VAL_INVALID_RANGE; two lengths: 400",
    "samples: sidecar none, lm_studio_api none; calls of the box: 0",
  ],
  async run() {
    await world.reset();
    const before = await readCounts(narrow);
    const calls = p1.counts().exchanges;
    const headers = [["content-type", "image/png"]] as const;
    const target = "/v1/captions";

    using announced = await openRaw(narrow.url);
    const framing = { kind: "lengths", values: [String(limit + 1)] } as const;
    await announced.send(rawRequest({ target, headers, framing }).head);
    const first = await announced.answer();

    using chunked = await openRaw(narrow.url);
    const { head, body } = rawRequest({
      target,
      headers,
      framing: { kind: "chunked", size: 8192 },
      body: Buffer.alloc(limit + spare),
    });
    await chunked.send(head);
    // All but the chunk that ends the body: only what was read so far can be why it is refused.
    await chunked.send(body.subarray(0, -5));
    const second = await chunked.answer();

    let pulled = 0;
    using edge = startNodeEdge({ settings: { max_image_bytes: limit } });
    const lying = await edge.send(target, {
      method: "POST",
      headers: { "content-type": "image/png", "content-length": "10" },
      duplex: "half",
      body: new ReadableStream<Uint8Array>({
        pull(controller) {
          pulled += 8192;
          controller.enqueue(new Uint8Array(8192));
        },
      }),
    });
    const { error } = (await lying.json()) as { error: { code: string } };

    // Chunks beside a length: the chunks are what counts.
    const large = Buffer.alloc(limit + 1);
    const both = await sendRaw(narrow.url, { target, headers, body: large, framing: { kind: "both", values: ["10"] } });
    const values = ["10", String(large.length)];
    const two = await sendRaw(narrow.url, { target, headers, body: large, framing: { kind: "lengths", values } });
    const samples = await tellSamples(narrow, before, { sidecar: "none", lm_studio_api: "none" });
    const asked = p1.counts().exchanges - calls;
    await world.settled("narrow");
    return [
      `length: ${tellRaw(first)} before a byte of the body`,
      `chunked: ${tellRaw(second)} by limit + 64 KiB`,
      `lying length (app on Node): ${lying.status} ${error.code} by ${pulled <= limit + spare ? "limit + 64 KiB" : pulled}`,
      `lying length and chunked: ${tellRaw(both)}; two lengths: ${two === "closed" ? two : two.status}`,
      `${samples}; calls of the box: ${asked}`,
    ];
  },
};

function tellRaw(answer: Awaited<ReturnType<Awaited<ReturnType<typeof openRaw>>["answer"]>>): string {
  if (answer === "closed") return answer;
  const { error } = JSON.parse(answer.body) as { error: { code: string } };
  return `${answer.status} ${error.code}`;
}

const slowUpload: Row = {
  id: "F46",
  fault: "slow upload",
  expected: [
    "answer: 504 ERR_TIMEOUT_REQUEST within the deadline + 0.3 s",
    "samples: sidecar none, lm_studio_api none; calls of the box: 0",
  ],
  async run() {
    await world.reset();
    const before = await readCounts(narrow);
    const calls = p1.counts().exchanges;
    const request = rawRequest({
      target: "/v1/captions",
      headers: [["content-type", "image/png"]],
      body: new Uint8Array(freshPicture()),
    });
    const drops = studio.gates("drops");
    using client = await openRaw(narrow.url);
    const at = performance.now();
    await client.send(request.head);
    const dribbling = client.dribble(request.body, 1, drops);
    const timer = setInterval(() => drops.step(), 200);
    const answer = await client.answer();
    const elapsedMs = performance.now() - at;
    clearInterval(timer);
    drops.open();
    client.leave();
    await dribbling;
    const samples = await tellSamples(narrow, before, { sidecar: "none", lm_studio_api: "none" });
    const asked = p1.counts().exchanges - calls;
    await world.settled("narrow");
    return [
      `answer: ${tellRaw(answer)} ${elapsedMs <= 1300 ? "within the deadline + 0.3 s" : `after ${elapsedMs} ms`}`,
      `${samples}; calls of the box: ${asked}`,
    ];
  },
};

const memory = standard(world, {
  id: "F60",
  fault: "memory near its limit",
  inject() {
    injected.memory = 95;
  },
  expect: {
    status: 503,
    code: "ERR_API_OVERLOAD",
    samples: { sidecar: "ignored", lm_studio_api: "none" },
    retry: "no",
    ladder: "C",
  },
  more: {
    expected: ["Retry-After: there", "at 90 of 100: 200 caption"],
    async run({ once: alone }) {
      injected.memory = 90;
      const next = await ask(once, none);
      injected.memory = 10;
      return [
        `Retry-After: ${alone.headers.get("retry-after") === null ? "none" : "there"}`,
        `at 90 of 100: ${tell(next)}`,
      ];
    },
  },
});

/** Rows of what is refused, or given up, before any work. */
export const doorRows: readonly Row[] = [spent, hostile, tooLarge, slowUpload, memory];
