import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { runAttempts, type Attempted, type LoopResult, type RetryEvent } from "../../shared/attempt-loop.ts";
import { PixelLLMError, type ErrorCode, type ErrorExtras } from "../../shared/errors.ts";
import { lmStudioError } from "../../shared/lm-studio-kinds.ts";
import { freshRetryBudget, deposit, readTokens, takeToken } from "../../shared/retry-budget.ts";
import type { RetryLimits } from "../../shared/retry.ts";
import type { AttemptFacts } from "../../shared/samples.ts";

/** One attempt as scripted: how long it takes, and how it ends. */
type Play = { takes?: number } & (
  | { gives: string; collapsed?: boolean }
  | { fails: PixelLLMError }
  | { throws: unknown }
);

type Script = {
  plays: readonly Play[];
  limits?: Partial<RetryLimits["backoff"]> & { maxAttempts?: number };
  /** The gate's refusals by number of asking, from 1. */
  refusals?: Readonly<Record<number, PixelLLMError>>;
  /** Time an admission takes, in ms. */
  admitTakes?: number;
  /** Time of the whole request, in ms. */
  timeMs?: number;
  /** When the caller leaves, in ms; at that moment a sleep ends. */
  leavesAt?: number;
  tokens?: number;
  oversleepMs?: number;
  started?: boolean;
  observe?: (event: RetryEvent) => void;
  smooth?: (elapsedMs: number) => number;
};

type Run = {
  result: LoopResult<string, string>;
  /** What happened, in order. */
  story: string[];
  events: RetryEvent[];
  facts: AttemptFacts[];
  /** When each attempt began and ended. */
  times: [number, number][];
  sleeps: number[];
  deposits: number;
  tokensTaken: number;
  observerFailures: unknown[];
  now: number;
};

/** Runs one script against a clock that moves only by what the script says. */
async function run(script: Script): Promise<Run> {
  const { plays, timeMs = 30_000, leavesAt = Infinity, refusals = {} } = script;
  const { maxAttempts = 3, ...delays } = script.limits ?? {};
  const story: string[] = [];
  const events: RetryEvent[] = [];
  const facts: AttemptFacts[] = [];
  const times: [number, number][] = [];
  const sleeps: number[] = [];
  const observerFailures: unknown[] = [];
  const open = new Set<number>();
  let now = 0;
  let asked = 0;
  let deposits = 0;
  let tokensTaken = 0;
  let tokens = script.tokens ?? 10;

  const result = await runAttempts<string, string, number>(
    {
      async admit() {
        asked += 1;
        now += script.admitTakes ?? 0;
        const error = refusals[asked];
        story.push(error === undefined ? "admit" : "refuse");
        if (error !== undefined) return { admitted: false, error };
        open.add(asked);
        return { admitted: true, permit: asked };
      },
      settle(permit, each) {
        assert.ok(open.delete(permit), `permit ${permit} settled twice, or never given`);
        facts.push(each);
        story.push("settle");
      },
    },
    async (n, permit): Promise<Attempted<string, string>> => {
      assert.ok(open.has(permit), "an attempt without a permit");
      story.push(`call ${n}`);
      const play = plays[n - 1];
      if (play === undefined) throw new Error(`call ${n} is not in the script`);
      const startedAt = now;
      now += play.takes ?? 0;
      times.push([startedAt, now]);
      if ("throws" in play) throw play.throws;
      if ("gives" in play) return { ok: true, value: play.gives, collapsed: play.collapsed ?? false };
      return { ok: false, error: play.fails, failure: `failure ${n}`, fromSidecar: true, lmStudioMs: play.takes ?? 0 };
    },
    {
      maxAttempts,
      backoff: { strategy: "exponential", initialMs: 1000, maxMs: 30_000, multiplier: 2, jitter: false, ...delays },
    },
    {
      now: () => now,
      random: () => 0,
      async sleep(ms) {
        story.push(`sleep ${ms}`);
        sleeps.push(ms);
        now = now + ms >= leavesAt ? Math.max(now, leavesAt) : now + ms + (script.oversleepMs ?? 0);
      },
      callerGone: () => now >= leavesAt,
      remainingMs: () => Math.max(0, timeMs - now),
      takeToken() {
        if (tokens < 1) return false;
        tokens -= 1;
        tokensTaken += 1;
        return true;
      },
      deposit: () => void (deposits += 1),
      observe(event) {
        events.push(event);
        script.observe?.(event);
      },
      observerFailed: (thrown) => void observerFailures.push(thrown),
      ...(script.started === undefined ? {} : { started: () => script.started === true }),
      ...(script.smooth === undefined ? {} : { smooth: script.smooth }),
    },
  );
  assert.deepEqual([...open], [], "every permit is settled");
  return { result, story, events, facts, times, sleeps, deposits, tokensTaken, observerFailures, now };
}

const failing = (code: ErrorCode, takes = 0, extras: ErrorExtras = {}): Play => ({
  takes,
  fails: new PixelLLMError(code, extras),
});
const refusing = failing("ERR_CONN_REFUSED", 5);
const well: Play = { takes: 100, gives: "A lighthouse." };
const open = new PixelLLMError("ERR_CB_OPEN", { details: { failure_count: 5 }, retryAfterSeconds: 41 });

/** What the caller is told, in short. */
function told({ result }: Run): unknown {
  if (result.ok) return result;
  const { error, attempts, repeat } = result;
  return { code: error.code, attempts, repeat, retryAfter: error.retryAfterSeconds, details: error.details };
}

const cause = (code: ErrorCode): unknown => {
  const { category, severity, retryable } = new PixelLLMError(code);
  return { code, category, severity, retryable };
};

test("R8 a success is one call: no wait, no token, one deposit", async () => {
  const { result, story, deposits, tokensTaken } = await run({ plays: [well] });
  assert.deepEqual(result, { ok: true, value: "A lighthouse.", attempts: 1, collapsed: false });
  assert.deepEqual([story, deposits, tokensTaken], [["admit", "call 1", "settle"], 1, 0]);
});

test("R9 I5 one failure, then success: exactly two calls, the gate asked before each, one wait between", async () => {
  const { result, story, deposits, tokensTaken } = await run({ plays: [refusing, well] });
  assert.deepEqual(result, { ok: true, value: "A lighthouse.", attempts: 2, collapsed: false });
  assert.deepEqual(story, ["admit", "call 1", "settle", "sleep 1000", "admit", "call 2", "settle"]);
  assert.deepEqual([deposits, tokensTaken], [1, 1]);
});

test("R10 B1 calls used up: three calls, two waits, none after the last, and the last failure as the cause", async () => {
  const last = new PixelLLMError("ERR_CONN_REFUSED", { retryAfterSeconds: 7 });
  const ended = await run({ plays: [refusing, refusing, { takes: 5, fails: last }] });
  assert.deepEqual(ended.story, [
    "admit",
    "call 1",
    "settle",
    "sleep 1000",
    "admit",
    "call 2",
    "settle",
    "sleep 2000",
    "admit",
    "call 3",
    "settle",
  ]);
  assert.deepEqual(told(ended), {
    code: "ERR_RETRY_EXHAUSTED",
    attempts: 3,
    repeat: false,
    retryAfter: 7,
    details: { attempts: 3, stopped_by: "attempts", last_cause: cause("ERR_CONN_REFUSED") },
  });
  assert.ok(!ended.result.ok && ended.result.error.cause === last && ended.result.failure === "failure 3");
  assert.deepEqual([ended.deposits, ended.tokensTaken], [0, 2]);
});

test("E16 the contract's own example: last cause with code, category, severity and retryability", async () => {
  const { result } = await run({ plays: [refusing, refusing, refusing] });
  assert.deepEqual(!result.ok && result.error.details, {
    attempts: 3,
    stopped_by: "attempts",
    last_cause: { code: "ERR_CONN_REFUSED", category: "connection", severity: "MEDIUM", retryable: true },
  });
});

test("the last cause is that of the last call, not of the first", async () => {
  const { result } = await run({ plays: [failing("ERR_API_OVERLOAD"), refusing], limits: { maxAttempts: 2 } });
  assert.deepEqual(!result.ok && result.error.details["last_cause"], cause("ERR_CONN_REFUSED"));
});

const once = { attempts: 1, retryAfter: null };

test("I6 one call allowed: the failure itself, the same object, and a repeat of the caller's own is fair", async () => {
  const ended = await run({ plays: [refusing], limits: { maxAttempts: 1 } });
  assert.deepEqual(told(ended), { ...once, code: "ERR_CONN_REFUSED", repeat: true, details: {} });
  assert.ok(!ended.result.ok && "fails" in refusing && ended.result.error === refusing.fails);
  assert.deepEqual(ended.story, ["admit", "call 1", "settle"]);
});

test("a failure that may not be repeated is told as it is, and not to be repeated", async () => {
  const ended = await run({ plays: [failing("ERR_API_UNAUTHORIZED", 0, { status: 502 })] });
  assert.deepEqual(told(ended), { ...once, code: "ERR_API_UNAUTHORIZED", repeat: false, details: {} });
  assert.equal(!ended.result.ok && ended.result.error.status, 502);
});

test("a vetoed failure is told as it is, with its Retry-After, and the caller is not sent to multiply it", async () => {
  const details = { kind: "queue" };
  const ended = await run({ plays: [failing("ERR_API_OVERLOAD", 0, { details, retryAfterSeconds: 3 })] });
  assert.deepEqual(told(ended), { attempts: 1, retryAfter: 3, code: "ERR_API_OVERLOAD", repeat: false, details });
  assert.deepEqual(ended.sleeps, []);
});

test("F15 an empty answer is repeated once, then told as it is: an empty answer is never a silent next try", async () => {
  const empty: Play = { fails: lmStudioError("empty", { hint: "Nothing came." }) };
  const ended = await run({ plays: [empty, empty, well] });
  assert.deepEqual(told(ended), {
    code: "ERR_API_INVALID_RESPONSE",
    attempts: 2,
    repeat: false,
    retryAfter: null,
    details: {
      kind: "empty",
      service: "lm_studio",
      attempts: 2,
      stopped_by: "veto",
      last_cause: cause("ERR_API_INVALID_RESPONSE"),
    },
  });
  assert.equal(!ended.result.ok && ended.result.error.message, "Invalid API response. Nothing came.");
  assert.deepEqual(ended.sleeps, [1000]);
});

test("F58 an empty budget ends the loop after the first call, and says so", async () => {
  const ended = await run({ plays: [failing("ERR_API_OVERLOAD", 5, { retryAfterSeconds: 2 })], tokens: 0 });
  assert.deepEqual(told(ended), {
    code: "ERR_RETRY_EXHAUSTED",
    attempts: 1,
    repeat: false,
    retryAfter: 2,
    details: { attempts: 1, stopped_by: "budget", last_cause: cause("ERR_API_OVERLOAD") },
  });
  assert.deepEqual(ended.story, ["admit", "call 1", "settle"]);
});

test("F58 the budget may end it later too: every retry costs one token", async () => {
  const ended = await run({ plays: [refusing, refusing], limits: { maxAttempts: 9 }, tokens: 1 });
  assert.deepEqual([ended.times.length, ended.tokensTaken, ended.deposits], [2, 1, 0]);
  assert.ok(!ended.result.ok && ended.result.error.details["stopped_by"] === "budget");
});

test("too little time for another call: the last failure with its Retry-After, no wait", async () => {
  const ended = await run({ plays: [failing("ERR_API_OVERLOAD", 100, { retryAfterSeconds: 60 })] });
  const code = "ERR_API_OVERLOAD";
  assert.deepEqual(told(ended), { code, attempts: 1, repeat: true, retryAfter: 60, details: {} });
  assert.deepEqual(ended.sleeps, []);
});

const edges: readonly [string, number, number][] = [
  ["wait and least attempt fit exactly: no second call", 1255, 1],
  ["a ms more: a second call", 1256, 2],
];

for (const [what, timeMs, calls] of edges) {
  test(`deadline: ${what}`, async () => {
    assert.equal((await run({ plays: [refusing, well], timeMs })).times.length, calls);
  });
}

test("deadline: a failure after two calls with too little time is told as it is, with the count", async () => {
  const ended = await run({ plays: [refusing, refusing], timeMs: 2000 });
  assert.deepEqual(told(ended), {
    code: "ERR_CONN_REFUSED",
    attempts: 2,
    repeat: false,
    retryAfter: null,
    details: { attempts: 2, stopped_by: "deadline", last_cause: cause("ERR_CONN_REFUSED") },
  });
});

test("deadline: a call that takes long of late leaves no room for another", async () => {
  const slow = failing("ERR_TIMEOUT_IDLE", 8000);
  assert.equal((await run({ plays: [slow, well], timeMs: 13_001 })).times.length, 2);
  assert.equal((await run({ plays: [slow, well], timeMs: 13_000 })).times.length, 1);
});

test("deadline: what the host remembers of all attempts decides, not this loop's own", async () => {
  const seen: number[] = [];
  const smooth = (elapsedMs: number): number => {
    seen.push(elapsedMs);
    return 60_000;
  };
  const { times } = await run({ plays: [refusing, well], timeMs: 30_000, smooth });
  assert.deepEqual([times.length, seen], [1, [5]]);
});

for (const maxAttempts of [2, 1]) {
  test(`deadline: it passed during the ${maxAttempts === 2 ? "second" : "only"} call`, async () => {
    const late = failing("ERR_CONN_UNAVAILABLE", 30_000);
    const plays = maxAttempts === 2 ? [refusing, late] : [late];
    const ended = await run({ plays, limits: { maxAttempts } });
    // Where one call is all there is, its failure is the answer.
    const code = maxAttempts === 2 ? "ERR_TIMEOUT_REQUEST" : "ERR_CONN_UNAVAILABLE";
    const summary = { attempts: 2, stopped_by: "deadline", last_cause: cause("ERR_CONN_UNAVAILABLE") };
    const details = maxAttempts === 2 ? summary : {};
    assert.deepEqual(told(ended), {
      code,
      attempts: maxAttempts,
      repeat: maxAttempts === 1,
      retryAfter: null,
      details,
    });
  });
}

test("deadline: it passed during the first of several calls: 504, the failure as its cause, no second call", async () => {
  const ended = await run({ plays: [failing("ERR_CONN_UNAVAILABLE", 30_000)] });
  assert.deepEqual(told(ended), { ...once, code: "ERR_TIMEOUT_REQUEST", repeat: true, details: {} });
  assert.ok(!ended.result.ok && ended.result.error.status === 504);
  assert.ok(
    ended.result.error.cause instanceof PixelLLMError && ended.result.error.cause.code === "ERR_CONN_UNAVAILABLE",
  );
});

test("deadline: the failure that names the stage which took the time is kept", async () => {
  const details = { stage: "decode", timeout_seconds: 30 };
  const ended = await run({ plays: [failing("ERR_TIMEOUT_REQUEST", 30_000, { details })] });
  assert.deepEqual(told(ended), { ...once, code: "ERR_TIMEOUT_REQUEST", repeat: true, details });
});

test("deadline: a success at the last moment is a success", async () => {
  assert.equal((await run({ plays: [{ takes: 30_000, gives: "Late." }] })).result.ok, true);
});

test("B3 deadline: none left at the start is no call, and not even a question to the gate", async () => {
  const ended = await run({ plays: [well], timeMs: 0 });
  assert.deepEqual(told(ended), {
    code: "ERR_TIMEOUT_REQUEST",
    attempts: 0,
    repeat: true,
    retryAfter: null,
    details: {},
  });
  assert.deepEqual(ended.story, []);
});

test("B3 deadline: a wait that took too long is not followed by a call", async () => {
  const ended = await run({ plays: [refusing, well], oversleepMs: 40_000 });
  assert.deepEqual(ended.story, ["admit", "call 1", "settle", "sleep 1000"]);
  assert.equal(!ended.result.ok && ended.result.error.code, "ERR_CONN_REFUSED");
});

test("B3 deadline: it passed while the gate was asked: the permit goes back as never begun", async () => {
  const ended = await run({ plays: [well], admitTakes: 250, timeMs: 250 });
  assert.deepEqual(ended.story, ["admit", "settle"]);
  assert.ok(!ended.result.ok && ended.result.error.code === "ERR_TIMEOUT_REQUEST");
  const [facts] = ended.facts;
  assert.ok(facts?.ok === false && facts.unbegun === true && !facts.callerGone);
});

test("B4 I8 a breaker that refuses the first call: its own error, no call, no token, no wait", async () => {
  const ended = await run({ plays: [well], refusals: { 1: open } });
  assert.deepEqual(ended.story, ["refuse"]);
  assert.deepEqual(told(ended), {
    code: "ERR_CB_OPEN",
    attempts: 0,
    repeat: false,
    retryAfter: 41,
    details: { failure_count: 5 },
  });
  assert.ok(!ended.result.ok && ended.result.refused && ended.result.error === open && ended.result.failure === null);
});

test("B4 I7 a breaker that opens between two calls ends the loop, and what the last call saw is kept", async () => {
  const ended = await run({ plays: [refusing], refusals: { 2: open } });
  assert.deepEqual(ended.story, ["admit", "call 1", "settle", "sleep 1000", "refuse"]);
  assert.deepEqual(told(ended), {
    code: "ERR_CB_OPEN",
    attempts: 1,
    repeat: false,
    retryAfter: 41,
    details: { failure_count: 5, attempts: 1, stopped_by: "breaker", last_cause: cause("ERR_CONN_REFUSED") },
  });
  assert.ok(!ended.result.ok && ended.result.refused && ended.result.failure === "failure 1");
  assert.ok("fails" in refusing && ended.result.error.cause === refusing.fails);
});

test("I7 threshold 3, five requests of two calls: exactly three calls, then the gate refuses all", async () => {
  let failures = 0;
  let calls = 0;
  for (let request = 0; request < 5; request += 1) {
    await runAttempts<string, null, null>(
      {
        admit: async () => (failures >= 3 ? { admitted: false, error: open } : { admitted: true, permit: null }),
        settle: (_, facts) => void (failures += facts.ok ? 0 : 1),
      },
      async () => {
        calls += 1;
        const error = new PixelLLMError("ERR_CONN_REFUSED");
        return { ok: false, error, failure: null, fromSidecar: true, lmStudioMs: 0 };
      },
      { maxAttempts: 2, backoff: { strategy: "immediate", initialMs: 0, maxMs: 0, multiplier: 1, jitter: false } },
      {
        now: () => 0,
        random: () => 0,
        sleep: async () => undefined,
        callerGone: () => false,
        remainingMs: () => 30_000,
        takeToken: () => true,
        deposit: () => undefined,
        observe: () => undefined,
      },
    );
  }
  assert.equal(calls, 3);
});

const departures: readonly [string, number, string[]][] = [
  ["before the first call", 0, []],
  ["during the first call", 50, ["admit", "call 1", "settle"]],
  ["exactly at its end", 100, ["admit", "call 1", "settle"]],
  ["in the wait", 700, ["admit", "call 1", "settle", "sleep 1000"]],
  ["in the second call", 1150, ["admit", "call 1", "settle", "sleep 1000", "admit", "call 2", "settle"]],
];

for (const [when, leavesAt, expected] of departures) {
  test(`B3 F47 a caller who leaves ${when}: nothing further, nothing counted`, async () => {
    const slow = failing("ERR_CONN_REFUSED", 100);
    const { story, result, events, now } = await run({ plays: [slow, slow, slow], leavesAt });
    assert.deepEqual(story, expected);
    assert.ok(!result.ok && result.cancelled && !result.repeat);
    assert.ok(!events.some(({ type }) => type === "ended"));
    assert.ok(now <= leavesAt + 100);
  });
}

test("B3 G12 a caller who leaves in the wait ends it at once, not at its end", async () => {
  assert.equal((await run({ plays: [refusing, well], leavesAt: 20 })).now, 20);
});

test("F30 an attempt whose caller left is settled as such, whatever it ended with", async () => {
  for (const play of [failing("ERR_CONN_REFUSED", 100), { takes: 100, throws: new Error("aborted") }]) {
    const { facts } = await run({ plays: [play], leavesAt: 50 });
    assert.deepEqual(
      facts.map((each) => each.ok || each.callerGone),
      [true],
    );
  }
});

test("F30 a caller who leaves while the gate is asked: the permit goes back in the same turn, without a call", async () => {
  const { story, facts } = await run({ plays: [well], admitTakes: 250, leavesAt: 100 });
  assert.deepEqual(story, ["admit", "settle"]);
  assert.deepEqual(
    facts.map((each) => each.ok || each.callerGone),
    [true],
  );
});

test("a success is a success although its caller has just left", async () => {
  assert.equal((await run({ plays: [well], leavesAt: 50 })).result.ok, true);
});

test("nothing is called again once a byte of the caption was sent", async () => {
  const ended = await run({ plays: [refusing, well], started: true });
  assert.deepEqual([ended.times.length, ended.sleeps], [1, []]);
  assert.equal(!ended.result.ok && ended.result.error.code, "ERR_CONN_REFUSED");
});

test("B1 an attempt that throws has failed with ERR_INTERNAL: permit settled once, thrown value kept, no retry", async () => {
  const bug = new TypeError("not a function");
  const { result, story, facts } = await run({ plays: [{ throws: bug }, well] });
  assert.deepEqual(story, ["admit", "call 1", "settle"]);
  assert.ok(
    !result.ok && result.error.code === "ERR_INTERNAL" && result.error.cause === bug && result.failure === null,
  );
  assert.deepEqual(facts, [
    {
      ok: false,
      code: "ERR_INTERNAL",
      details: {},
      fromSidecar: false,
      callerGone: false,
      lmStudioMs: 0,
      retryAfterMs: null,
    },
  ]);
});

test("B1 an error of ours that is thrown keeps its code, and is repeated like any other", async () => {
  const { result } = await run({ plays: [{ throws: new PixelLLMError("ERR_CONN_TIMEOUT") }, well] });
  assert.ok(result.ok && result.attempts === 2);
});

test("the facts of every attempt reach the gate as they were: attempts are sampled, not requests", async () => {
  const error = { details: { service: "lm_studio", kind: "refused" } };
  const { facts } = await run({
    plays: [
      failing("ERR_CONN_REFUSED", 7, { ...error, retryAfterSeconds: 2 }),
      { takes: 300, gives: "A cat.", collapsed: true },
    ],
  });
  assert.deepEqual(facts, [
    {
      ok: false,
      code: "ERR_CONN_REFUSED",
      ...error,
      fromSidecar: true,
      callerGone: false,
      lmStudioMs: 7,
      retryAfterMs: 2000,
    },
    { ok: true, elapsedMs: 300, collapsed: true },
  ]);
});

test("a shared answer is told to be one", async () => {
  const { result } = await run({ plays: [{ gives: "A cat.", collapsed: true }] });
  assert.ok(result.ok && result.collapsed);
});

test("F21 the gap after a Retry-After is never shorter than it says, whatever our own delays and the cap", async () => {
  const throttled = failing("ERR_API_RATE_LIMIT", 10, { status: 503, retryAfterSeconds: 2 });
  for (const delays of [{ initialMs: 10 }, { strategy: "immediate" }, { maxMs: 50 }, { initialMs: 5000 }] as const) {
    const { times } = await run({ plays: [throttled, throttled, well], limits: { ...delays, jitter: true } });
    const gaps = times.slice(1).map(([begun], at) => begun - (times[at]?.[1] ?? 0));
    assert.equal(gaps.length, 2);
    for (const gap of gaps) assert.ok(gap >= 2000, `${gap} ms`);
  }
});

test("what happened is told once each, in order, with the sum of the waits", async () => {
  const { events } = await run({ plays: [refusing, failing("ERR_API_OVERLOAD", 20), well] });
  assert.deepEqual(
    events.map((event) => ("error" in event ? Object.assign(event, { error: event.error?.code ?? null }) : event)),
    [
      { type: "attempt", attempt: 1, elapsedMs: 5, error: "ERR_CONN_REFUSED", after: null },
      { type: "retry", attempt: 1, code: "ERR_CONN_REFUSED", delayMs: 1000 },
      { type: "attempt", attempt: 2, elapsedMs: 20, error: "ERR_API_OVERLOAD", after: "ERR_CONN_REFUSED" },
      { type: "retry", attempt: 2, code: "ERR_API_OVERLOAD", delayMs: 2000 },
      { type: "attempt", attempt: 3, elapsedMs: 100, error: null, after: "ERR_API_OVERLOAD" },
      { type: "ended", ok: true, attempts: 3, waitedMs: 3000 },
    ],
  );
});

const suppressed: readonly [string, Script, string][] = [
  ["calls used up", { plays: [refusing], limits: { maxAttempts: 1 } }, "attempts"],
  ["a caller who left in the wait", { plays: [refusing], leavesAt: 500 }, "caller"],
  ["a wait that took too long", { plays: [refusing], oversleepMs: 40_000 }, "deadline"],
  [
    "a Retry-After that is too long",
    { plays: [failing("ERR_API_OVERLOAD", 0, { retryAfterSeconds: 99 })] },
    "retry_after",
  ],
  ["an empty budget", { plays: [refusing], tokens: 0 }, "budget"],
];

for (const [what, script, reason] of suppressed) {
  test(`no further call is told once with its reason: ${what}`, async () => {
    const { events } = await run(script);
    const reasons = events.flatMap((event) => (event.type === "suppressed" ? [event.reason] : []));
    assert.deepEqual(reasons, [reason]);
  });
}

test("F59 B13 a listener that throws changes nothing and is counted", async () => {
  const script: Script = { plays: [refusing, refusing, well] };
  const quiet = await run(script);
  const loud = await run({
    ...script,
    observe: () => {
      throw new Error("a broken counter");
    },
  });
  assert.deepEqual([loud.result, loud.story, loud.facts], [quiet.result, quiet.story, quiet.facts]);
  assert.equal(loud.observerFailures.length, quiet.events.length);
});

const codes = ["ERR_CONN_REFUSED", "ERR_API_OVERLOAD", "ERR_INTERNAL", "ERR_VAL_INVALID_RANGE"] as const;
const plays = fc.oneof(
  fc.record({ takes: fc.nat(9000), gives: fc.constant("A cat.") }),
  fc.record({ takes: fc.nat(9000), fails: fc.constantFrom(...codes).map((code) => new PixelLLMError(code)) }),
  fc.record({ takes: fc.nat(9000), throws: fc.constant(new Error("thrown")) }),
);

test("whatever happens: calls within the limit, every permit settled once, none begun late, tokens = waits", async () => {
  const scripts = fc.record({
    plays: fc.array(plays, { minLength: 8, maxLength: 8 }),
    limits: fc.record({ maxAttempts: fc.integer({ min: 1, max: 8 }), initialMs: fc.nat(4000), jitter: fc.boolean() }),
    refusals: fc.dictionary(fc.constantFrom("1", "2", "3", "4"), fc.constant(open), { maxKeys: 1 }),
    timeMs: fc.nat(60_000),
    leavesAt: fc.oneof(fc.nat(60_000), fc.constant(Number.MAX_SAFE_INTEGER)),
    tokens: fc.nat(10),
    admitTakes: fc.nat(300),
  });
  await fc.assert(
    fc.asyncProperty(scripts, async (script) => {
      const { result, facts, times, sleeps, tokensTaken, deposits } = await run(script);
      assert.ok(times.length <= script.limits.maxAttempts);
      assert.equal(result.attempts, times.length);
      assert.ok(facts.length >= times.length);
      assert.ok(times.every(([begun]) => begun < script.timeMs && begun < script.leavesAt));
      assert.deepEqual([tokensTaken, deposits], [sleeps.length, result.ok ? 1 : 0]);
      assert.ok(sleeps.length <= script.limits.maxAttempts - 1);
    }),
  );
});

test("amplification: with the real budget a full outage costs ten retries, and what the trickle pays", async () => {
  let budget = freshRetryBudget(0);
  let now = 0;
  let calls = 0;
  for (let request = 0; request < 1000; request += 1) {
    now += 60;
    await runAttempts<string, null, null>(
      { admit: async () => ({ admitted: true, permit: null }), settle: () => undefined },
      async () => {
        calls += 1;
        const error = new PixelLLMError("ERR_CONN_REFUSED");
        return { ok: false, error, failure: null, fromSidecar: true, lmStudioMs: 0 };
      },
      { maxAttempts: 3, backoff: { strategy: "immediate", initialMs: 0, maxMs: 0, multiplier: 1, jitter: false } },
      {
        now: () => now,
        random: () => 0,
        sleep: async () => undefined,
        callerGone: () => false,
        remainingMs: () => 30_000,
        takeToken() {
          const step = takeToken(budget, now);
          budget = step.next;
          return step.taken;
        },
        deposit: () => void (budget = deposit(budget, now).next),
        observe: () => undefined,
      },
    );
  }
  assert.ok(Math.abs(calls - (1000 + 10 + 6)) <= 1, `${calls} calls`);
  assert.ok(readTokens(budget, now) < 1);
});
