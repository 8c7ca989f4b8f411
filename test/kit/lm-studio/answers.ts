import type { Place, PlainMode, ReplyMode, StreamMode, Tokens } from "./modes.ts";

/** One step of an answer: bytes to send, then a place reached. */
export type Step = { readonly bytes: string | Uint8Array; readonly at: Place };

/** An answer's status, headers and body steps; `chunked` bodies have no announced length. */
export type Answer = {
  readonly status: number;
  readonly headers: readonly (readonly [string, string])[];
  readonly length: number | null;
  readonly steps: Iterable<Step>;
};

/** What the request asked for, as far as an answer repeats it. */
export type Asked = { readonly model: string; readonly usage: boolean };

const defaultTokens: readonly string[] = ["A ", "lighthouse ", "on ", "a ", "cliff."];
const usage = { prompt_tokens: 24, completion_tokens: 5, total_tokens: 29 };
const ours = { "X-Powered-By": "Express" };

/** Server-sent events as LM Studio sends them. */
export function streamAnswer(mode: StreamMode, asked: Asked): Answer {
  const head = { ...ours, "Content-Type": "text/event-stream", "Cache-Control": "no-cache", Connection: "keep-alive" };
  return {
    status: 200,
    headers: [...Object.entries(head), ...(mode.headers ?? [])],
    length: null,
    steps: streamSteps(mode, asked),
  };
}

function* streamSteps(mode: StreamMode, asked: Asked): Generator<Step> {
  const line = mode.newline ?? "\n";
  const model = mode.model ?? asked.model;
  const event = (data: string, name?: string): string =>
    `${name === undefined ? "" : `event: ${name}${line}`}data: ${data}${line}${line}`;
  const chunk = (delta: object, finish: string | null): string => {
    const choices = mode.choices === "empty" ? [] : [{ index: 0, delta, logprobs: null, finish_reason: finish }];
    return event(
      JSON.stringify({
        id: "chatcmpl-1",
        object: "chat.completion.chunk",
        created: 1_790_000_000,
        model,
        ...(mode.choices === "absent" ? {} : { choices }),
      }),
    );
  };
  if (mode.raw !== undefined) {
    yield { bytes: mode.raw, at: "done" };
    return;
  }
  const role = mode.roleEveryChunk === true ? { role: "assistant" } : {};
  const calls = mode.emptyToolCalls === true ? { tool_calls: [] } : {};
  const note = mode.comments === true ? `: still here${line}${line}` : "";
  yield { bytes: note + chunk({ role: "assistant", content: "" }, null), at: "role" };
  for (const thought of mode.reasoning ?? []) {
    yield { bytes: note + chunk({ ...role, [mode.reasoningKey ?? "reasoning_content"]: thought }, null), at: "role" };
  }
  let sent = 0;
  for (const token of tokensOf(mode.tokens ?? defaultTokens)) {
    if (mode.failAfter?.tokens === sent) break;
    sent += 1;
    yield { bytes: note + chunk({ ...role, ...calls, content: token }, null), at: { tokens: sent } };
  }
  if (mode.failAfter !== undefined) {
    yield { bytes: event(mode.failAfter.payload, mode.failAfter.event === false ? undefined : "error"), at: "done" };
    return;
  }
  const finish = mode.finishReason === undefined ? "stop" : mode.finishReason;
  if (finish !== null) yield { bytes: chunk(role, finish), at: "finish" };
  if (mode.usage ?? asked.usage) {
    yield {
      bytes: event(JSON.stringify({ id: "chatcmpl-1", object: "chat.completion.chunk", model, choices: [], usage })),
      at: "usage",
    };
  }
  if (mode.done !== false) yield { bytes: event("[DONE]"), at: "done" };
}

function* tokensOf(tokens: Tokens): Generator<string> {
  if ("repeat" in tokens) {
    const end = tokens.count === "endless" ? Infinity : tokens.count;
    for (let sent = 0; sent < end; sent += 1) yield tokens.repeat;
  } else {
    yield* tokens;
  }
}

/** One JSON answer. */
export function plainAnswer(mode: PlainMode, asked: Asked): Answer {
  const message = {
    role: "assistant",
    content: mode.content ?? defaultTokens.join(""),
    ...(mode.reasoning === undefined ? {} : { reasoning_content: mode.reasoning }),
    tool_calls: [],
  };
  const choices =
    mode.choices === "empty" ? [] : [{ index: 0, logprobs: null, finish_reason: mode.finishReason ?? "stop", message }];
  const body = JSON.stringify({
    id: "chatcmpl-1",
    object: "chat.completion",
    created: 1_790_000_000,
    model: mode.model ?? asked.model,
    ...(mode.choices === "absent" ? {} : { choices }),
    ...(mode.usage === false ? {} : { usage }),
  });
  return replyAnswer({
    kind: "reply",
    status: 200,
    body,
    ...(mode.headers === undefined ? {} : { headers: mode.headers }),
  });
}

/** An answer byte for byte, with LM Studio's own headers. */
export function replyAnswer(mode: ReplyMode): Answer {
  const bytes = typeof mode.body === "string" ? Buffer.from(mode.body) : Buffer.from(mode.body.base64, "base64");
  const type = mode.contentType ?? "application/json; charset=utf-8";
  const head = { ...ours, "Content-Type": type, Connection: "keep-alive", "Keep-Alive": "timeout=5" };
  return {
    status: mode.status,
    headers: [...Object.entries(head), ...(mode.headers ?? [])],
    length: bytes.length + (mode.promiseMore ?? 0),
    steps: [{ bytes, at: "done" }],
  };
}
