import { deflateSync } from "node:zlib";
import { pngChunk } from "../../scripts/rendered-picture.ts";
import type { Rgb } from "./painted.ts";

/**
 * What the fake encoder host does to a plain picture of each colour: the process ends at once, the run never returns,
 * the outputs are NaN, infinite, or one value short, or the run fails for want of memory and so does every later one
 * of that process.
 */
export const marks = {
  crash: [255, 0, 255],
  hang: [0, 255, 0],
  not_a_number: [255, 255, 0],
  infinite: [255, 128, 0],
  wrong_dimension: [0, 255, 255],
  out_of_memory: [255, 0, 0],
} as const satisfies Record<string, Rgb>;
export type Mark = keyof typeof marks;

/** How far a channel may lie from a mark's colour: resizing a plain picture leaves it plain, JPEG nearly so. */
const tolerance = 8;

/** The mark of uint8 RGB pixels, or null: every pixel must have the mark's colour, so that no real picture has one. */
export function readMark(pixels: Uint8Array): Mark | null {
  for (const [mark, colour] of Object.entries(marks)) {
    if (pixels.length > 0 && pixels.every((value, at) => Math.abs(value - (colour[at % 3] ?? 0)) <= tolerance)) {
      return mark as Mark;
    }
  }
  return null;
}

/** A plain PNG of a mark's colour; each `variant` is another file of other bytes with the same colour. */
export function markedPicture(mark: Mark, variant = 0): Buffer {
  return png(64 + variant, 64, () => marks[mark]);
}

/** Plain pixels of a mark's colour, as an encoder is fed them. */
export function markedPixels(mark: Mark, width = 224, height = 224): Uint8Array {
  const colour = marks[mark];
  return Uint8Array.from({ length: width * height * 3 }, (_, at) => colour[at % 3] ?? 0);
}

/** A PNG without a mark that no other `variant` looks like: two colours and a border between them drawn from it. */
export function healthyPicture(variant = 0): Buffer {
  const mixed = Math.imul(variant + 1, 2_654_435_761) >>> 0;
  const [left, right, border]: [Rgb, Rgb, number] = [
    [mixed & 127, (mixed >>> 7) & 127, 60],
    [200, 128 + ((mixed >>> 14) & 63), 128 + ((mixed >>> 20) & 63)],
    8 + (mixed >>> 27),
  ];
  return png(64, 48, (x) => (x < border ? left : right));
}

function png(width: number, height: number, colour: (x: number, y: number) => Rgb): Buffer {
  const rows = Buffer.alloc(height * (1 + width * 3));
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) rows.set(colour(x, y), y * (1 + width * 3) + 1 + x * 3);
  }
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from("\u0089PNG\r\n\u001a\n", "latin1"),
    pngChunk("IHDR", head),
    pngChunk("IDAT", deflateSync(rows)),
    pngChunk("IEND", Buffer.alloc(0)),
  ]);
}
