import { errorBody, toPixelLLMError } from "../shared/errors.ts";
import type { Outcome } from "./bounded-work.ts";

/** Silence a proxy may take for death is broken by a comment this often, in ms. */
const keepAliveMs = 10_000;

/**
 * An event stream whose head goes out at once: `accepted`, comments while the work goes on, then one `result`.
 * So the edge can tell a box that does not answer from a picture that takes long.
 */
export function outcomeEvents<T>(work: Promise<Outcome<T>>): Response {
  const encoder = new TextEncoder();
  let timer: NodeJS.Timeout | undefined;
  let open = true;
  const stop = (): void => {
    open = false;
    clearInterval(timer);
  };
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      const send = (text: string): void => {
        if (open) controller.enqueue(encoder.encode(text));
      };
      timer = setInterval(() => send(": working\n\n"), keepAliveMs);
      send("event: accepted\ndata: {}\n\n");
      // Not awaited: `start` must return for the head to go out.
      void settle(work).then((result) => {
        send(`event: result\ndata: ${JSON.stringify(result)}\n\n`);
        if (open) controller.close();
        stop();
      });
    },
    cancel: stop,
  });
  return new Response(stream, { headers: { "content-type": "text/event-stream", "x-accel-buffering": "no" } });
}

async function settle<T>(work: Promise<Outcome<T>>): Promise<unknown> {
  try {
    return await work;
  } catch (thrown) {
    const error = toPixelLLMError(thrown);
    const timings = { decode: 0, encode: 0, generate: 0 };
    return {
      status: error.status,
      body: { error: errorBody(error, null), image: null, evidence: null, vector: null, timings_ms: timings },
    };
  }
}
