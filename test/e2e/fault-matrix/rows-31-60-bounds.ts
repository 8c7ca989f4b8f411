import assert from "node:assert/strict";
import { ask, freshPicture } from "../../kit/ask.ts";
import type { ChatMode } from "../../kit/lm-studio/modes.ts";
import { openRaw } from "../../kit/raw-client.ts";
import { readMetrics, startEdgeWorld } from "../../kit/whole.ts";
import { errorOf, quickSettings, readCounts, refill, standard, tell } from "./observe.ts";
import type { Row } from "./row.ts";
import { tellSamples, untilTrue } from "./rows-31-60-sight.ts";
import { keepWorld, world } from "./rows-31-60-worlds.ts";

const { studio } = world;
const { once, unbroken } = world.edges;
const none = { query: { fallback: "none" } };

/** In a world of its own: who is held for long would else look like an LM Studio that is slow. */
async function queueFull(): Promise<Row> {
  const longer = { timeout_seconds: 20, timeout_first_token_seconds: 20, max_queue: 12 };
  const crowd = await keepWorld(startEdgeWorld({ settings: { ...quickSettings, ...longer } }));
  const gate = crowd.studio.gates("flood");
  const sidecar = crowd.sidecar.inside;
  assert.ok(sidecar !== null);
  const { engine } = sidecar.sidecar;
  let flood: Promise<Response>[] = [];
  return standard(crowd, {
    id: "F42",
    fault: "queue full",
    // Twelve are inside: four at LM Studio, eight in line behind them. None of them has come over an edge.
    async inject() {
      crowd.studio.answer({ kind: "stream", pauses: [{ at: "status", gate: gate.name }] });
      flood = Array.from({ length: 12 }, () =>
        sidecar.call({ method: "POST", target: "/v1/caption", body: freshPicture(), type: "image/png" }),
      );
      await untilTrue("the sidecar is not full", async () => engine.figures().inside === 12);
    },
    expect: {
      status: 503,
      code: "ERR_API_OVERLOAD",
      samples: { sidecar: "ignored", lm_studio_api: "none" },
      retry: "no",
      ladder: "C",
    },
    more: {
      expected: ["Retry-After: there", "refusal p99: under 10 ms", "those inside: 12 x 200"],
      async run({ once: alone, faults }) {
        const times = [];
        const bytes = new Uint8Array(freshPicture());
        for (let n = 0; n < 200; n += 1) {
          const at = performance.now();
          const { signal } = new AbortController();
          const call = { bytes, format: "png", sha256: `${n}`, remainingMs: 1500, signal, requestId: "p99" } as const;
          const { status } = await engine.caption(call, {});
          times.push(performance.now() - at);
          if (status !== 503) faults.push(`a refusal with ${status}`);
        }
        const p99 = times.sort((left, right) => left - right)[197] ?? Infinity;
        gate.open();
        const statuses = (await Promise.all(flood)).map(({ status }) => status);
        return [
          `Retry-After: ${alone.headers.get("retry-after") === null ? "none" : "there"}`,
          `refusal p99: ${p99 < 10 ? "under 10 ms" : `${p99} ms`}`,
          `those inside: ${statuses.filter((status) => status === 200).length} x 200`,
        ];
      },
    },
  });
}

const scraped: Row = {
  id: "F57",
  fault: "scrape stalls; 10,000 hostile labels (the sidecar's metrics: the edge has none yet)",
  expected: [
    "a request beside it: 200 caption",
    "series: unchanged",
    "samples: sidecar success, lm_studio_api success",
  ],
  async run() {
    await world.reset();
    const { inside } = world.sidecar;
    assert.ok(inside !== null);
    const series = async (): Promise<string[]> => {
      const metrics = readMetrics(await (await inside.call({ target: "/metrics" })).text());
      return [...metrics.keys()].sort();
    };
    // Routes and classes of status that are known are counted from their first request on.
    assert.equal((await ask(once, none)).status, 200);
    await inside.call({ target: "/nowhere" });
    for (const path of ["/nowhere", "/metrics", "/v1/caption"]) await fetch(`${inside.url}${path}`);
    await series();
    const before = await series();
    using stalled = await openRaw(inside.url);
    const scrape = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    await stalled.send(scrape.repeat(50));
    await tellSamples(once, { sidecar: {}, lm_studio_api: {} }, { sidecar: "success", lm_studio_api: "success" });
    const counts = await readCounts(once);
    for (let n = 0; n < 10_000; n += 1) inside.sidecar.metrics.request(`/v1/caption"} 1\npixel_${n}{a="`, 400);
    for (let n = 0; n < 100; n += 1) await fetch(`${inside.url}/metrics/%22%7D${n}`);
    const reply = await ask(once, none);
    const samples = await tellSamples(once, counts, { sidecar: "success", lm_studio_api: "success" });
    const grown = (await series()).filter((name) => !before.includes(name));
    stalled.leave();
    await world.settled("once");
    return [
      `a request beside it: ${tell(reply)}`,
      `series: ${grown.length === 0 ? "unchanged" : grown.join(" ")}`,
      samples,
    ];
  },
};

const failing: ChatMode = { kind: "reply", status: 500, body: "{}" };

const budget: Row = {
  id: "F58",
  fault: "budget empty (breaker off, 3 attempts)",
  expected: [
    "retries of 20 requests: at most 10 and 0.1 a second, at least 10",
    "the last: 503 ERR_RETRY_EXHAUSTED, stopped by budget, after 1 call, last ERR_API_OVERLOAD",
    "samples: sidecar success, lm_studio_api failure, one a call",
    "ladder: with an entry cache, without describe",
  ],
  async run() {
    await world.reset();
    const kept = freshPicture();
    const begun = studio.chats().length;
    assert.equal((await ask(unbroken, { image: kept })).status, 200);
    await refill(unbroken, 9.75);
    // What has filled it is told half a second later.
    const paid = studio.chats().length - begun;
    await tellSamples(
      unbroken,
      { sidecar: {}, lm_studio_api: {} },
      { sidecar: `${paid} success`, lm_studio_api: `${paid} success` },
    );
    const before = await readCounts(unbroken);
    const chats = studio.chats().length;
    studio.answer(failing);
    const at = performance.now();
    const replies = [];
    for (let n = 0; n < 20; n += 1) replies.push(await ask(unbroken, none));
    const seconds = (performance.now() - at) / 1000;
    const calls = studio.chats().length - chats;
    const retries = calls - replies.length;
    const last = replies.at(-1);
    assert.ok(last !== undefined);
    const details = errorOf(last)?.details ?? {};
    const cause = (details["last_cause"] as { code?: string } | undefined)?.code;
    const samples = await tellSamples(unbroken, before, {
      sidecar: `${calls} success`,
      lm_studio_api: `${calls} failure`,
    });
    const ladder = [await ask(unbroken, { image: kept }), await ask(unbroken)];
    const sources = ladder.map(({ body }) => (body as { source?: string }).source);
    await world.reset();
    await world.settled("unbroken");
    const fits = retries <= 10 + 0.1 * seconds + 0.5 && retries >= 10;
    return [
      `retries of 20 requests: ${fits ? "at most 10 and 0.1 a second, at least 10" : `${retries} in ${seconds} s`}`,
      `the last: ${tell(last)}, stopped by ${String(details["stopped_by"])}, after ${String(details["attempts"])} call, last ${cause}`,
      samples === `samples: sidecar ${calls} success, lm_studio_api ${calls} failure`
        ? "samples: sidecar success, lm_studio_api failure, one a call"
        : `${samples} of ${calls}`,
      `ladder: with an entry ${sources[0]}, without ${sources[1]}`,
    ];
  },
};

/** Rows of bounds: the queue, the series of the metrics, the retries. */
export async function boundRows(): Promise<Row[]> {
  return [await queueFull(), scraped, budget];
}
