import { PixelLLMError } from "./errors.ts";
import { imageFormats, type ImageFormat } from "./wire.ts";

/** Pictures that are known and not taken, each with what its owner can do. */
export const foreignFormats = {
  heic: "HEIC is not taken: export the picture as JPEG.",
  svg: "SVG is not taken: render the drawing to PNG.",
  tiff: "TIFF is not taken: save the picture as PNG or JPEG.",
  bmp: "BMP is not taken: save the picture as PNG or JPEG.",
  jxl: "JPEG XL is not taken: save the picture as JPEG.",
  jp2: "JPEG 2000 is not taken: save the picture as JPEG.",
  ico: "ICO is not taken: save the picture as PNG.",
  psd: "PSD is not taken: export the picture as PNG or JPEG.",
  pdf: "PDF is not a picture: export the page as PNG.",
} as const;
export type ForeignFormat = keyof typeof foreignFormats;

/**
 * What the first bytes of a file say. `width` and `height` are in pixels as stored: a JPEG's EXIF orientation may
 * still swap them. `broken` = a format we take, without a usable size.
 */
export type ImageHeader =
  | { kind: "image"; format: ImageFormat; width: number; height: number }
  | { kind: "foreign"; name: ForeignFormat }
  | { kind: "broken"; format: ImageFormat }
  | { kind: "unknown" };

/** Longest side taken, in pixels: the largest a WebP can say, and far above any camera. */
export const maxSide = 16_383;

/** How far a JPEG's frame header is looked for, in bytes: past the largest EXIF and ICC segments seen. */
const jpegScanBytes = 256 * 1024;
/** How far into an AVIF's `meta` box sizes are looked for. */
const avifScanBytes = 64 * 1024;

const heicBrands: ReadonlySet<string> = new Set(["heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"]);

/** Reads format and size from a file's first bytes; bounded work, never throws, proves nothing about the rest. */
export function sniffImage(bytes: Uint8Array): ImageHeader {
  if (startsWith(bytes, [0xff, 0xd8])) return readJpeg(bytes);
  if (startsWith(bytes, [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])) return readPng(bytes);
  if (hasText(bytes, 0, "GIF87a") || hasText(bytes, 0, "GIF89a")) return readGif(bytes);
  if (hasText(bytes, 0, "RIFF") && hasText(bytes, 8, "WEBP")) return readWebp(bytes);
  if (hasText(bytes, 4, "ftyp")) return readIsoMedia(bytes);
  return readForeign(bytes);
}

/** What a content type declares: one of our formats, a known foreign one, or nothing. */
export function readDeclaredType(contentType: string | null): ImageFormat | ForeignFormat | null {
  const type = (contentType ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
  const name = /^image\/(?:x-)?(?:ms-)?([a-z0-9.+-]+)$/.exec(type)?.[1] ?? "";
  if (name === "jpg" || name === "pjpeg") return "jpeg";
  if (name === "svg+xml") return "svg";
  if (name === "heif") return "heic";
  if (name === "vnd.microsoft.icon") return "ico";
  if (isOneOf(imageFormats, name)) return name;
  if (type === "application/pdf") return "pdf";
  return isForeign(name) ? name : null;
}

/** Refuses a content type that names a foreign picture, before its bytes are read (415). */
export function refuseForeignType(contentType: string | null): void {
  const declared = readDeclaredType(contentType);
  if (declared !== null && isForeign(declared)) throw foreign(declared);
}

/**
 * Checks a file's first bytes against its declared type and the limits.
 * Errors: `ERR_VAL_EMPTY_INPUT` (400, no bytes), `ERR_ENC_INVALID_INPUT` (415 not a format we take or not the one
 * declared; 422 no usable size), `ERR_VAL_INVALID_RANGE` (413, too many pixels or too long a side).
 */
export function checkImageHeader(
  bytes: Uint8Array,
  declaredType: string | null,
  limits: { maxPixels: number },
): { format: ImageFormat; width: number; height: number } {
  if (bytes.length === 0) {
    throw new PixelLLMError("ERR_VAL_EMPTY_INPUT", { param: "image", hint: "The picture has no bytes." });
  }
  const header = sniffImage(bytes);
  switch (header.kind) {
    case "foreign":
      throw foreign(header.name);
    case "unknown":
      throw new PixelLLMError("ERR_ENC_INVALID_INPUT", {
        status: 415,
        param: "image",
        hint: "These bytes are no picture we know: send JPEG, PNG, WebP, GIF or AVIF.",
      });
    case "broken":
      throw new PixelLLMError("ERR_ENC_INVALID_INPUT", {
        param: "image",
        hint: `This ${header.format} file has no readable size: it is cut off or damaged.`,
      });
    case "image":
      break;
  }
  const declared = readDeclaredType(declaredType);
  if (declared !== null && declared !== header.format) {
    throw new PixelLLMError("ERR_ENC_INVALID_INPUT", {
      status: 415,
      param: "image",
      hint: `Declared as ${declared}, but the bytes are ${header.format}: send the true content type.`,
    });
  }
  const { format, width, height } = header;
  if (width > maxSide || height > maxSide) {
    throw tooLarge(`A side has ${Math.max(width, height)} pixels; at most ${maxSide} are taken.`, {
      limit: maxSide,
      actual: Math.max(width, height),
    });
  }
  // Both sides fit in 14 bits here, so the product is exact.
  if (width * height > limits.maxPixels) {
    throw tooLarge(`The picture has ${width} × ${height} pixels; at most ${limits.maxPixels} in all are taken.`, {
      limit: limits.maxPixels,
      actual: width * height,
    });
  }
  return { format, width, height };
}

function foreign(name: ForeignFormat): PixelLLMError {
  return new PixelLLMError("ERR_ENC_INVALID_INPUT", { status: 415, param: "image", hint: foreignFormats[name] });
}

function tooLarge(hint: string, details: { limit: number; actual: number }): PixelLLMError {
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", { status: 413, param: "image", hint, details });
}

function sized(format: ImageFormat, width: number, height: number): ImageHeader {
  return width > 0 && height > 0 ? { kind: "image", format, width, height } : { kind: "broken", format };
}

/** ITU-T T.81: markers from SOI on; the size stands in the first frame header (SOF0–15 without DHT, JPG, DAC). */
function readJpeg(bytes: Uint8Array): ImageHeader {
  const end = Math.min(bytes.length, jpegScanBytes);
  let at = 2;
  while (at + 4 <= end) {
    if (bytes[at] !== 0xff) break;
    const marker = bytes[at + 1] ?? 0;
    if (marker === 0xff) {
      at += 1;
      continue;
    }
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
    if (isFrame) return at + 9 <= end ? sized("jpeg", u16(bytes, at + 7), u16(bytes, at + 5)) : broken("jpeg");
    if (marker === 0xda || marker === 0xd9) break;
    const standsAlone = marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8);
    const length = standsAlone ? 0 : u16(bytes, at + 2);
    if (!standsAlone && length < 2) break;
    at += 2 + length;
  }
  return broken("jpeg");
}

function readPng(bytes: Uint8Array): ImageHeader {
  if (bytes.length < 24 || !hasText(bytes, 12, "IHDR")) return broken("png");
  return sized("png", u32(bytes, 16), u32(bytes, 20));
}

function readGif(bytes: Uint8Array): ImageHeader {
  if (bytes.length < 10) return broken("gif");
  return sized("gif", u16le(bytes, 6), u16le(bytes, 8));
}

/** RFC 9649: lossy, lossless and extended files each keep their size in a place of their own. */
function readWebp(bytes: Uint8Array): ImageHeader {
  if (
    bytes.length >= 30 &&
    hasText(bytes, 12, "VP8 ") &&
    bytes[23] === 0x9d &&
    bytes[24] === 0x01 &&
    bytes[25] === 0x2a
  ) {
    return sized("webp", u16le(bytes, 26) & 0x3fff, u16le(bytes, 28) & 0x3fff);
  }
  if (bytes.length >= 25 && hasText(bytes, 12, "VP8L") && bytes[20] === 0x2f) {
    const packed = u16le(bytes, 21) + u16le(bytes, 23) * 0x1_0000;
    return sized("webp", (packed & 0x3fff) + 1, (Math.floor(packed / 0x4000) & 0x3fff) + 1);
  }
  if (bytes.length >= 30 && hasText(bytes, 12, "VP8X"))
    return sized("webp", u24le(bytes, 24) + 1, u24le(bytes, 27) + 1);
  return broken("webp");
}

/** ISO 14496-12 files: the brand tells AVIF from HEIC, the largest `ispe` of the `meta` box the size. */
function readIsoMedia(bytes: Uint8Array): ImageHeader {
  const length = Math.min(u32(bytes, 0), bytes.length, 512);
  const brands: string[] = [];
  for (let at = 8; at + 4 <= length; at += at === 8 ? 8 : 4) brands.push(textAt(bytes, at, 4));
  if (brands.includes("avif") || brands.includes("avis")) return readAvif(bytes);
  if (brands.some((brand) => heicBrands.has(brand))) return { kind: "foreign", name: "heic" };
  return { kind: "unknown" };
}

function readAvif(bytes: Uint8Array): ImageHeader {
  let at = u32(bytes, 0);
  for (let boxes = 0; boxes < 16 && at >= 8 && at + 8 <= bytes.length; boxes += 1) {
    const length = u32(bytes, at);
    if (hasText(bytes, at + 4, "meta")) return readAvifMeta(bytes, at, Math.min(at + length, at + avifScanBytes));
    if (length < 8) break;
    at += length;
  }
  return broken("avif");
}

function readAvifMeta(bytes: Uint8Array, from: number, to: number): ImageHeader {
  let largest: ImageHeader = broken("avif");
  let pixels = 0;
  const end = Math.min(to, bytes.length);
  for (let at = from + 8; at + 16 <= end; at += 1) {
    if (bytes[at] !== 0x69 || !hasText(bytes, at, "ispe")) continue;
    const [width, height] = [u32(bytes, at + 8), u32(bytes, at + 12)];
    if (width * height > pixels) {
      pixels = width * height;
      largest = sized("avif", width, height);
    }
  }
  return largest;
}

function readForeign(bytes: Uint8Array): ImageHeader {
  const name = foreignName(bytes);
  return name === null ? { kind: "unknown" } : { kind: "foreign", name };
}

function foreignName(bytes: Uint8Array): ForeignFormat | null {
  if (startsWith(bytes, [0x49, 0x49, 0x2a, 0x00]) || startsWith(bytes, [0x4d, 0x4d, 0x00, 0x2a])) return "tiff";
  if (hasText(bytes, 0, "BM") && bytes.length >= 26) return "bmp";
  if (startsWith(bytes, [0xff, 0x0a]) || hasText(bytes, 4, "JXL ")) return "jxl";
  if (hasText(bytes, 4, "jP  ")) return "jp2";
  if (startsWith(bytes, [0x00, 0x00, 0x01, 0x00])) return "ico";
  if (hasText(bytes, 0, "8BPS")) return "psd";
  if (hasText(bytes, 0, "%PDF-")) return "pdf";
  return looksLikeSvg(bytes) ? "svg" : null;
}

/** Text whose first tag may be an SVG's: looked for in the first kilobyte only. */
function looksLikeSvg(bytes: Uint8Array): boolean {
  const head = textAt(bytes, 0, Math.min(bytes.length, 1024))
    .replace(/^(?:\u00ef\u00bb\u00bf)?\s*/, "")
    .toLowerCase();
  return head.startsWith("<svg") || ((head.startsWith("<?xml") || head.startsWith("<!")) && head.includes("<svg"));
}

function broken(format: ImageFormat): ImageHeader {
  return { kind: "broken", format };
}

function isForeign(name: string): name is ForeignFormat {
  return Object.hasOwn(foreignFormats, name);
}

function isOneOf<T extends string>(names: readonly T[], name: string): name is T {
  return (names as readonly string[]).includes(name);
}

function startsWith(bytes: Uint8Array, magic: readonly number[]): boolean {
  return magic.every((value, index) => bytes[index] === value);
}

function hasText(bytes: Uint8Array, at: number, text: string): boolean {
  for (let index = 0; index < text.length; index += 1) {
    if (bytes[at + index] !== text.charCodeAt(index)) return false;
  }
  return true;
}

function textAt(bytes: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

// Past the end reads as zero: a cut file then has no size, which is what it is refused for.
function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) * 256 + (bytes[at + 1] ?? 0);
}

function u16le(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) + (bytes[at + 1] ?? 0) * 256;
}

function u24le(bytes: Uint8Array, at: number): number {
  return u16le(bytes, at) + (bytes[at + 2] ?? 0) * 0x1_0000;
}

function u32(bytes: Uint8Array, at: number): number {
  return u16(bytes, at) * 0x1_0000 + u16(bytes, at + 2);
}
