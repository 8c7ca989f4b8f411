import assert from "node:assert/strict";
import { test } from "node:test";
import sharp from "sharp";
import { isPixelLLMError } from "../../shared/errors.ts";
import { checkImageHeader } from "../../shared/image-header.ts";
import { createImageDoor, type DecodedImage } from "../../sidecar/image.ts";
import type { TensorRecipe } from "../../sidecar/tensor-recipe.ts";
import { acceptedForms, hostileCorpus, scene } from "../kit/images.ts";

const maxPixels = 24 * 2 ** 20;
const door = createImageDoor({ maxPixels });
const recipe: TensorRecipe = { width: 64, height: 64, fit: "squash", kernel: "cubic", alpha: "white" };

const decode = (
  bytes: Uint8Array,
  type: string | null,
  more: { jpeg?: boolean; recipes?: TensorRecipe[]; signal?: AbortSignal } = {},
): Promise<DecodedImage> =>
  door.decode(bytes, {
    format: checkImageHeader(bytes, type, { maxPixels }).format,
    recipes: more.recipes ?? [recipe],
    jpeg: more.jpeg ?? false,
    signal: more.signal ?? new AbortController().signal,
    timeoutMs: 5000,
  });

/** Mean difference of two pictures' values, 0 to 255. */
function difference(left: Uint8Array, right: Uint8Array): number {
  assert.equal(left.length, right.length);
  return left.reduce((sum, value, at) => sum + Math.abs(value - (right[at] ?? 0)), 0) / left.length;
}

test("every accepted form becomes the same upright picture, whatever is asked beside it", async () => {
  const reference = (await decode(await scene(), null)).tensors[0] ?? new Uint8Array();
  const grey =
    (
      await decode(
        await sharp(await scene())
          .greyscale()
          .png()
          .toBuffer(),
        null,
      )
    ).tensors[0] ?? new Uint8Array();
  for (const form of await acceptedForms()) {
    for (const jpeg of [false, true]) {
      const { width, height, tensors } = await decode(form.bytes, null, { jpeg });
      const off = difference(tensors[0] ?? new Uint8Array(), form.grey === true ? grey : reference);
      // CMYK goes through a printing profile; everything else differs by compression alone.
      const allowed = form.name.startsWith("CMYK") ? 16 : 4;
      assert.deepEqual([form.name, width, height, off < allowed], [form.name, 300, 200, true], `${form.name}: ${off}`);
    }
  }
});

test("every hostile file is refused with its own status before or by the decoder", async () => {
  for (const { name, bytes, type, status, code } of await hostileCorpus()) {
    let seen: unknown = "accepted";
    try {
      await decode(bytes, type);
    } catch (error) {
      if (isPixelLLMError(error)) seen = [error.status, error.code];
    }
    assert.deepEqual([name, seen], [name, [status, code]]);
  }
});

test("the JPEG for LM Studio is small, upright, and carries no metadata", async () => {
  const huge = await sharp(await scene())
    .resize(3000, 2000)
    .withExif({ IFD0: { Copyright: "canary-text" } })
    .withMetadata({ orientation: 6 })
    .jpeg()
    .toBuffer();
  const { jpeg, width, height } = await decode(huge, null, { jpeg: true });
  const facts = await sharp(jpeg ?? Buffer.alloc(0)).metadata();
  assert.deepEqual(
    [width, height, facts.width, facts.height, facts.format, facts.exif],
    [2000, 3000, 683, 1024, "jpeg", undefined],
  );
  assert.ok(!Buffer.from(jpeg ?? []).includes("canary-text"));
  const small = await decode(await scene(), null, { jpeg: true });
  assert.equal((await sharp(small.jpeg ?? Buffer.alloc(0)).metadata()).width, 300);
});

test("transparent parts show white, or what hides under them where a recipe says so", async () => {
  const red = { r: 255, g: 0, b: 0, alpha: 0 };
  const clear = await sharp({ create: { width: 80, height: 80, channels: 4, background: red } })
    .png()
    .toBuffer();
  const { tensors } = await decode(clear, null, { recipes: [recipe, { ...recipe, alpha: "drop" }] });
  assert.deepEqual([...(tensors[0] ?? new Uint8Array()).subarray(0, 3)], [255, 255, 255]);
  assert.deepEqual([...(tensors[1] ?? new Uint8Array()).subarray(0, 3)], [255, 0, 0]);
});

test("shortest edge and centre cut keep the middle", async () => {
  const halves = await sharp({ create: { width: 400, height: 100, channels: 3, background: "#0000ff" } })
    .composite([
      { input: { create: { width: 100, height: 100, channels: 3, background: "#ff0000" } }, left: 150, top: 0 },
    ])
    .png()
    .toBuffer();
  const { tensors } = await decode(halves, null, { recipes: [{ ...recipe, fit: "shortest", shortestEdge: 64 }] });
  const centre = (32 * 64 + 32) * 3;
  assert.deepEqual([...(tensors[0] ?? new Uint8Array()).subarray(centre, centre + 3)], [255, 0, 0]);
  assert.equal(tensors[0]?.length, 64 * 64 * 3);
});

test("a caller who leaves is not kept waiting", async () => {
  const left = new AbortController();
  const reason = new Error("left");
  const work = decode(await scene(), null, { signal: left.signal });
  left.abort(reason);
  await assert.rejects(work, reason);
});

test("a file path is never read, whoever asks", async () => {
  await assert.rejects(sharp("package.json").metadata());
});
