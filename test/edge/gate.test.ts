import assert from "node:assert/strict";
import { test } from "node:test";
import { createAttemptGate, createEvidenceGate, probeLimitMs } from "../../edge/gate.ts";
import { createVirtualTime } from "../../scripts/simulation/virtual-time.ts";
import { readConfig } from "../../shared/config.ts";
import type { AttemptFacts } from "../../shared/samples.ts";
import { startAuthorityKit, startIsolateKit, type AuthorityKit, type IsolateKit } from "../kit/authority.ts";

const limits = { timeoutMs: 30_000, slowCallMs: null, probeTimeoutMs: 5000 };
const well: AttemptFacts = { ok: true, elapsedMs: 100, collapsed: false };
const failed = (facts: Partial<Extract<AttemptFacts, { ok: false }>>): AttemptFacts => ({
  ok: false,
  code: "ERR_CONN_UNAVAILABLE",
  details: { service: "sidecar" },
  fromSidecar: false,
  callerGone: false,
  lmStudioMs: 0,
  ...facts,
});

async function start(): Promise<{ kit: AuthorityKit; isolate: IsolateKit; run: (ms: number) => Promise<void> }> {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  const isolate = startIsolateKit(time, kit.port);
  isolate.breakers.refresh();
  await time.run(0);
  return { kit, isolate, run: (ms) => time.run(time.now() + ms) };
}

const countsOf = (kit: AuthorityKit): [number, number, number][] =>
  (["sidecar", "lm_studio_api"] as const).map((name) => {
    const { success, failure, ignored } = kit.core().read().reading.breakers[name].counts;
    return [success, failure, ignored];
  });

for (const [what, facts, expected] of [
  [
    "a caption",
    well,
    [
      [1, 0, 0],
      [1, 0, 0],
    ],
  ],
  [
    "a follower's caption",
    { ...well, collapsed: true },
    [
      [1, 0, 0],
      [0, 0, 1],
    ],
  ],
  [
    "a box that does not answer",
    failed({}),
    [
      [0, 1, 0],
      [0, 0, 1],
    ],
  ],
  [
    "LM Studio down behind a box that answers",
    failed({ code: "ERR_CONN_REFUSED", details: { service: "lm_studio" }, fromSidecar: true }),
    [
      [1, 0, 0],
      [0, 1, 0],
    ],
  ],
  [
    "a caller who left",
    failed({ callerGone: true }),
    [
      [0, 0, 1],
      [0, 0, 1],
    ],
  ],
] as const) {
  test(`an attempt gives each breaker one sample: ${what}`, async () => {
    const { kit, isolate, run } = await start();
    const gate = createAttemptGate(isolate.breakers, limits);
    const admission = await gate.admit();
    assert.ok(admission.admitted);
    gate.settle(admission.permit, facts);
    gate.settle(admission.permit, facts);
    await run(1000);
    assert.deepEqual(countsOf(kit), expected);
  });
}

test("when LM Studio's breaker refuses, the box's probe goes back without a verdict, in the same tick", async () => {
  const { kit, isolate, run } = await start();
  await isolate.breakers.act("lm_studio_api", { kind: "open", reason: null, forMs: null }, "k");
  await isolate.breakers.act("sidecar", { kind: "open", reason: null, forMs: 1000 }, "k");
  await run(1000);
  const admission = await createAttemptGate(isolate.breakers, limits).admit();
  assert.ok(!admission.admitted);
  assert.deepEqual([admission.error.code, admission.error.details["name"]], ["ERR_CB_OPEN", "lm_studio_api"]);
  await run(0);
  const { state, leases, counts } = kit.core().read().reading.breakers.sidecar;
  // One of the two ignored is the alarm's own probe.
  assert.deepEqual([state, leases, counts.ignored], ["HALF_OPEN", 0, 2]);
  const evidence = await createEvidenceGate(isolate.breakers, limits).admit();
  assert.ok(evidence.admitted, "the encoder can be asked still");
});

test("a throw between the two breakers leaks no lease", async () => {
  const { isolate } = await start();
  const ended: string[] = [];
  const breakers = {
    ...isolate.breakers,
    admit: (name: "sidecar" | "lm_studio_api") =>
      name === "sidecar" ? isolate.breakers.admit(name) : Promise.reject(new Error("bug")),
    settle: (name: string, _: unknown, sample: string) => void ended.push(`${name} ${sample}`),
  };
  await assert.rejects(createAttemptGate(breakers, limits).admit(), /bug/);
  assert.deepEqual(ended, ["sidecar unused"]);
});

test("a call for evidence asks and tells the box's breaker alone", async () => {
  const { kit, isolate, run } = await start();
  const gate = createEvidenceGate(isolate.breakers, limits);
  const admission = await gate.admit();
  assert.ok(admission.admitted);
  gate.settle(admission.permit, well);
  await run(1000);
  assert.deepEqual(countsOf(kit), [
    [1, 0, 0],
    [0, 0, 0],
  ]);
});

test("what LM Studio's 429 asks for is the least its breaker waits", async () => {
  const { kit, isolate, run } = await start();
  const gate = createAttemptGate(isolate.breakers, limits);
  const busy = { code: "ERR_API_RATE_LIMIT", details: { service: "lm_studio" }, fromSidecar: true } as const;
  for (let turn = 0; turn < 5; turn += 1) {
    const admission = await gate.admit();
    assert.ok(admission.admitted);
    gate.settle(admission.permit, failed({ ...busy, retryAfterMs: 100_000 }));
  }
  await run(0);
  const view = kit.core().read().reading.breakers.lm_studio_api;
  assert.deepEqual([view.state, view.retry_after_seconds], ["OPEN", 100]);
});

test("a probe's call has the probe's time, any other the request's", async () => {
  const { isolate, run } = await start();
  const reading = readConfig({ PIXEL_LLM_CIRCUIT_BREAKER_PROBE_TIMEOUT_SECONDS: "4" });
  assert.ok(reading.ok);
  const gate = createAttemptGate(isolate.breakers, limits);
  const limitOf = async (): Promise<number | null> => {
    const admission = await gate.admit();
    return admission.admitted ? probeLimitMs(admission.permit, reading.config) : assert.fail(admission.error.code);
  };
  assert.equal(await limitOf(), null);
  await isolate.breakers.act("lm_studio_api", { kind: "open", reason: null, forMs: 1000 }, "k");
  await run(1000);
  assert.equal(await limitOf(), 4000);
});

test("F29: a probe that hangs for its own time is LM Studio's failure, however short that is beside the request's", async () => {
  const { kit, isolate, run } = await start();
  await isolate.breakers.act("lm_studio_api", { kind: "open", reason: null, forMs: 1000 }, "k");
  await run(1000);
  const gate = createAttemptGate(isolate.breakers, limits);
  const admission = await gate.admit();
  assert.ok(admission.admitted);
  const details = { service: "lm_studio", stage: "first_token" };
  gate.settle(admission.permit, failed({ code: "ERR_TIMEOUT_REQUEST", details, fromSidecar: true, lmStudioMs: 4900 }));
  await run(0);
  const { state, counts } = kit.core().read().reading.breakers.lm_studio_api;
  assert.deepEqual([state, counts.failure], ["OPEN", 1]);
});
