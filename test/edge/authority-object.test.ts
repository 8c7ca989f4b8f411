import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { createAuthorityPort } from "../../edge/authority-port.ts";
import type { AcquireReply, ActReply, Batch, ReadReply, ReportReply } from "../../edge/objects/authority-protocol.ts";
import { addSample, emptyDelta } from "../../shared/breaker-sharing.ts";
import type { BreakerName } from "../../shared/breaker-state.ts";
import { startSmallWorker, type SmallWorker } from "../kit/small-worker.ts";
import { secret } from "../kit/stack.ts";

/**
 * The real object in workerd, with more doors: its tables, its wall clock, its alarm's time, and its alarm. A call comes in as
 * JSON `{ binding, name, method, args }`.
 */
const worker = `
  import { Authority as Base, saveStatement } from "./edge/objects/authority.ts";
  const wallNow = Date.now;
  let skewMs = 0;
  Date.now = () => wallNow() + skewMs;
  export class Authority extends Base {
    sql(query, ...args) { return this.ctx.storage.sql.exec(query, ...args).toArray(); }
    rowsWritten() { return this.ctx.storage.sql.exec(saveStatement, "{}").rowsWritten; }
    skew(ms) { skewMs = ms; }
    nextAlarm() { return this.ctx.storage.getAlarm(); }
    async ring() { await this.alarm(); return this.ctx.storage.getAlarm(); }
  }
  export class Misconfigured extends Authority {
    constructor(state, env) { super(state, { ...env, PIXEL_LLM_TIMEOUT_SECONDS: "never" }); }
  }
  export default {
    async fetch(request, env) {
      const { binding, name, method, args } = await request.json();
      try {
        return Response.json((await env[binding].getByName(name)[method](...args)) ?? null);
      } catch (error) {
        return Response.json({ threw: String(error) });
      }
    },
  };`;

let workerd: SmallWorker;
let box: Server;
/** What the box does with its next probe; each is told to `probed`. */
let boxMode: "ready" | "lm_studio_down" | "cut" | "unmarked" | "refuses" = "ready";
let probed: (request: IncomingMessage) => void = () => undefined;

before(async () => {
  box = createServer((request, response) => {
    probed(request);
    if (boxMode === "cut") return void request.socket.destroy();
    const status = boxMode === "lm_studio_down" ? "down" : "ok";
    const dependency = { status: "ok", detail: "", code: null };
    response.statusCode = boxMode === "refuses" ? 401 : 200;
    if (boxMode !== "unmarked") response.setHeader("x-pixel-llm-sidecar", "1");
    response.setHeader("content-type", "application/json");
    response.end(
      JSON.stringify({ ready: true, dependencies: { encoder: dependency, lm_studio: { ...dependency, status } } }),
    );
  });
  await new Promise<void>((resolve) => {
    box.listen(0, "127.0.0.1", resolve);
  });
  workerd = await startSmallWorker({
    source: worker,
    objects: { AUTHORITY: "Authority", BROKEN: "Misconfigured" },
    bindings: {
      PIXEL_LLM_SIDECAR_URL: `http://127.0.0.1:${(box.address() as AddressInfo).port}`,
      PIXEL_LLM_SIDECAR_SECRET: secret,
      PIXEL_LLM_LOG_LEVEL: "CRITICAL",
    },
  });
});

after(async () => {
  await workerd.close();
  box.closeAllConnections();
  box.close();
});

type Call = <Reply>(method: string, ...args: unknown[]) => Promise<Reply>;

const on =
  (name: string, binding = "AUTHORITY"): Call =>
  async (method, ...args) =>
    (
      await fetch(workerd.url, { method: "POST", body: JSON.stringify({ binding, name, method, args }) })
    ).json() as never;

const evict = (name: string): Promise<void> => workerd.evict("Authority", name);

async function reading(call: Call): Promise<Extract<ReadReply, { ok: true }>["reading"]> {
  const reply = await call<ReadReply>("read");
  return reply.ok ? reply.reading : assert.fail(reply.detail);
}

/** Five failures; the last asks for a cooldown of 100 s. */
function outage(name: BreakerName = "sidecar"): Batch {
  const delta = Array.from({ length: 5 }).reduce(
    (sum: ReturnType<typeof emptyDelta>) => addSample(sum, "failure", 100_000),
    emptyDelta(0),
  );
  return { isolate: "a", seq: 1, deltas: [{ name, delta }], leases: [], epochs: {} };
}

const near = (actual: number | null, expected: number): void =>
  assert.ok(actual !== null && Math.abs(actual - expected) <= 1, `${actual} is not ${expected} +-1`);

test("F52: an object evicted while open comes back open, with its rest +-1 s, epoch, failures, history and author", async () => {
  const call = on("evicted");
  assert.equal((await call<ReportReply>("report", outage())).ok, true);
  await call<ActReply>("act", "lm_studio_api", { kind: "open", reason: "update", forMs: null }, "key1");
  const earlier = await reading(call);
  await evict("evicted");
  const later = await reading(call);
  const { state, epoch, failure_count: failures, retry_after_seconds: rest } = later.breakers.sidecar;
  assert.deepEqual([state, epoch, failures], ["OPEN", earlier.breakers.sidecar.epoch, 5]);
  near(rest, 100);
  assert.deepEqual(
    [later.breakers.lm_studio_api.manual, later.breakers.lm_studio_api.by],
    [{ reason: "update" }, "key1"],
  );
  assert.deepEqual([later.events, later.cacheEpoch], [earlier.events, earlier.cacheEpoch]);
  const repeated = await call<ReportReply>("report", outage());
  assert.ok(repeated.ok);
  assert.equal((await reading(call)).breakers.sidecar.counts.failure, 5, "a batch it has, it has for good");
});

test("of twenty isolates that ask at once after the cooldown three get a lease, and the rest is refused", async () => {
  const call = on("crowd");
  await call("act", "sidecar", { kind: "open", reason: null, forMs: 1 }, "k");
  const replies = await Promise.all(
    Array.from({ length: 20 }, (_, at) => call<AcquireReply>("acquire", "sidecar", `i${at}`, { id: 1, epoch: 0 })),
  );
  const kinds = replies.map((reply) => (reply.ok ? reply.granting.kind : "broken"));
  assert.equal(kinds.filter((kind) => kind === "lease").length, 3);
  assert.equal(kinds.filter((kind) => kind === "refused").length, 17);
});

test("the alarm rings by itself at the end of the cooldown, and its probe is a signed look at /readyz", async () => {
  const call = on("alarm");
  boxMode = "cut";
  const arrived = new Promise<IncomingMessage>((resolve) => {
    probed = resolve;
  });
  await call("report", { isolate: "a", seq: 1, deltas: [], leases: [], epochs: {} });
  await call("act", "sidecar", { kind: "open", reason: null, forMs: 300 }, "k");
  const request = await arrived;
  assert.deepEqual([request.method, request.url], ["GET", "/readyz"]);
  assert.match(String(request.headers["x-pixel-llm-signature"] ?? ""), /^[0-9a-f]{64}$/);
  const isOver = async (): Promise<boolean> => (await reading(call)).breakers.sidecar.attempt === 1;
  for (let look = 0; look < 2000 && !(await isOver()); look += 1);
  const { state, retry_after_seconds: rest } = (await reading(call)).breakers.sidecar;
  assert.equal(state, "OPEN");
  assert.ok(rest !== null && rest >= 119 && rest <= 144, `${rest} s`);
  near(Number(await call("nextAlarm")) / 1000, Date.now() / 1000 + rest);
});

for (const [mode, name, state] of [
  ["ready", "sidecar", "HALF_OPEN"],
  ["lm_studio_down", "sidecar", "HALF_OPEN"],
  ["cut", "sidecar", "OPEN"],
  ["unmarked", "sidecar", "OPEN"],
  ["refuses", "sidecar", "OPEN"],
  ["ready", "lm_studio_api", "HALF_OPEN"],
  ["lm_studio_down", "lm_studio_api", "OPEN"],
  ["cut", "lm_studio_api", "HALF_OPEN"],
] as const) {
  test(`a probe of ${name} at a box that is "${mode}" leaves it ${state}, its lease free`, async () => {
    const call = on(`probe ${mode} ${name}`);
    boxMode = mode;
    await call("act", name, { kind: "open", reason: null, forMs: 1 }, "k");
    assert.equal((await reading(call)).breakers[name].state, "OPEN");
    await call("ring");
    const seen = (await reading(call)).breakers[name];
    assert.deepEqual([seen.state, seen.leases], [state, 0]);
  });
}

test("a saved state that cannot be read is discarded: fresh, closed, and told", async () => {
  const call = on("unreadable");
  await call("report", outage());
  await call("sql", "UPDATE memory SET body = '{'");
  await evict("unreadable");
  const { breakers, events } = await reading(call);
  assert.equal(breakers.sidecar.state, "CLOSED");
  near(breakers.sidecar.epoch, Date.now() / 1000);
  assert.deepEqual(
    events.map(({ event }) => event.kind),
    ["state_discarded", "state_discarded"],
  );
});

test("G7: a wall clock that steps back a day while the object is open neither stops nor lengthens its cooldown", async () => {
  const call = on("stepped");
  try {
    await call("report", outage());
    await call("skew", -86_400_000);
    near((await reading(call)).breakers.sidecar.retry_after_seconds, 100);
    await call("skew", -86_400_000 + 30_000);
    near((await reading(call)).breakers.sidecar.retry_after_seconds, 70);
  } finally {
    await call("skew", 0);
  }
});

test("one save writes one row of one table", async () => {
  const call = on("rows");
  await call("report", outage());
  assert.equal(await call("rowsWritten"), 1);
  assert.deepEqual(await call("sql", "SELECT count(*) AS rows FROM memory"), [{ rows: 1 }]);
});

test("a bad configuration is an answer, not a crash, of every method and of the alarm", async () => {
  const call = on("bad", "BROKEN");
  for (const [method, ...args] of [
    ["report", outage()],
    ["acquire", "sidecar", "a", { id: 1, epoch: 0 }],
    ["act", "sidecar", { kind: "close" }, "k"],
    ["read"],
    ["bumpCacheEpoch"],
  ] as const) {
    const reply = await call<ReportReply>(method, ...args);
    assert.ok(!reply.ok, method);
    assert.equal(reply.code, "broken");
    assert.match(reply.detail, /timeout_seconds/);
  }
  assert.equal(await call("ring"), null);
});

test("nonsense from another version is an answer too", async () => {
  const call = on("nonsense");
  for (const args of [[], [null], [{ isolate: "a", seq: 1 }]]) {
    const reply = await call<ReportReply>("report", ...args);
    assert.equal(reply.ok || reply.code, "broken");
  }
});

test("each call of the port takes a new stub, and what the stub throws is an answer", async () => {
  const named: string[] = [];
  const failing = (error: unknown): ReturnType<typeof createAuthorityPort> => {
    const stub = { report: () => Promise.reject(error), read: () => Promise.reject(error) };
    return createAuthorityPort({
      getByName(name) {
        named.push(name);
        return stub as never;
      },
    });
  };
  const overloaded = failing(Object.assign(new Error("too much"), { overloaded: true }));
  assert.deepEqual(await overloaded.report(outage()), { ok: false, code: "overloaded", detail: "too much" });
  const lost = failing("gone");
  assert.deepEqual(await lost.read(), { ok: false, code: "unreachable", detail: "gone" });
  assert.deepEqual(named, ["upstream:main", "upstream:main"]);
});
