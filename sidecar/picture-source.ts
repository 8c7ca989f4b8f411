import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { PixelLLMError } from "../shared/errors.ts";
import { checkImageHeader } from "../shared/image-header.ts";
import type { ImageFormat } from "../shared/wire.ts";
import { checkRawFrame, encodePng, type RawFrame } from "./raw-frame.ts";

/** A picture as a caller of the library holds it: a file's path, encoded bytes, a stream of them, or raw pixels. */
export type PictureSource = string | Uint8Array | AsyncIterable<Uint8Array> | RawFrame;

/** A picture whose header was checked. */
export type SourcePicture = {
  bytes: Uint8Array;
  format: ImageFormat;
  width: number;
  height: number;
  /** Lower-case hex of the bytes' sha-256. */
  sha256: string;
};

/**
 * Reads and checks a picture. Nothing, null among it, is `ERR_VAL_EMPTY_INPUT`; a file that cannot be read, or more
 * than `maxBytes` or `maxPixels`, `ERR_VAL_INVALID_RANGE`; pixels of the wrong shape or type
 * `ERR_VAL_INVALID_TENSOR`; bytes that are no picture we take `ERR_ENC_INVALID_INPUT`.
 */
export async function readPicture(
  source: PictureSource | null | undefined,
  limits: { maxBytes: number; maxPixels: number },
): Promise<SourcePicture> {
  const bytes = await readBytes(source, limits);
  const header = checkImageHeader(bytes, null, { maxPixels: limits.maxPixels });
  return { bytes, ...header, sha256: createHash("sha256").update(bytes).digest("hex") };
}

async function readBytes(
  source: PictureSource | null | undefined,
  { maxBytes, maxPixels }: { maxBytes: number; maxPixels: number },
): Promise<Uint8Array> {
  if (source === null || source === undefined || source === "") {
    throw new PixelLLMError("ERR_VAL_EMPTY_INPUT", { param: "image" });
  }
  if (typeof source === "string") return readFileOf(source, maxBytes);
  if (source instanceof Uint8Array) {
    if (source.length > maxBytes) throw tooLarge(maxBytes);
    return source;
  }
  if (typeof source !== "object") {
    throw new PixelLLMError("ERR_VAL_INVALID_TENSOR", { param: "image", hint: "A path, bytes, a stream, or a frame." });
  }
  if (Symbol.asyncIterator in source) return collect(source, maxBytes);
  return encodePng(checkRawFrame(source, maxPixels));
}

async function readFileOf(path: string, maxBytes: number): Promise<Uint8Array> {
  try {
    return await collect(createReadStream(path), maxBytes);
  } catch (cause) {
    if (cause instanceof PixelLLMError) throw cause;
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
      param: "image",
      hint: "The file does not exist or cannot be read.",
      detail: path,
      cause,
    });
  }
}

async function collect(source: AsyncIterable<Uint8Array>, maxBytes: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of source) {
    length += part.length;
    if (length > maxBytes) throw tooLarge(maxBytes);
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function tooLarge(maxBytes: number): PixelLLMError {
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", {
    status: 413,
    param: "image",
    hint: `At most ${maxBytes} bytes are taken.`,
    details: { limit: maxBytes },
  });
}
