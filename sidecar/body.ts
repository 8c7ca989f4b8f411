import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { PixelLLMError } from "../shared/errors.ts";

/** A request's body and the lower-case hex of its sha-256. */
export type Body = { bytes: Uint8Array; sha256: string };

/**
 * Reads a body of at most `limit` bytes, hashing as it comes.
 * One allocation when the length is announced; bytes over the limit are refused with 413 before they are kept.
 */
export async function readBody(incoming: IncomingMessage, limit: number): Promise<Body> {
  const announced = readLength(incoming.headers["content-length"]);
  if (announced !== null && announced > limit) throw tooLarge(announced, limit);
  const hash = createHash("sha256");
  const whole = announced === null ? null : new Uint8Array(announced);
  const parts: Uint8Array[] = [];
  let received = 0;
  try {
    for await (const chunk of incoming as AsyncIterable<Uint8Array>) {
      if (received + chunk.length > limit) throw tooLarge(received + chunk.length, limit);
      hash.update(chunk);
      if (whole === null) parts.push(chunk);
      else whole.set(chunk, received);
      received += chunk.length;
    }
  } catch (error) {
    if (error instanceof PixelLLMError) throw error;
    throw new PixelLLMError("ERR_ENC_INVALID_INPUT", { hint: "The body ended early.", cause: error });
  }
  return { bytes: whole ?? Buffer.concat(parts), sha256: hash.digest("hex") };
}

function readLength(header: string | undefined): number | null {
  return header !== undefined && /^\d{1,15}$/.test(header) ? Number(header) : null;
}

function tooLarge(actual: number, limit: number): PixelLLMError {
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", {
    status: 413,
    param: "image",
    hint: `The picture has ${actual} bytes or more; at most ${limit} are taken.`,
    details: { limit, actual },
  });
}
