import { PixelLLMError } from "../shared/errors.ts";
import { abortReason } from "./deadline.ts";
import type { Bytes } from "./deps.ts";

/** Refuses, by headers alone, a body that is encoded or announced too large. */
export function checkBodyHeaders(headers: Headers, limit: number): void {
  const encoding = headers.get("content-encoding");
  if (encoding !== null && encoding.toLowerCase() !== "identity") {
    throw new PixelLLMError("ERR_ENC_INVALID_INPUT", {
      status: 415,
      hint: "Send the body without content-encoding.",
    });
  }
  const length = announcedLength(headers);
  if (length !== null && length > limit) throw tooLarge(length, limit);
}

/** The length a request announces, or null when it announces none that is a plain number. */
export function announcedLength(headers: Headers): number | null {
  const text = headers.get("content-length") ?? "";
  return /^\d{1,15}$/.test(text) ? Number(text) : null;
}

/**
 * Reads a body of at most `limit` bytes, counted as they come whatever was announced. With a true length there is
 * one allocation and no further copy; over the limit the reader is cancelled and 413 thrown; the signal ends the wait.
 */
export async function readBody(request: Request, limit: number, signal: AbortSignal): Promise<Bytes> {
  if (request.body === null) return new Uint8Array(0);
  const reader = request.body.getReader() as ReadableStreamDefaultReader<Uint8Array>;
  // Cancelling a body that has broken already rejects; the pending read tells what happened.
  const leave = (): void => void reader.cancel(signal.reason).catch(() => undefined);
  if (signal.aborted) throw abortReason(signal);
  signal.addEventListener("abort", leave, { once: true });
  let whole = new Uint8Array(announcedLength(request.headers) ?? 64 * 1024);
  let length = 0;
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const { value } = part;
      if (length + value.length > limit) {
        await reader.cancel();
        throw tooLarge(length + value.length, limit);
      }
      if (length + value.length > whole.length) whole = grown(whole, length + value.length, limit);
      whole.set(value, length);
      length += value.length;
    }
  } catch (error) {
    if (signal.aborted) throw abortReason(signal);
    throw error;
  } finally {
    signal.removeEventListener("abort", leave);
  }
  if (signal.aborted) throw abortReason(signal);
  return whole.subarray(0, length);
}

function grown(bytes: Bytes, needed: number, limit: number): Bytes {
  const larger = new Uint8Array(Math.min(limit, Math.max(needed, bytes.length * 2)));
  larger.set(bytes);
  return larger;
}

function tooLarge(actual: number, limit: number): PixelLLMError {
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", {
    status: 413,
    hint: `The body has ${actual} bytes or more; at most ${limit} are taken here.`,
    details: { limit, actual },
  });
}
