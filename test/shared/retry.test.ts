import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { backoffMs, type BackoffLimits } from "../../shared/backoff.ts";
import { errorCodes, errorTable, PixelLLMError, type ErrorCode } from "../../shared/errors.ts";
import { lmStudioError, lmStudioKinds, type LmStudioKind } from "../../shared/lm-studio-kinds.ts";
import {
  decideRetry,
  smoothAttemptMs,
  suppressions,
  type RetryLimits,
  type RetryQuestion,
  type RetryVerdict,
} from "../../shared/retry.ts";

const backoff: BackoffLimits = { strategy: "fixed", initialMs: 1000, maxMs: 30_000, multiplier: 2, jitter: false };
const limits: RetryLimits = { maxAttempts: 3, backoff };
const refused = new PixelLLMError("ERR_CONN_REFUSED");

/** All five conditions hold. */
const fine: RetryQuestion = {
  callerGone: false,
  started: false,
  error: refused,
  attempts: 1,
  repeated: [],
  remainingMs: 20_000,
  smoothedMs: 100,
};

function decide(question: Partial<RetryQuestion> = {}, tokens = true, under: RetryLimits = limits): RetryVerdict {
  return decideRetry(
    { ...fine, ...question },
    under,
    () => 0,
    () => tokens,
  );
}

const yes = (delayMs: number): RetryVerdict => ({ retry: true, delayMs });
const no = (reason: (typeof suppressions)[number]): RetryVerdict => ({ retry: false, reason });
const after = (seconds: number): PixelLLMError =>
  new PixelLLMError("ERR_API_RATE_LIMIT", { retryAfterSeconds: seconds });

const rows: readonly [string, Partial<RetryQuestion>, RetryVerdict][] = [
  ["all conditions hold", {}, yes(1000)],
  ["the caller left", { callerGone: true }, no("caller")],
  ["a byte of the caption was sent", { started: true }, no("started")],
  ["the code is not retryable", { error: new PixelLLMError("ERR_VAL_EMPTY_INPUT") }, no("non_retryable")],
  ["the last call but one", { attempts: 2 }, yes(1000)],
  ["the last call", { attempts: 3 }, no("attempts")],
  ["exactly wait and least attempt left", { remainingMs: 1250 }, no("deadline")],
  ["a ms more", { remainingMs: 1251 }, yes(1000)],
  ["exactly wait and half a slow attempt left", { remainingMs: 3000, smoothedMs: 4000 }, no("deadline")],
  ["a ms more than that", { remainingMs: 3001, smoothedMs: 4000 }, yes(1000)],
  ["no attempt has a time yet", { remainingMs: 1251, smoothedMs: null }, yes(1000)],
  ["no time left", { remainingMs: 0 }, no("deadline")],
  ["Retry-After fits", { error: after(2), remainingMs: 2251 }, yes(2000)],
  ["Retry-After does not fit by a ms, our own delay would", { error: after(2), remainingMs: 2250 }, no("retry_after")],
  ["neither Retry-After nor our own delay fits", { error: after(2), remainingMs: 1250 }, no("deadline")],
  ["Retry-After above the cap is kept", { error: after(60), remainingMs: 90_000 }, yes(60_000)],
  ["Retry-After above the time left", { error: after(60) }, no("retry_after")],
];

for (const [what, question, expected] of rows) {
  test(`a retry when ${what}: ${expected.retry ? "yes" : `no, ${expected.reason}`}`, () => {
    assert.deepEqual(decide(question), expected);
  });
}

test("an empty budget is the last reason, and a full one is asked only when all else holds", () => {
  assert.deepEqual(decide({}, false), no("budget"));
  for (const [what, question, expected] of rows) {
    let asked = 0;
    const taking = (): boolean => {
      asked += 1;
      return true;
    };
    decideRetry({ ...fine, ...question }, limits, () => 0, taking);
    assert.equal(asked, expected.retry ? 1 : 0, what);
  }
});

test("of several reasons the first in the list is named", () => {
  const broken: readonly [(typeof suppressions)[number], Partial<RetryQuestion>][] = [
    ["caller", { callerGone: true }],
    ["started", { started: true }],
    ["non_retryable", { error: new PixelLLMError("ERR_ENC_LOAD_FAILED") }],
    ["veto", { error: lmStudioError("no_first_token") }],
    ["attempts", { attempts: 3 }],
    ["deadline", { remainingMs: 10 }],
    ["budget", {}],
  ];
  assert.deepEqual(
    suppressions.filter((reason) => reason !== "retry_after"),
    broken.map(([reason]) => reason),
  );
  for (const [at, [reason]] of broken.entries()) {
    // Later rows first, so that an error of an earlier row wins over one of a later row.
    const question = Object.assign(
      {},
      ...broken
        .slice(at)
        .map(([, each]) => each)
        .reverse(),
    ) as Partial<RetryQuestion>;
    assert.deepEqual(decide(question, false), no(reason));
  }
});

test("E29 exactly the codes that the table calls retryable are repeated", () => {
  for (const code of errorCodes) {
    const verdict = decide({ error: new PixelLLMError(code) });
    assert.deepEqual(verdict, errorTable[code].retryable ? yes(1000) : no("non_retryable"), code);
  }
});

/** Whether a failure is repeated after the first and after the second call. */
const kinds: Readonly<Record<LmStudioKind, readonly [boolean, boolean]>> = {
  refused: [true, true],
  unreachable: [true, true],
  connect_timeout: [true, true],
  no_first_token: [false, false],
  stalled: [true, true],
  out_of_time: [false, false],
  truncated: [true, true],
  malformed: [true, true],
  too_long: [false, false],
  empty: [true, false],
  reasoning_only: [true, false],
  untrue: [true, false],
  no_vision: [false, false],
  bad_image: [false, false],
  context_overflow: [false, false],
  bad_request: [false, false],
  template: [false, false],
  not_loaded: [true, true],
  load_failed: [false, false],
  crashed: [true, true],
  engine: [true, true],
  token_refused: [false, false],
  wrong_path: [false, false],
  throttled: [true, true],
  upstream_5xx: [true, true],
};

test("every kind of LM Studio's failures is repeated as often as its row allows", () => {
  const judged = Object.keys(lmStudioKinds).map((name) => {
    const kind = name as LmStudioKind;
    const error = lmStudioError(kind);
    const repeated: ErrorCode[] = ["ERR_CONN_REFUSED"];
    return [kind, [decide({ error }).retry, decide({ error, attempts: 2, repeated }).retry]];
  });
  assert.deepEqual(Object.fromEntries(judged), kinds);
});

test("F20 F21 F32 a load or a throttle is waited for by its Retry-After, and given up when that is too long", () => {
  for (const kind of ["not_loaded", "throttled"] as const) {
    assert.deepEqual(decide({ error: lmStudioError(kind, { retryAfterMs: 4000 }) }), yes(4000), kind);
    assert.deepEqual(decide({ error: lmStudioError(kind, { retryAfterMs: 40_000 }) }), no("retry_after"), kind);
    assert.deepEqual(decide({ error: lmStudioError(kind) }), yes(1000), kind);
  }
});

test("F22 a Retry-After of 0 or of the past is no floor: the normal delay applies", () => {
  assert.deepEqual(decide({ error: lmStudioError("throttled", { retryAfterMs: 0 }) }), yes(1000));
  const fast = { ...limits, backoff: { ...backoff, initialMs: 20 } };
  assert.deepEqual(decide({ error: lmStudioError("throttled", { retryAfterMs: 0 }) }, true, fast), yes(20));
});

const vetoes: readonly [string, PixelLLMError, RetryVerdict][] = [
  ["F42 our own queue is full", new PixelLLMError("ERR_API_OVERLOAD", { details: { kind: "queue" } }), no("veto")],
  ["F24 a login in front", new PixelLLMError("ERR_CONN_UNAVAILABLE", { details: { kind: "access" } }), no("veto")],
  ["time over at the first token", outOfTime("first_token"), no("veto")],
  ["time over while generating", outOfTime("generate"), no("veto")],
  ["time over while connecting to LM Studio", outOfTime("connect"), no("veto")],
  ["time over in the sidecar's queue, with time left here", outOfTime("queue"), yes(1000)],
  ["time over while decoding, with time left here", outOfTime("decode"), yes(1000)],
  ["a kind nobody knows", new PixelLLMError("ERR_API_OVERLOAD", { details: { kind: "toString" } }), yes(1000)],
];

function outOfTime(stage: string): PixelLLMError {
  return new PixelLLMError("ERR_TIMEOUT_REQUEST", { details: { stage } });
}

for (const [what, error, expected] of vetoes) {
  test(`a retry when ${what}: ${expected.retry ? "yes" : expected.reason}`, () => {
    assert.deepEqual(decide({ error }), expected);
  });
}

test("F37 F41 a picture that may have ended the encoder's process is tried once more, not twice", () => {
  const error = new PixelLLMError("ERR_ENC_FORWARD_FAILED", { details: { kind: "host_died" } });
  assert.deepEqual(decide({ error }), yes(1000));
  assert.deepEqual(decide({ error, attempts: 2, repeated: ["ERR_CONN_REFUSED"] }), yes(1000));
  assert.deepEqual(decide({ error, attempts: 2, repeated: ["ERR_ENC_FORWARD_FAILED"] }), no("veto"));
  const many = { ...limits, maxAttempts: 9 };
  const repeated: ErrorCode[] = ["ERR_ENC_FORWARD_FAILED", "ERR_CONN_REFUSED"];
  assert.deepEqual(decide({ error, attempts: 3, repeated }, true, many), no("veto"));
});

test("F40 useless vectors end no process, and are tried again like any failure that may pass", () => {
  const error = new PixelLLMError("ERR_ENC_FORWARD_FAILED");
  assert.deepEqual(decide({ error, attempts: 2, repeated: ["ERR_ENC_FORWARD_FAILED"] }), yes(1000));
});

test("the wait before call n + 2 is the n-th delay", () => {
  const growing: RetryLimits = { maxAttempts: 9, backoff: { ...backoff, strategy: "exponential", initialMs: 10 } };
  const waits = [1, 2, 3, 4].map((attempts) => decide({ attempts }, true, growing));
  assert.deepEqual(
    waits,
    [0, 1, 2, 3].map((n) => yes(backoffMs(n, growing.backoff))),
  );
  assert.deepEqual(waits, [10, 20, 40, 80].map(yes));
});

test("one attempt allowed is none repeated", () => {
  assert.deepEqual(decide({}, true, { ...limits, maxAttempts: 1 }), no("attempts"));
});

test("whatever the time left, a retry that is granted fits into it with room for an attempt", () => {
  const times = fc.double({ min: 0, max: 120_000, noNaN: true });
  const waits = fc.option(fc.integer({ min: 1, max: 100 }));
  const draws = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
  fc.assert(
    fc.property(times, fc.option(times), waits, draws, (remainingMs, smoothedMs, seconds, draw) => {
      const error = seconds === null ? refused : after(seconds);
      const jittered = { ...limits, backoff: { ...backoff, jitter: true } };
      const verdict = decideRetry(
        { ...fine, error, remainingMs, smoothedMs },
        jittered,
        () => draw,
        () => true,
      );
      if (!verdict.retry) return;
      assert.ok(verdict.delayMs >= (seconds ?? 0) * 1000);
      assert.ok(remainingMs > verdict.delayMs + Math.max(250, (smoothedMs ?? 0) / 2));
    }),
  );
});

test("the smoothed time starts at the first attempt and moves by an eighth", () => {
  assert.equal(smoothAttemptMs(null, 800), 800);
  assert.equal(smoothAttemptMs(800, 1600), 900);
  assert.equal(smoothAttemptMs(800, 0), 700);
});
