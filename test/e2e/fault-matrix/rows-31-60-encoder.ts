import assert from "node:assert/strict";
import { ask, freshPicture } from "../../kit/ask.ts";
import { CATALOGS } from "../../kit/lm-studio/catalog.ts";
import { PAYLOADS } from "../../kit/lm-studio/payloads.ts";
import { markedPicture, type Mark } from "../../kit/marked-pictures.ts";
import { fakeEncoderHost } from "../../kit/sidecar-in-process.ts";
import { startEdgeWorld, type World } from "../../kit/whole.ts";
import { closeBreakers, quickSettings, readCounts, tell, tellCalls, tellSource } from "./observe.ts";
import type { Row } from "./row.ts";
import { metricOf, tellSamples } from "./rows-31-60-sight.ts";
import { ahead, keepWorld } from "./rows-31-60-worlds.ts";

/** A run may take two seconds before it counts as one that never ends. */
const settings = {
  ...quickSettings,
  timeout_seconds: 9,
  timeout_connect_seconds: 1,
  lm_studio_model: "auto",
  retry_initial_delay: 0.02,
};
/** An answer that holds on both routes. */
const chat = { kind: "stream", tokens: ['{"caption":"An image.","used":[]}'] } as const;
const embed = { path: "/v1/embeddings" };
const none = { query: { fallback: "none" } };

type EncoderWorld = { world: World<"once" | "thrice">; wait: (ms: number) => void };

/** A world whose encoder does to a plain picture what its colour says; `wait` lets the sidecar's time pass. */
async function encoderWorld(): Promise<EncoderWorld> {
  let aheadMs = 0;
  const inject = { hostModule: fakeEncoderHost, now: () => performance.now() + aheadMs };
  const world = await keepWorld(startEdgeWorld({ script: { chat }, settings, inject }));
  return {
    world,
    wait(ms) {
      aheadMs += ms;
    },
  };
}

let variants = 0;

/** A plain picture that was not sent before. */
function next(mark: Mark): Uint8Array {
  variants += 1;
  return markedPicture(mark, variants);
}

/** Columns of a fault that the picture itself carries: vectors, both routes of captions, and both rungs. */
async function columns({ world, wait }: EncoderWorld, mark: Mark): Promise<string[]> {
  const { once, thrice } = world.edges;
  await world.reset();
  wait(10_001);
  const kept = next(mark);
  const seen = await ask(once, { image: kept, ...none });
  const { tags } = seen.body as { tags?: unknown[] };
  await closeBreakers(once);
  const empty = await readCounts(once);
  const alone = await ask(once, { image: next(mark), ...embed });
  const samples = await tellSamples(once, empty, { sidecar: "failure", lm_studio_api: "none" });
  const several = await ask(thrice, { image: next(mark), ...embed });
  // From here on a text model is loaded, which needs the evidence.
  world.studio.have(CATALOGS.text);
  wait(10_001);
  const chats = world.studio.chats().length;
  const told = await ask(once, { image: next(mark), ...none });
  const withEntry = await ask(once, { image: kept });
  await closeBreakers(once);
  const without = await ask(once, { image: next(mark) });
  const asked = world.studio.chats().length - chats;
  await world.reset();
  wait(10_001);
  return [
    `route vision: ${tell(seen)}, ${tags?.length} tags`,
    `embeddings: ${tell(alone)}`,
    samples,
    `three attempts: ${tellCalls(several)}`,
    `route tags: ${tell(told)}, ${asked} calls of LM Studio`,
    `ladder: with an entry ${tellSource(withEntry)}, without ${tellSource(without)}`,
  ];
}

const failed = (retry: string): string[] => [
  "route vision: 200 caption, 0 tags",
  "embeddings: 503 ERR_ENC_FORWARD_FAILED",
  "samples: sidecar failure, lm_studio_api none",
  `three attempts: ${retry}`,
  "route tags: 503 ERR_ENC_FORWARD_FAILED, 0 calls of LM Studio",
  "ladder: with an entry cache, without 503 ERR_ENC_FORWARD_FAILED",
];
const twice = "503 ERR_ENC_FORWARD_FAILED after 2 calls";

const restarts = (world: EncoderWorld["world"], reason: string): Promise<number> =>
  metricOf(world.sidecar, `pixel_encoder_restarts_total{reason="${reason}"}`);

/** Rows of the encoder's process. */
export async function encoderRows(): Promise<Row[]> {
  const [slow, quick] = await Promise.all([encoderWorld(), encoderWorld()]);

  const hung: Row = {
    id: "F37",
    fault: "encoder never returns",
    expected: [...failed(twice), "livez meanwhile: under 50 ms", "the process: killed and rebuilt"],
    async run() {
      const { world } = slow;
      const asking = ask(world.edges.once, { image: next("hang"), ...embed });
      const times = [];
      for (let n = 0; n < 20; n += 1) {
        const at = performance.now();
        await world.sidecar.call({ target: "/livez" });
        times.push(performance.now() - at);
      }
      const median = times.sort((left, right) => left - right)[10] ?? Infinity;
      await asking;
      const lines = await columns(slow, "hang");
      const killed = await restarts(world, "hung");
      await world.settled("once");
      return [
        ...lines,
        `livez meanwhile: ${median < 50 ? "under 50 ms" : `${median} ms`}`,
        `the process: ${killed >= 8 ? "killed and rebuilt" : `killed ${killed} times`}`,
      ];
    },
  };

  const poisoned: Row = {
    id: "F38",
    fault: "out of memory, session poisoned (one picture a run: the batch cap and the next provider come with batches)",
    expected: [...failed(twice), "the process: rebuilt after each, 8 times; next picture 200"],
    async run() {
      const { world } = quick;
      const before = await restarts(world, "run_failed");
      const lines = await columns(quick, "out_of_memory");
      const rebuilt = (await restarts(world, "run_failed")) - before;
      const healthy = await ask(world.edges.once, embed);
      await world.settled("once");
      return [...lines, `the process: rebuilt after each, ${rebuilt} times; next picture ${healthy.status}`];
    },
  };

  const useless: Row = {
    id: "F40",
    fault: "NaN, infinity, wrong dimension",
    expected: [
      ...failed("503 ERR_RETRY_EXHAUSTED of ERR_ENC_FORWARD_FAILED after 3 calls"),
      "infinite: 503 ERR_ENC_FORWARD_FAILED",
      "wrong_dimension: 503 ERR_ENC_FORWARD_FAILED",
      "three in a row: 1 more process",
      "rung similar: 503 ERR_API_OVERLOAD",
    ],
    async run() {
      const { world } = quick;
      const { once } = world.edges;
      const lines = await columns(quick, "not_a_number");
      const more = [];
      for (const mark of ["infinite", "wrong_dimension"] as const) {
        more.push(`${mark}: ${tell(await ask(once, { image: next(mark), ...embed }))}`);
      }
      assert.equal((await ask(once, embed)).status, 200);
      const before = await restarts(world, "bad_output");
      for (let n = 0; n < 3; n += 1) await ask(once, { image: next("not_a_number"), ...embed });
      const rebuilt = (await restarts(world, "bad_output")) - before;
      await closeBreakers(once);
      world.studio.answer({ kind: "reply", status: 500, body: "{}" });
      const similar = await ask(once, { image: next("not_a_number"), query: { fallback: "similar" } });
      await world.reset();
      await world.settled("once");
      return [...lines, ...more, `three in a row: ${rebuilt} more process`, `rung similar: ${tell(similar)}`];
    },
  };

  const deadly: Row = {
    id: "F41",
    fault: "one image crashes the host; crashes the model",
    expected: [
      ...failed(twice),
      "host, a third time: 422 ERR_ENC_INVALID_INPUT",
      "samples: sidecar ignored, lm_studio_api none",
      "its captions, default chain: 422 ERR_ENC_INVALID_INPUT",
      "who waited beside it: 200",
      "after 10 min: 503 ERR_ENC_FORWARD_FAILED",
      "model, first and second time: 503 ERR_API_OVERLOAD, 503 ERR_API_OVERLOAD",
      "samples: sidecar 2 success, lm_studio_api 2 failure",
      "ladder of the second: cache",
      "a third time: 422 ERR_ENC_INVALID_INPUT, default chain 422 ERR_ENC_INVALID_INPUT",
      "samples: sidecar 2 ignored, lm_studio_api 2 ignored",
      "three attempts: 2 calls of LM Studio",
      "after 1 h: 503 ERR_API_OVERLOAD",
    ],
    async run() {
      const { world, wait } = quick;
      const { once, thrice } = world.edges;
      const lines = await columns(quick, "crash");
      const image = next("crash");
      for (let n = 0; n < 2; n += 1) await ask(once, { image, ...embed });
      let before = await readCounts(once);
      const third = await ask(once, { image, ...embed });
      const samples = await tellSamples(once, before, { sidecar: "ignored", lm_studio_api: "none" });
      const captions = await ask(once, { image });
      const waiting = ask(once, { image: next("crash"), ...embed });
      const neighbour = await ask(thrice, embed);
      await waiting;
      await closeBreakers(once);
      wait(600_001);
      const later = await ask(once, { image, ...embed });

      await closeBreakers(once);
      const picture = freshPicture();
      assert.equal((await ask(once, { image: picture })).status, 200);
      await tellSamples(once, { sidecar: {}, lm_studio_api: {} }, { sidecar: "success", lm_studio_api: "success" });
      before = await readCounts(once);
      world.studio.answer({ kind: "reply", status: 400, body: PAYLOADS.aCrashed });
      const first = await ask(once, { image: picture, ...none });
      const second = await ask(once, { image: picture });
      const cause = (second.body as { cause?: { code: string } }).cause?.code;
      const struck = await tellSamples(once, before, { sidecar: "2 success", lm_studio_api: "2 failure" });
      before = await readCounts(once);
      const refused = await ask(once, { image: picture, ...none });
      const chain = await ask(once, { image: picture });
      const away = await tellSamples(once, before, { sidecar: "2 ignored", lm_studio_api: "2 ignored" });
      const chats = world.studio.chats().length;
      await ask(thrice, none);
      const asked = world.studio.chats().length - chats;
      wait(3_600_001);
      const hour = await ask(once, { image: picture, ...none });
      await world.reset();
      wait(10_001);
      await world.settled("once", "thrice");
      return [
        ...lines,
        `host, a third time: ${tell(third)}`,
        samples,
        `its captions, default chain: ${tellSource(captions)}`,
        `who waited beside it: ${neighbour.status}`,
        `after 10 min: ${tell(later)}`,
        `model, first and second time: ${tell(first)}, 503 ${cause}`,
        struck,
        `ladder of the second: ${tellSource(second)}`,
        `a third time: ${tell(refused)}, default chain ${tellSource(chain)}`,
        away,
        `three attempts: ${asked} calls of LM Studio`,
        `after 1 h: ${tell(hour)}`,
      ];
    },
  };
  return [ahead(hung), poisoned, useless, deadly];
}
