import { crc32, deflate } from "node:zlib";
import { promisify } from "node:util";
import { PixelLLMError } from "../shared/errors.ts";
import { maxSide } from "../shared/image-header.ts";

/** Pixels as a camera or a compositor gives them: 8 bits a channel, interleaved, row after row from the top. */
export type RawFrame = {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
  /** 1 grey, 3 RGB, 4 RGBA. */
  channels: 1 | 3 | 4;
};

/** PNG's colour type by channels. */
const colourTypes = { 1: 0, 3: 2, 4: 6 } as const;
const signature = Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

const deflated = promisify<Uint8Array, { level: number }, Buffer>(deflate);

/**
 * Checks a value that should be a frame. `ERR_VAL_INVALID_TENSOR` (rank, channels, sides, type or length of the data),
 * `ERR_VAL_EMPTY_INPUT` (no data), `ERR_VAL_INVALID_RANGE` 413 (more than `maxPixels`).
 */
export function checkRawFrame(value: object, maxPixels: number): RawFrame {
  const { data, width, height, channels } = value as Readonly<Record<string, unknown>>;
  if (!(data instanceof Uint8Array) && !(data instanceof Uint8ClampedArray)) {
    throw invalid("dtype: `data` must be a Uint8Array or Uint8ClampedArray.");
  }
  if (data.length === 0) throw new PixelLLMError("ERR_VAL_EMPTY_INPUT", { param: "image" });
  if (!isSide(width) || !isSide(height)) {
    throw invalid(`shape: \`width\` and \`height\` must be whole numbers from 1 to ${maxSide}.`);
  }
  if (channels !== 1 && channels !== 3 && channels !== 4) {
    throw invalid("shape: a frame has rank 3, [height, width, channels], with 1, 3 or 4 channels.");
  }
  if (width * height > maxPixels) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
      status: 413,
      param: "image",
      hint: `The frame has ${width} × ${height} pixels; at most ${maxPixels} in all are taken.`,
      details: { limit: maxPixels, actual: width * height },
    });
  }
  if (data.length !== width * height * channels) {
    throw invalid(`shape: ${width} × ${height} × ${channels} values were promised and ${data.length} given.`);
  }
  return { data, width, height, channels };
}

/** The frame as a PNG, pixel for pixel, lightly packed: it is decoded again a moment later. */
export async function encodePng({ data, width, height, channels }: RawFrame): Promise<Uint8Array> {
  const stride = width * channels;
  const rows = new Uint8Array((stride + 1) * height);
  // Each row of a PNG begins with the number of its filter; 0 = as it is.
  for (let row = 0; row < height; row += 1) {
    rows.set(data.subarray(row * stride, (row + 1) * stride), row * (stride + 1) + 1);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, colourTypes[channels]);
  return Buffer.concat([
    signature,
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("IDAT", await deflated(rows, { level: 1 })),
    chunk("IEND", new Uint8Array()),
  ]);
}

function chunk(name: string, data: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(data.length + 12);
  bytes.writeUInt32BE(data.length, 0);
  bytes.write(name, 4, "latin1");
  bytes.set(data, 8);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, data.length + 8)), data.length + 8);
  return bytes;
}

function isSide(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= maxSide;
}

function invalid(hint: string): PixelLLMError {
  return new PixelLLMError("ERR_VAL_INVALID_TENSOR", { param: "image", hint });
}
