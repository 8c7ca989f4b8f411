import sharp, { type Sharp } from "sharp";
import { PixelLLMError } from "../shared/errors.ts";
import { sniffImage } from "../shared/image-header.ts";
import type { ImageFormat } from "../shared/wire.ts";
import { createPixelBudget } from "./pixel-budget.ts";
import type { TensorRecipe } from "./tensor-recipe.ts";

/** What is wanted of one picture. */
export type DecodeRequest = {
  format: ImageFormat;
  recipes: readonly TensorRecipe[];
  /** Whether a JPEG for LM Studio is wanted. */
  jpeg: boolean;
  /** Ends the wait at once; native work that has begun runs to its own end in the background. */
  signal: AbortSignal;
  /** Longest native work, in ms; at least one second is given to libvips, whose clock counts whole ones. */
  timeoutMs: number;
};

/** The products of one decode. */
export type DecodedImage = {
  /** Upright size in pixels, before any resize. */
  width: number;
  height: number;
  /** One a recipe, in order: uint8 RGB, `[height, width, 3]`, in a buffer of its own. */
  tensors: Uint8Array[];
  /** At most 1024 pixels on the long side, upright, on white, without metadata; null when not asked for. */
  jpeg: Uint8Array | null;
};

/** The one place where pictures are decoded. */
export type ImageDoor = {
  /**
   * Decodes a picture whose header was checked.
   * Errors: `ERR_ENC_INVALID_INPUT` (422: cut off, damaged, or too slow to decode), `ERR_VAL_INVALID_RANGE` (413:
   * more pixels than its header said); an abort rejects with the signal's reason.
   */
  decode(bytes: Uint8Array, request: DecodeRequest): Promise<DecodedImage>;
};

/** Longest side of what LM Studio gets: it scales larger pictures down itself, and prefill time grows with them. */
const jpegSide = 1024;
const jpegQuality = 85;
/** An AVIF pixel weighs this much of another format's in memory (measured: 457 MB against 180 for 24 Mpx). */
const avifWeight = 2.5;

// Deny all loaders, then allow ours: every file path and every other format is refused, whatever its bytes say.
sharp.block({ operation: ["VipsForeignLoad"] });
sharp.unblock({
  operation: [
    "VipsForeignLoadJpegBuffer",
    "VipsForeignLoadPngBuffer",
    "VipsForeignLoadWebpBuffer",
    "VipsForeignLoadNsgifBuffer",
    "VipsForeignLoadHeifBuffer",
  ],
});
sharp.cache(false);
// Pictures run side by side on libuv's threads; threads inside one picture would fight over the same cores.
sharp.concurrency(1);

/** Opens the door for pictures of at most `maxPixels`; at most twice that is in work at once. */
export function createImageDoor({ maxPixels }: { maxPixels: number }): ImageDoor {
  const budget = createPixelBudget(2 * maxPixels);
  return {
    async decode(bytes, request) {
      const header = sniffImage(bytes);
      const area = header.kind === "image" ? header.width * header.height : maxPixels;
      const release = await budget.take(area * (request.format === "avif" ? avifWeight : 1), request.signal);
      const work = decodeNow(bytes, request, maxPixels).finally(release);
      return until(request.signal, work);
    },
  };
}

async function decodeNow(bytes: Uint8Array, request: DecodeRequest, maxPixels: number): Promise<DecodedImage> {
  const seconds = Math.max(1, Math.ceil(request.timeoutMs / 1000));
  // A view, not a copy: sharp reads the memory that the body was received into.
  const source = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const open = (): Sharp =>
    sharp(source, {
      failOn: "warning",
      unlimited: false,
      limitInputPixels: maxPixels,
      limitInputChannels: 5,
      pages: 1,
      sequentialRead: true,
    }).timeout({ seconds });
  try {
    const { width, height, autoOrient, hasAlpha } = await open().metadata();
    const upright = { width: autoOrient.width ?? width, height: autoOrient.height ?? height };
    const single = request.recipes.length + (request.jpeg ? 1 : 0) === 1;
    const canvas = single ? null : await openCanvas(open, upright, request.recipes, hasAlpha);
    const tensors: Uint8Array[] = [];
    for (const recipe of request.recipes) {
      const from = canvas === null || (hasAlpha && recipe.alpha === "drop") ? null : canvas;
      tensors.push(await toTensor(from === null ? () => open().autoOrient() : from, recipe, hasAlpha));
    }
    const jpeg = request.jpeg ? await toJpeg(canvas ?? (() => open().autoOrient())) : null;
    return { ...upright, tensors, jpeg };
  } catch (error) {
    throw asImageError(error);
  }
}

/**
 * A picture decoded once to what the largest product needs, as a source for all of them; null when some product is
 * larger than the JPEG's bound, which then decides for itself.
 */
async function openCanvas(
  open: () => Sharp,
  upright: { width: number; height: number },
  recipes: readonly TensorRecipe[],
  hasAlpha: boolean,
): Promise<(() => Sharp) | null> {
  const longest = Math.max(upright.width, upright.height);
  const scale = Math.min(1, jpegSide / longest);
  const enough = recipes.every(
    ({ width, height, shortestEdge = 0 }) =>
      Math.max(height, width, shortestEdge) <= scale * Math.min(upright.width, upright.height) || scale === 1,
  );
  if (!enough) return null;
  const image = open().autoOrient();
  if (hasAlpha) image.flatten({ background: "#ffffff" });
  const { data, info } = await image
    .toColourspace("srgb")
    .resize({ width: jpegSide, height: jpegSide, fit: "inside", withoutEnlargement: true, kernel: "cubic" })
    .raw({ depth: "uchar" })
    .toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  return () => sharp(data, { raw: { width, height, channels } });
}

async function toTensor(open: () => Sharp, recipe: TensorRecipe, hasAlpha: boolean): Promise<Uint8Array> {
  let image = open();
  if (hasAlpha && recipe.alpha === "drop") {
    // Resizing multiplies by alpha; to show what hides under it the channel must be gone before, in a run of its own.
    const { data, info } = await image
      .toColourspace("srgb")
      .removeAlpha()
      .raw({ depth: "uchar" })
      .toBuffer({ resolveWithObject: true });
    image = sharp(data, { raw: { width: info.width, height: info.height, channels: info.channels } });
  } else if (hasAlpha) {
    image.flatten({ background: "#ffffff" });
  }
  const options = { kernel: recipe.kernel, fastShrinkOnLoad: recipe.fastShrinkOnLoad ?? true };
  image.toColourspace("srgb");
  if (recipe.fit === "squash") {
    image.resize({ width: recipe.width, height: recipe.height, fit: "fill", ...options });
  } else {
    const edge = recipe.shortestEdge ?? Math.max(recipe.width, recipe.height);
    image.resize({ width: edge, height: edge, fit: "outside", ...options });
  }
  const { data, info } = await image.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
  return cutCentre(toRgb(data, info.channels), info, recipe);
}

async function toJpeg(open: () => Sharp): Promise<Uint8Array> {
  return open()
    .flatten({ background: "#ffffff" })
    .toColourspace("srgb")
    .resize({ width: jpegSide, height: jpegSide, fit: "inside", withoutEnlargement: true, kernel: "cubic" })
    .jpeg({ quality: jpegQuality })
    .toBuffer();
}

/** Grey pictures come out with one channel, whatever colour space is asked for. */
function toRgb(data: Uint8Array, channels: number): Uint8Array {
  if (channels === 3) return new Uint8Array(data);
  const pixels = data.length / channels;
  const rgb = new Uint8Array(pixels * 3);
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      rgb[pixel * 3 + channel] = data[pixel * channels + (channels < 3 ? 0 : channel)] ?? 0;
    }
  }
  return rgb;
}

function cutCentre(rgb: Uint8Array, from: { width: number; height: number }, to: TensorRecipe): Uint8Array {
  if (from.width === to.width && from.height === to.height) return rgb;
  const left = Math.floor((from.width - to.width) / 2);
  const top = Math.floor((from.height - to.height) / 2);
  const cut = new Uint8Array(to.width * to.height * 3);
  for (let row = 0; row < to.height; row += 1) {
    const start = ((top + row) * from.width + left) * 3;
    cut.set(rgb.subarray(start, start + to.width * 3), row * to.width * 3);
  }
  return cut;
}

function asImageError(error: unknown): PixelLLMError {
  const text = error instanceof Error ? error.message : String(error);
  if (/pixel limit/i.test(text)) {
    return new PixelLLMError("ERR_VAL_INVALID_RANGE", {
      status: 413,
      param: "image",
      hint: "The picture has more pixels than are taken.",
      detail: text,
      cause: error,
    });
  }
  const slow = /timeout/i.test(text);
  return new PixelLLMError("ERR_ENC_INVALID_INPUT", {
    param: "image",
    hint: slow ? "The picture takes too long to decode." : "The picture is cut off or damaged.",
    detail: text,
    cause: error,
  });
}

function until<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const leave = (): void => reject(signal.reason as Error);
    if (signal.aborted) leave();
    signal.addEventListener("abort", leave, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
  });
}
