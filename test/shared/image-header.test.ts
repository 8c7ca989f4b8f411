import assert from "node:assert/strict";
import { test } from "node:test";
import { isPixelLLMError } from "../../shared/errors.ts";
import { checkImageHeader, foreignFormats, sniffImage } from "../../shared/image-header.ts";
import { acceptedForms, hostileCorpus, seededBytes } from "../kit/images.ts";

const maxPixels = 24 * 2 ** 20;

test("every accepted form tells its format and a size of the right area", async () => {
  for (const { name, bytes, format, width, height } of await acceptedForms()) {
    const header = checkImageHeader(bytes, `image/${format}`, { maxPixels });
    assert.deepEqual([name, header.format, header.width * header.height], [name, format, width * height]);
  }
});

test("every hostile file that its header gives away is refused by it", async () => {
  for (const { name, bytes, type, status, code } of await hostileCorpus()) {
    let seen: unknown = "accepted";
    try {
      checkImageHeader(bytes, type, { maxPixels });
    } catch (error) {
      if (isPixelLLMError(error)) seen = [error.status, error.code];
    }
    // A cut file may have a whole header: the decoder is who finds out.
    if (!/cut in half/.test(name)) assert.deepEqual([name, seen], [name, [status, code]]);
  }
});

test("the limit itself is taken, one pixel more is not", async () => {
  const [form] = await acceptedForms();
  assert.ok(form !== undefined);
  checkImageHeader(form.bytes, null, { maxPixels: form.width * form.height });
  assert.throws(() => checkImageHeader(form.bytes, null, { maxPixels: form.width * form.height - 1 }), { status: 413 });
});

test("a refusal names the format and the way out", () => {
  const heic = Buffer.from("\0\0\0\x18ftypheic\0\0\0\0mif1heic", "latin1");
  assert.throws(() => checkImageHeader(heic, null, { maxPixels }), {
    message: `Invalid encoder input. ${foreignFormats.heic}`,
  });
});

test("no bytes make the sniffer throw or wander: 20,000 seeded mutations", async () => {
  const forms = await acceptedForms();
  const noise = seededBytes(60_000, 42);
  for (let round = 0; round < 20_000; round += 1) {
    const source = forms[round % forms.length]?.bytes.subarray(0, 600) ?? Buffer.alloc(0);
    const bytes = Buffer.from(source);
    for (let flip = 0; flip < 3; flip += 1) {
      const at =
        ((noise[(round * 3 + flip) % noise.length] ?? 0) * 256 + (noise[(round + flip * 7) % noise.length] ?? 0)) % 600;
      if (at < bytes.length) bytes[at] = noise[(round * 5 + flip) % noise.length] ?? 0;
    }
    assert.ok(["image", "foreign", "broken", "unknown"].includes(sniffImage(bytes).kind));
  }
});
