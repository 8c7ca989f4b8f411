import assert from "node:assert/strict";
import { test } from "node:test";
import { answerCircuitBreakerAct, answerCircuitBreakers, type BreakerScope } from "../../edge/circuit-breakers.ts";
import { createVirtualTime } from "../../scripts/simulation/virtual-time.ts";
import { readConfig } from "../../shared/config.ts";
import { isPixelLLMError } from "../../shared/errors.ts";
import { startAuthorityKit, startIsolateKit, wallStartMs, type AuthorityKit } from "../kit/authority.ts";

const key = "key-of-the-owner";
const url = "http://localhost/v1/circuit-breakers";

type Kit = { kit: AuthorityKit; lines: string[]; scope: BreakerScope };

function start(bound = true): Kit {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  const lines: string[] = [];
  const reading = readConfig({ PIXEL_LLM_API_KEYS: `${key},another-key` });
  assert.ok(reading.ok);
  const signal = new AbortController().signal;
  const scope: BreakerScope = {
    config: reading.config,
    log: (level, message, fields) => void lines.push(JSON.stringify({ level, message, ...fields })),
    breakers: startIsolateKit(time, bound ? kit.port : null).breakers,
    deadline: { signal, remainingMs: () => 1000, stop: () => undefined },
    caller: signal,
  };
  return { kit, lines, scope };
}

const request = (body: string | null = null, authorization = `Bearer ${key}`): Request =>
  new Request(url, {
    method: body === null ? "GET" : "POST",
    headers: { authorization },
    ...(body === null ? {} : { body }),
  });

const act = async ({ scope }: Kit, name: string, deed: string, body = ""): Promise<Record<string, unknown>> => {
  const answer = await answerCircuitBreakerAct(request(body), scope, { name, act: deed });
  assert.equal(answer.status, 200);
  return (await answer.json()) as Record<string, unknown>;
};

async function refusal(work: Promise<unknown>): Promise<[string, number, string | null]> {
  try {
    await work;
  } catch (error) {
    if (isPixelLLMError(error)) return [error.code, error.status, error.param];
    throw error;
  }
  return assert.fail("not refused");
}

test("the list names both breakers with their state, failures and rest, and the last changes", async () => {
  const kit = start();
  await act(kit, "lm_studio_api", "open", JSON.stringify({ reason: "update", for_seconds: 41 }));
  const answer = await answerCircuitBreakers(request(), kit.scope);
  const { object, data, events } = (await answer.json()) as Record<"object", string> &
    Record<"data" | "events", Record<string, unknown>[]>;
  assert.equal(object, "list");
  const facts = data.map(({ name, state, failure_count: failures, retry_after_seconds: rest, scope }) => [
    name,
    state,
    failures,
    rest,
    scope,
  ]);
  assert.deepEqual(facts, [
    ["sidecar", "CLOSED", 0, null, "upstream"],
    ["lm_studio_api", "OPEN", 0, 41, "upstream"],
  ]);
  const [event] = events;
  assert.deepEqual(
    [events.length, event?.["name"], event?.["event"], event?.["to"], event?.["reason"], event?.["at"]],
    [1, "lm_studio_api", "transition", "open", "manual", new Date(wallStartMs).toISOString()],
  );
});

test("an act answers the new state, keeps reason and key id, and the key itself is nowhere", async () => {
  const kit = start();
  const { manual, ...entry } = await act(kit, "sidecar", "open", JSON.stringify({ reason: "cables" }));
  const { reason, key_id: keyId } = manual as Record<string, string>;
  assert.deepEqual(
    [entry["name"], entry["state"], entry["retry_after_seconds"], reason],
    ["sidecar", "OPEN", null, "cables"],
  );
  assert.match(keyId ?? "", /^[0-9a-f]{16}$/);
  assert.ok(kit.lines.some((line) => line.includes("breaker act") && line.includes(keyId ?? "")));
  assert.ok(![...kit.lines, String(kit.kit.saved)].some((line) => line.includes(key)));
});

test("every act works from every state", async () => {
  const kit = start();
  for (const first of ["open", "close", "reset"]) {
    for (const [deed, state] of [
      ["open", "OPEN"],
      ["close", "CLOSED"],
      ["reset", "CLOSED"],
    ] as const) {
      await act(kit, "sidecar", first);
      assert.equal((await act(kit, "sidecar", deed))["state"], state, `${first}, ${deed}`);
    }
  }
});

test("without an object the act falls on this isolate's copy and the answer says so", async () => {
  const kit = start(false);
  const entry = await act(kit, "sidecar", "open", JSON.stringify({ for_seconds: 5 }));
  assert.deepEqual([entry["state"], entry["scope"]], ["OPEN", "isolate"]);
  const list = (await (await answerCircuitBreakers(request(), kit.scope)).json()) as { data: { scope: string }[] };
  assert.deepEqual(
    list.data.map(({ scope }) => scope),
    ["isolate", "isolate"],
  );
});

test("nobody without a key sees or changes anything, and no body of his is read", async () => {
  const kit = start();
  const foreign = request("x".repeat(9999), "Bearer wrong");
  const acting = answerCircuitBreakerAct(foreign, kit.scope, { name: "sidecar", act: "open" });
  assert.deepEqual(await refusal(acting), ["ERR_API_UNAUTHORIZED", 401, null]);
  assert.equal(foreign.bodyUsed, false);
  assert.deepEqual(await refusal(answerCircuitBreakers(request(null, ""), kit.scope)), [
    "ERR_API_UNAUTHORIZED",
    401,
    null,
  ]);
  assert.deepEqual(kit.kit.calls, []);
});

for (const [what, name, deed, body, expected] of [
  ["an unknown breaker", "gpu", "open", "", ["ERR_NOT_FOUND", 404, null]],
  ["a name of every object's", "constructor", "open", "", ["ERR_NOT_FOUND", 404, null]],
  ["an unknown act", "sidecar", "toggle", "", ["ERR_NOT_FOUND", 404, null]],
  ["no JSON", "sidecar", "open", "{", ["ERR_VAL_INVALID_RANGE", 400, null]],
  ["a list", "sidecar", "open", "[]", ["ERR_VAL_INVALID_RANGE", 400, null]],
  ["an unknown key", "sidecar", "open", '{"seconds":5}', ["ERR_VAL_INVALID_RANGE", 400, null]],
  ["no time at all", "sidecar", "open", '{"for_seconds":0}', ["ERR_VAL_INVALID_RANGE", 400, "for_seconds"]],
  ["more than a week", "sidecar", "open", '{"for_seconds":604801}', ["ERR_VAL_INVALID_RANGE", 400, "for_seconds"]],
  ["a time in words", "sidecar", "open", '{"for_seconds":"5"}', ["ERR_VAL_INVALID_RANGE", 400, "for_seconds"]],
  ["an empty reason", "sidecar", "open", '{"reason":" "}', ["ERR_VAL_INVALID_RANGE", 400, "reason"]],
  [
    "a reason of 201 characters",
    "sidecar",
    "open",
    `{"reason":"${"x".repeat(201)}"}`,
    ["ERR_VAL_INVALID_RANGE", 400, "reason"],
  ],
  ["4,097 bytes", "sidecar", "open", " ".repeat(4097), ["ERR_VAL_INVALID_RANGE", 413, null]],
] as const) {
  test(`an act with ${what} is refused and changes nothing`, async () => {
    const kit = start();
    const acting = answerCircuitBreakerAct(request(body), kit.scope, { name, act: deed });
    assert.deepEqual(await refusal(acting), expected);
    assert.deepEqual(kit.kit.calls, []);
  });
}
