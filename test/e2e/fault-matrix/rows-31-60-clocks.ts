import assert from "node:assert/strict";
import { createVirtualTime } from "../../../scripts/simulation/virtual-time.ts";
import { breakerNames } from "../../../shared/breaker-state.ts";
import { startAuthorityKit, startIsolateKit } from "../../kit/authority.ts";
import { freshPicture } from "../../kit/ask.ts";
import { createCacheStores } from "../../kit/cache-stores.ts";
import { liveBody, marked } from "../../kit/edge.ts";
import { startLmStudio } from "../../kit/lm-studio.ts";
import { startSidecarInProcess } from "../../kit/sidecar-in-process.ts";
import { secret } from "../../kit/stack.ts";
import { tell, tellCalls, tellSource } from "./observe.ts";
import type { Row } from "./row.ts";
import { startNodeEdge, type NodeEdge } from "./rows-31-60-node-edge.ts";
import { silentAuthority, tellAll, untilTrue } from "./rows-31-60-sight.ts";

const none = { query: { fallback: "none" } };
const day = 86_400;

/** What both breakers of an edge have counted. */
async function countsOf(edge: NodeEdge): Promise<string> {
  const { body } = await edge.ask({ method: "GET", path: "/v1/circuit-breakers" });
  const { data } = body as { data: { name: string; counts: Record<string, number> }[] };
  const told = breakerNames.map((name) => {
    const counts = data.find((each) => each.name === name)?.counts ?? {};
    const kinds = ["success", "failure", "slow", "ignored"].filter((kind) => (counts[kind] ?? 0) > 0);
    return `${name} ${kinds.map((kind) => `${counts[kind]} ${kind}`).join(" and ") || "none"}`;
  });
  return told.join(", ");
}

const skewed: Row = {
  id: "F53",
  fault: "clock +-59 s, +-61 s, +-1 day on either host",
  expected: [
    "sidecar +-59 s, edge +-59 s: 4 x 200 caption",
    "sidecar and edge +-61 s, +-1 day: 8 x 502 ERR_API_UNAUTHORIZED",
    "samples: sidecar 1 failure, lm_studio_api 1 ignored",
    "three attempts: 502 ERR_API_UNAUTHORIZED after 1 call",
    "ladder: with an entry cache, without 502 ERR_API_UNAUTHORIZED",
    "log: clock skew",
    ...["object", "isolate"].map((whose) => `cooldown of the ${whose} over steps of a day: in [0, 72 s]`),
  ],
  async run() {
    await using lm = await startLmStudio();
    const clock = { sidecar: 0, edge: 0 };
    const wallNow = (): number => Date.now() + clock.sidecar * 1000;
    await using sidecar = await startSidecarInProcess({
      settings: { lm_studio_host: "127.0.0.1", lm_studio_port: lm.port },
      wallNow,
    });
    const stores = createCacheStores();
    const edgeWith = (attempts: number): NodeEdge =>
      startNodeEdge({
        settings: {
          sidecar_url: sidecar.url,
          sidecar_secret: secret,
          retry_max_attempts: attempts,
          fallback_cache_ttl: 0,
          circuit_breaker_failure_threshold: 1000,
        },
        now: () => Date.now() + clock.edge * 1000,
        objects: { authority: silentAuthority, shards: stores.shards, similar: stores.similar },
      });
    const asked = async (host: "sidecar" | "edge", seconds: number): Promise<Awaited<ReturnType<NodeEdge["ask"]>>> => {
      clock[host] = seconds;
      using edge = edgeWith(1);
      const reply = await edge.ask(none);
      clock[host] = 0;
      return reply;
    };
    const hosts = ["sidecar", "edge"] as const;
    const near = [];
    const far = [];
    for (const host of hosts) {
      for (const seconds of [59, -59]) near.push(await asked(host, seconds));
      for (const seconds of [61, -61, day, -day]) far.push(await asked(host, seconds));
    }
    using edge = edgeWith(1);
    const kept = freshPicture();
    await edge.ask({ image: kept });
    await untilTrue("nothing is kept", async () => stores.rows().length > 0);
    clock.sidecar = 61;
    using single = edgeWith(1);
    await single.ask(none);
    const samples = await countsOf(single);
    using several = edgeWith(3);
    const often = await several.ask(none);
    const ladder = [await single.ask({ image: kept }), await single.ask()];
    const log = [...sidecar.lines, ...single.lines].join("\n");
    return [
      `sidecar +-59 s, edge +-59 s: ${tellAll(near)}`,
      `sidecar and edge +-61 s, +-1 day: ${tellAll(far)}`,
      `samples: ${samples}`,
      `three attempts: ${tellCalls(often)}`,
      `ladder: with an entry ${ladder.slice(0, 1).map(tellSource).join("")}, without ${ladder.slice(1).map(tellSource).join("")}`,
      `log: ${/skew/.test(log) ? "clock skew" : "nothing of the clock"}`,
      ...(await cooldowns()),
    ];
  },
};

/** The rest of a cooldown while the wall clock jumps to and fro by a day, also over a restart of the object. */
async function cooldowns(): Promise<string[]> {
  const rests: Record<"object" | "isolate", (number | null)[]> = { object: [], isolate: [] };
  const time = createVirtualTime();
  const object = startAuthorityKit(time);
  const isolate = startIsolateKit(time, null);
  for (let n = 0; n < 5; n += 1) {
    const admission = await isolate.breakers.admit("sidecar");
    if (admission.admitted) isolate.breakers.settle("sidecar", admission.token, "failure", null);
  }
  const full = startIsolateKit(time, object.port);
  for (let n = 0; n < 5; n += 1) {
    const admission = await full.breakers.admit("sidecar");
    if (admission.admitted) full.breakers.settle("sidecar", admission.token, "failure", null);
  }
  await time.run(1000);
  assert.equal(object.core().read().reading.breakers.sidecar.state, "OPEN");
  for (const [step, skew] of [day, -day, 0, -day, day].entries()) {
    object.wallSkewMs = skew * 1000;
    isolate.wallSkewMs = skew * 1000;
    if (step % 2 === 1) object.restart();
    await time.run(time.now() + 100);
    rests.object.push(object.core().read().reading.breakers.sidecar.retry_after_seconds);
    rests.isolate.push(isolate.breakers.view().breakers.sidecar.retry_after_seconds);
  }
  return Object.entries(rests).map(([whose, seen]) => {
    const fits = seen.every((rest) => rest === null || (rest >= 0 && rest <= 72));
    return `cooldown of the ${whose} over steps of a day: ${fits ? "in [0, 72 s]" : seen.join(" ")}`;
  });
}

const throwing: Row = {
  id: "F59",
  fault: "predicate, observer or log call throws",
  expected: [
    "log that throws: 5 x 200 caption",
    "log that throws, box down: 5 x 503 ERR_CONN_UNAVAILABLE, then 503 ERR_CB_OPEN",
    "object whose observer throws: OPEN after five failures, closed > open: run",
    "observer errors: counted",
  ],
  async run() {
    let well = true;
    using edge = startNodeEdge({
      settings: { retry_max_attempts: 1 },
      write: () => {
        throw new Error("the sink is broken");
      },
      fetch: () => (well ? Promise.resolve(marked(liveBody)) : Promise.reject(new Error("Network connection lost."))),
    });
    const five = async (): Promise<string> => {
      const replies = [];
      for (let n = 0; n < 5; n += 1) replies.push(await edge.ask(none));
      return tellAll(replies);
    };
    const good = await five();
    well = false;
    const bad = await five();
    const open = tell(await edge.ask(none));

    const time = createVirtualTime();
    const object = startAuthorityKit(time);
    object.breakObserver = true;
    const { breakers } = startIsolateKit(time, object.port);
    for (let n = 0; n < 5; n += 1) {
      const admission = await breakers.admit("sidecar");
      if (admission.admitted) breakers.settle("sidecar", admission.token, "failure", null);
    }
    await time.run(1000);
    const { reading } = object.core().read();
    return [
      `log that throws: ${good}`,
      `log that throws, box down: ${bad}, then ${open}`,
      `object whose observer throws: ${reading.breakers.sidecar.state} after five failures, ${object.transitions("sidecar").join(", ")}`,
      `observer errors: ${reading.observerErrors > 0 ? "counted" : reading.observerErrors}`,
    ];
  },
};

/** Rows of clocks that are wrong, and of listeners that throw. */
export const clockRows: readonly Row[] = [skewed, throwing];
