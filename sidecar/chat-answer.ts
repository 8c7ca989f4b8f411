import { randomBytes } from "node:crypto";
import { errorBody, toPixelLLMError } from "../shared/errors.ts";
import { hex } from "../shared/ids.ts";
import type { Completion } from "./lm-studio/completion.ts";

type Chatted = Completion & { model: string };

/** Runs a chat, handing over each piece of text as it comes. */
export type RunChat = (onText: (text: string) => void) => Promise<Chatted>;

/** A whole answer in OpenAI's shape; a failure rejects with an error of ours. */
export async function plainChat(run: RunChat, createdSeconds: number): Promise<Response> {
  const { text, finish, model, usage } = await run(() => undefined);
  return Response.json({
    ...head("chat.completion", createdSeconds, model),
    choices: [{ index: 0, message: { role: "assistant", content: text }, logprobs: null, finish_reason: finish }],
    usage,
  });
}

/**
 * A streamed answer. Status and head wait for the first words, so that every failure before them is a true status;
 * one after them is a `data:` line that holds only `error`, and then no `finish_reason` and no `[DONE]`.
 */
export async function streamChat(
  run: RunChat,
  options: { createdSeconds: number; includeUsage: boolean; requestId: string; model: string },
): Promise<Response> {
  const encoder = new TextEncoder();
  const shared = head("chat.completion.chunk", options.createdSeconds, options.model);
  let controller: ReadableStreamDefaultController<Uint8Array> | null = null;
  const stream = new ReadableStream<Uint8Array>({
    start: (given) => {
      controller = given;
    },
    // A reader who left is told by the request's signal; what still comes is dropped.
    cancel: () => {
      controller = null;
    },
  });
  const sendText = (text: string): void => controller?.enqueue(encoder.encode(`data: ${text}\n\n`));
  const send = (body: unknown): void => sendText(JSON.stringify(body));
  const close = (): void => {
    controller?.close();
    controller = null;
  };
  const chunk = (delta: object, finish: string | null = null): void =>
    send({ ...shared, choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }] });
  const begun = Promise.withResolvers<void>();
  let first = true;
  const begin = (): void => {
    if (first) chunk({ role: "assistant", content: "" });
    first = false;
    begun.resolve();
  };
  const work = run((text) => {
    begin();
    chunk({ content: text });
  }).then(
    ({ text, finish, usage }) => {
      // A server that answered in one piece has streamed nothing yet.
      const whole = first;
      begin();
      if (whole) chunk({ content: text });
      chunk({}, finish);
      if (options.includeUsage) send({ ...shared, choices: [], usage });
      sendText("[DONE]");
      close();
    },
    (thrown: unknown) => {
      if (first) throw thrown;
      send({ error: errorBody(toPixelLLMError(thrown), options.requestId) });
      close();
    },
  );
  await Promise.race([begun.promise, work]);
  return new Response(stream, { headers: { "content-type": "text/event-stream" } });
}

function head(
  object: string,
  created: number,
  model: string,
): { id: string; object: string; created: number; model: string } {
  return { id: `chatcmpl-${hex(randomBytes(12))}`, object, created, model };
}
