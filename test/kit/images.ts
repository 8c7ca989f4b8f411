import { deflateSync } from "node:zlib";
import sharp, { type Sharp } from "sharp";
import { pngChunk, renderPicture } from "../../scripts/rendered-picture.ts";
import type { ImageFormat } from "../../shared/wire.ts";

/** A picture that must be taken, and the size that must be told of it. */
export type AcceptedCase = {
  name: string;
  bytes: Buffer;
  format: ImageFormat;
  width: number;
  height: number;
  grey?: boolean;
};

/** A file that must be refused. */
export type HostileCase = { name: string; bytes: Buffer; type: string; status: number; code: string };

/** Size of the made scene: not square, so that a turned picture shows. */
const [width, height] = [300, 200];

let base: Promise<Buffer> | undefined;

/** The rendered landscape at 300 × 200, as lossless PNG. */
export function scene(): Promise<Buffer> {
  base ??= sharp(Buffer.from(renderPicture())).resize(width, height).png().toBuffer();
  return base;
}

/** How an EXIF orientation's stored pixels come about from upright ones. */
const turned: Record<number, (image: Sharp) => Sharp> = {
  1: (image) => image,
  2: (image) => image.flop(),
  3: (image) => image.rotate(180),
  4: (image) => image.flip(),
  5: (image) => image.rotate(270).flop(),
  6: (image) => image.rotate(270),
  7: (image) => image.rotate(90).flop(),
  8: (image) => image.rotate(90),
};

/** The same scene in every form that is taken. */
export async function acceptedForms(): Promise<AcceptedCase[]> {
  const png = await scene();
  const open = (): Sharp => sharp(png);
  const make = async (
    name: string,
    format: ImageFormat,
    image: Sharp,
    more: { grey?: boolean } = {},
  ): Promise<AcceptedCase> => ({
    name,
    bytes: await image.toBuffer(),
    format,
    width,
    height,
    ...more,
  });
  const oriented = Object.entries(turned).map(async ([orientation, turn]) => {
    const stored = await turn(open()).png().toBuffer();
    const image = sharp(stored)
      .withExif({})
      .withMetadata({ orientation: Number(orientation) })
      .jpeg({ quality: 95 });
    return make(`JPEG with EXIF orientation ${orientation}`, "jpeg", image);
  });
  return Promise.all([
    make("baseline JPEG", "jpeg", open().jpeg({ quality: 95 })),
    make("progressive JPEG", "jpeg", open().jpeg({ quality: 95, progressive: true })),
    make("CMYK JPEG", "jpeg", open().toColourspace("cmyk").jpeg({ quality: 95 })),
    make("grey JPEG", "jpeg", open().greyscale().jpeg({ quality: 95 }), { grey: true }),
    make("PNG", "png", open().png()),
    make("PNG with alpha", "png", open().ensureAlpha(1).png()),
    make("grey PNG with alpha", "png", open().greyscale().ensureAlpha(1).png(), { grey: true }),
    make("16-bit PNG", "png", open().toColourspace("rgb16").png()),
    make("palette PNG", "png", open().png({ palette: true, colours: 256 })),
    make("interlaced PNG", "png", open().png({ progressive: true })),
    make("lossy WebP", "webp", open().webp({ quality: 95 })),
    make("lossless WebP", "webp", open().webp({ lossless: true })),
    make("WebP with alpha", "webp", open().ensureAlpha(1).webp({ quality: 95 })),
    make("GIF", "gif", open().gif()),
    make("AVIF", "avif", open().avif({ quality: 90, effort: 1 })),
    ...oriented,
  ]);
}

/** Files that must be refused, each with its answer; made in a moment, the largest a few MB. */
export async function hostileCorpus(): Promise<HostileCase[]> {
  const png = await scene();
  const jpeg = await sharp(png).jpeg().toBuffer();
  const webp = await sharp(png).webp().toBuffer();
  const gif = await sharp(png).gif().toBuffer();
  const avif = await sharp(png).avif({ effort: 1 }).toBuffer();
  const bad = (name: string, bytes: Buffer, type: string, status: number): HostileCase => ({
    name,
    bytes,
    type,
    status,
    code: status === 413 ? "ERR_VAL_INVALID_RANGE" : status === 400 ? "ERR_VAL_EMPTY_INPUT" : "ERR_ENC_INVALID_INPUT",
  });
  return [
    bad("no bytes", Buffer.alloc(0), "image/jpeg", 400),
    bad("one byte", Buffer.from([0xff]), "image/jpeg", 415),
    bad("random bytes", seededBytes(4096), "image/png", 415),
    bad("a JPEG's start only", Buffer.from([0xff, 0xd8]), "image/jpeg", 422),
    bad("a JPEG cut in half", jpeg.subarray(0, jpeg.length >> 1), "image/jpeg", 422),
    bad("a PNG cut in half", png.subarray(0, png.length >> 1), "image/png", 422),
    bad("a WebP cut in half", webp.subarray(0, webp.length >> 1), "image/webp", 422),
    bad("a GIF cut in half", gif.subarray(0, gif.length >> 1), "image/gif", 422),
    bad("an AVIF cut in half", avif.subarray(0, avif.length >> 1), "image/avif", 422),
    bad("a PNG that says JPEG", png, "image/jpeg", 415),
    bad("a JPEG that says PNG", jpeg, "image/png", 415),
    bad("HEIC", isoFile("heic"), "image/heic", 415),
    bad("HEIC that says JPEG", isoFile("heic"), "image/jpeg", 415),
    bad("SVG", Buffer.from('<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'), "image/svg+xml", 415),
    bad("SVG that says PNG", Buffer.from("<svg/>"), "image/png", 415),
    bad("TIFF", Buffer.from("II*\0" + "\0".repeat(32), "latin1"), "image/tiff", 415),
    bad("BMP", Buffer.from("BM" + "\0".repeat(64), "latin1"), "image/bmp", 415),
    bad("PDF that says JPEG", Buffer.from("%PDF-1.7\n"), "image/jpeg", 415),
    bad("a PNG of 16000 × 16000, one bit", pngOf(16_000, 16_000, 1, 0), "image/png", 413),
    bad("a PNG of 12000 × 12000, 16-bit RGBA", pngOf(12_000, 12_000, 16, 6), "image/png", 413),
    bad("a PNG header of 65535 × 65535", pngOf(65_535, 65_535, 8, 2, false), "image/png", 413),
    bad("a PNG header of 2^31 − 1", pngOf(2 ** 31 - 1, 2 ** 31 - 1, 8, 2, false), "image/png", 413),
    bad("a PNG of width 0", pngOf(0, 5, 8, 2, false), "image/png", 422),
    bad("a GIF of 65535 × 65535", gifHeader(65_535, 65_535), "image/gif", 413),
    bad("a WebP header of 16383 × 16383", webpHeader(16_383, 16_383), "image/webp", 413),
    bad("an AVIF of 8000 × 8000", resizedAvif(avif, 8000, 8000), "image/avif", 413),
  ];
}

/** A seeded run of bytes that is no picture. */
export function seededBytes(count: number, seed = 7): Buffer {
  let state = seed;
  return Buffer.from(
    Array.from({ length: count }, () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return state >>> 24;
    }),
  );
}

/** A PNG of zeros, well compressed: some kilobytes that would decode to gigabytes. */
function pngOf(w: number, h: number, depth: number, colour: number, whole = true): Buffer {
  const head = Buffer.alloc(13);
  head.writeUInt32BE(w, 0);
  head.writeUInt32BE(h, 4);
  head.set([depth, colour, 0, 0, 0], 8);
  const channels = colour === 6 ? 4 : colour === 2 ? 3 : 1;
  const row = 1 + Math.ceil((w * channels * depth) / 8);
  // One row a hundred times stands for the rest: the header alone must be enough to refuse it.
  const data = whole ? [pngChunk("IDAT", deflateSync(Buffer.alloc(row * 100)))] : [];
  return Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    pngChunk("IHDR", head),
    ...data,
    pngChunk("IEND", Buffer.alloc(0)),
  ]);
}

function gifHeader(w: number, h: number): Buffer {
  const bytes = Buffer.from("GIF89a" + "\0".repeat(8), "latin1");
  bytes.writeUInt16LE(w, 6);
  bytes.writeUInt16LE(h, 8);
  return bytes;
}

function webpHeader(w: number, h: number): Buffer {
  const bytes = Buffer.from("RIFF\0\0\0\0WEBPVP8X\n\0\0\0" + "\0".repeat(10), "latin1");
  bytes.writeUIntLE(w - 1, 24, 3);
  bytes.writeUIntLE(h - 1, 27, 3);
  return bytes;
}

function isoFile(brand: string): Buffer {
  const bytes = Buffer.from("\0\0\0\x18ftyp" + brand + "\0\0\0\0mif1heic", "latin1");
  return Buffer.concat([bytes, Buffer.alloc(64)]);
}

function resizedAvif(avif: Buffer, w: number, h: number): Buffer {
  const bytes = Buffer.from(avif);
  for (let at = bytes.indexOf("ispe"); at >= 0; at = bytes.indexOf("ispe", at + 4)) {
    bytes.writeUInt32BE(w, at + 8);
    bytes.writeUInt32BE(h, at + 12);
  }
  return bytes;
}
