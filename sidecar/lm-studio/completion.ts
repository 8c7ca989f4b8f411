import type { IncomingMessage } from "node:http";
import { classifyComplaint, lmStudioError, readComplaint } from "../../shared/lm-studio-kinds.ts";
import { isPixelLLMError, type PixelLLMError } from "../../shared/errors.ts";
import { readRetryAfter } from "../../shared/retry-after.ts";
import type { Usage } from "../../shared/wire.ts";
import { createAnswer, type AnswerText } from "./answer.ts";
import { createEventStreamReader, EventTooLong, type StreamEvent } from "./event-stream.ts";
import { chunksOf, parseJson, readText, send, type Address } from "./transport.ts";

/** One chat completion to ask for. */
export type CompletionCall = {
  address: Address;
  /** The request body, `stream: true` among it. */
  body: Readonly<Record<string, unknown>>;
  hasImage: boolean;
  /** The caller's own prompt is in it: its faults are then the caller's. */
  callers: boolean;
  firstTokenMs: number;
  idleMs: number;
  /** The whole request's end; its reason is the error the caller gets. */
  signal: AbortSignal;
  /** Called with each new piece of text that may be shown. */
  onText?: (text: string) => void;
  /** Called as the call gets on: connecting, waiting for the first token, reading. */
  onStage?: (stage: "connect" | "first_token" | "generate") => void;
  /** Unix ms, for dates in Retry-After. */
  wallNow: () => number;
};

/** What LM Studio said. */
export type Completion = {
  /** Without thinking; never empty. */
  text: string;
  finish: "stop" | "length";
  /** The model that answered, as it names itself. */
  model: string | null;
  usage: Usage;
};

/** Bounds of one answer: bytes of stream, characters of one event, of the text; time for the tail after the end. */
const caps = { streamBytes: 2 ** 20, eventCharacters: 64 * 1024, errorBytes: 64 * 1024, tailMs: 1000 };

/** A completion that has been asked for. */
export type RunningCompletion = {
  /** What the caller gets, no later than its limits and its signal say, whatever LM Studio does. */
  answer: Promise<Completion>;
  /** The end of the connection, never a rejection; `left` = LM Studio had the call and nobody waited for its end. */
  ended: Promise<{ left: boolean }>;
  /** Closes the connection, whatever is still to come. */
  cut(): void;
};

/**
 * Asks for one completion and reads it to its end, every wait with a limit of its own:
 * first token from the request sent (`no_first_token`), then between tokens (`stalled`), and the caller's signal.
 * Every other failure is a kind of `lm-studio-kinds.ts`. LM Studio works a prompt off to its end even when nobody
 * listens any more: a caller who leaves before the first token has the answer rejected at once, while the connection
 * is read on and closed at that token; one who leaves later has it closed at once.
 */
export function complete(call: CompletionCall): RunningCompletion {
  const line = new AbortController();
  const watch = createWatch(call, line);
  const work = converse(call, line, watch);
  const answer = Promise.race([work, watch.left]).finally(() => watch.close());
  const ended = work.then(
    () => ({ left: watch.wasLeft() }),
    (error: unknown) => ({ left: watch.wasLeft() || stoppedReading(error) }),
  );
  return { answer, ended, cut: () => line.abort(new Error("nobody waits for it")) };
}

async function converse(call: CompletionCall, line: AbortController, watch: Watch): Promise<Completion> {
  call.onStage?.("connect");
  const response = await send(call.address, {
    method: "POST",
    path: "/v1/chat/completions",
    body: JSON.stringify(call.body),
    signal: line.signal,
    onSent: () => watch.sent(),
  });
  const answer = createAnswer();
  const status = response.statusCode ?? 0;
  const isStream = (response.headers["content-type"] ?? "").includes("text/event-stream");
  if (status >= 200 && status < 300 && isStream) await readStream(response, answer, watch, call, line.signal);
  else
    readWhole(
      await readText(response, status < 300 ? caps.streamBytes : caps.errorBytes, line.signal),
      answer,
      response,
      call,
    );
  return settle(answer, call);
}

/** Kinds at which we stop before LM Studio does. */
function stoppedReading(error: unknown): boolean {
  const kind = isPixelLLMError(error) ? error.details["kind"] : undefined;
  return kind === "too_long" || kind === "malformed";
}

type Watch = {
  /** Rejects when the caller stops waiting: a limit, or its own end. */
  left: Promise<never>;
  sent(): void;
  token(): void;
  finished(): void;
  hasFinished(): boolean;
  /** Nobody waits any more. */
  isClosed(): boolean;
  /** The caller stopped waiting after the call was sent. */
  wasLeft(): boolean;
  close(): void;
};

/** The limits of one call: whoever fires first names the failure, and the connection is closed unless a prompt is at work. */
function createWatch(call: CompletionCall, line: AbortController): Watch {
  const left = Promise.withResolvers<never>();
  // Raced by whoever asks; when the answer comes first, nobody is left to take the rejection.
  left.promise.catch(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  let phase: "connect" | "first_token" | "generate" = "connect";
  let finished = false;
  let closed = false;
  let wasLeft = false;
  const close = (): void => {
    closed = true;
    clearTimeout(timer);
    call.signal.removeEventListener("abort", leave);
  };
  const quit = (reason: unknown): void => {
    close();
    wasLeft = phase !== "connect";
    left.reject(reason);
    if (phase !== "first_token") line.abort(reason);
  };
  const leave = (): void => quit(call.signal.reason);
  const arm = (ms: number, elapsed: () => void): void => {
    clearTimeout(timer);
    timer = setTimeout(elapsed, ms);
  };
  const enter = (next: "first_token" | "generate"): void => {
    if (phase === next) return;
    phase = next;
    call.onStage?.(next);
  };
  if (call.signal.aborted) leave();
  else call.signal.addEventListener("abort", leave, { once: true });
  return {
    left: left.promise,
    sent() {
      if (closed) return;
      enter("first_token");
      arm(call.firstTokenMs, () => quit(lmStudioError("no_first_token")));
    },
    token() {
      // The prompt is done and nobody wants what comes: closing ends the generation too.
      if (closed) return line.abort(new Error("the caller left"));
      enter("generate");
      arm(call.idleMs, () => quit(lmStudioError("stalled")));
    },
    finished() {
      if (closed) return line.abort(new Error("the caller left"));
      enter("generate");
      finished = true;
      // The end has been said: a missing end marker costs no caller ten seconds.
      arm(Math.min(caps.tailMs, call.idleMs), () => line.abort(lmStudioError("stalled")));
    },
    hasFinished: () => finished,
    isClosed: () => closed,
    wasLeft: () => wasLeft,
    close,
  };
}

async function readStream(
  response: IncomingMessage,
  answer: AnswerText,
  watch: Watch,
  call: CompletionCall,
  line: AbortSignal,
): Promise<void> {
  const reader = createEventStreamReader(caps.eventCharacters);
  let bytes = 0;
  let shown = 0;
  const show = (): void => {
    if (watch.isClosed()) return;
    const visible = answer.visible();
    if (visible.length > shown) call.onText?.(visible.slice(shown));
    shown = Math.max(shown, visible.length);
  };
  const take = (events: readonly StreamEvent[]): boolean =>
    events.some((event) => takeEvent(event, answer, watch, call));
  try {
    for await (const chunk of chunksOf(response, line)) {
      bytes += chunk.length;
      if (bytes > caps.streamBytes) throw lmStudioError("too_long", { detail: `more than ${caps.streamBytes} bytes` });
      const ended = take(reader.read(chunk));
      if (call.onText !== undefined) show();
      if (ended) return;
    }
    take(reader.end());
  } catch (error) {
    if (error instanceof EventTooLong) throw lmStudioError("too_long", { detail: error.message, cause: error });
    // Silence or a broken socket after the end was said takes nothing away from the answer.
    if (!watch.hasFinished() || call.signal.aborted) throw error;
  }
}

/** Takes one event in; true = the end marker came. */
function takeEvent({ event, data }: StreamEvent, answer: AnswerText, watch: Watch, call: CompletionCall): boolean {
  if (data.trim() === "[DONE]") {
    answer.marked = true;
    return true;
  }
  const body = parseJson(data);
  if (body === undefined) throw lmStudioError("malformed", { detail: data });
  const complaint = readComplaint(body);
  if (event === "error" || complaint !== null) throw complain(complaint, 200, call);
  const { grew, finished } = answer.takeChunk(body);
  if (finished) watch.finished();
  else if (grew) watch.token();
  return false;
}

function readWhole(text: string, answer: AnswerText, response: IncomingMessage, call: CompletionCall): void {
  const status = response.statusCode ?? 0;
  const body = parseJson(text);
  const complaint = readComplaint(body);
  if (status < 200 || status >= 300 || complaint !== null) throw complain(complaint, status, call, response, text);
  if (body === undefined) throw lmStudioError("malformed", { detail: text });
  answer.takeWhole(body);
}

function complain(
  complaint: ReturnType<typeof readComplaint>,
  status: number,
  call: CompletionCall,
  response?: IncomingMessage,
  text = "",
): PixelLLMError {
  const headers = response?.headersDistinct ?? {};
  return lmStudioError(classifyComplaint(complaint, status), {
    detail: `${status} ${complaint?.message ?? text}`,
    callers: call.callers,
    retryAfterMs: readRetryAfter(
      {
        retryAfter: headers["retry-after"] ?? [],
        retryAfterMs: headers["retry-after-ms"] ?? [],
        date: headers["date"]?.[0] ?? null,
      },
      call.wallNow(),
    ),
  });
}

function settle(answer: AnswerText, call: CompletionCall): Completion {
  const { text, reasoning } = answer.words();
  if (answer.finish === null && !(answer.marked && text === "" && reasoning === "")) {
    throw lmStudioError("truncated", { detail: `ended after ${text.length} characters` });
  }
  if (text === "" && reasoning !== "") {
    const rescued = call.body["response_format"] === undefined ? null : readJsonObject(reasoning);
    if (rescued !== null) return { ...answer.facts(), text: rescued };
    throw lmStudioError("reasoning_only", { detail: `${reasoning.length} characters of thinking` });
  }
  if (text === "") throw lmStudioError(call.hasImage && !answer.hadChoice ? "no_vision" : "empty");
  return { ...answer.facts(), text };
}

/** A reasoning model may put the JSON it was asked for where it thinks. */
function readJsonObject(reasoning: string): string | null {
  const text = reasoning.slice(reasoning.indexOf("{"), reasoning.lastIndexOf("}") + 1);
  const body = parseJson(text);
  return typeof body === "object" && body !== null && "caption" in body ? text : null;
}
