import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { InferenceSession, Tensor } from "onnxruntime-node";
import sharp, { type Sharp } from "sharp";
import { buildEncoder, buildManifest } from "../../../scripts/build-encoder.ts";
import { renderPicture } from "../../../scripts/rendered-picture.ts";
import { colourTerms, readEvidence, type EncoderOutputs } from "../../../shared/evidence.ts";
import { describe } from "../../../shared/describe.ts";
import { mirrored, paint, rgb, seeded, side, turned, type Rgb } from "../../kit/painted.ts";

const folder = new URL("../../../sidecar/encoders/", import.meta.url);
const file = new URL("embedded.onnx", folder);
let session: InferenceSession;

before(async () => {
  session = await InferenceSession.create(readFileSync(file), { intraOpNumThreads: 1 });
});
after(() => session.release());

async function encode(...pictures: Uint8Array[]): Promise<EncoderOutputs[]> {
  const pixels = new Uint8Array(pictures.length * side * side * 3);
  for (const [index, picture] of pictures.entries()) pixels.set(picture, index * side * side * 3);
  const outputs = await session.run({ pixels: new Tensor("uint8", pixels, [pictures.length, side, side, 3]) });
  return pictures.map((_, index) =>
    Object.fromEntries(
      Object.entries(outputs).map(([name, tensor]) => {
        const data = tensor.data as Float32Array;
        const length = data.length / pictures.length;
        return [name, data.slice(index * length, (index + 1) * length)];
      }),
    ),
  );
}

const one = async (picture: Uint8Array): Promise<EncoderOutputs> => (await encode(picture))[0] ?? {};
const value = (outputs: EncoderOutputs, name: string, at = 0): number => outputs[name]?.[at] ?? Number.NaN;
const shareOf = (outputs: EncoderOutputs, term: (typeof colourTerms)[number]): number =>
  value(outputs, "image_colours", colourTerms.indexOf(term));
const cosine = (left: EncoderOutputs, right: EncoderOutputs): number =>
  (left["embedding"] ?? new Float32Array()).reduce((sum, each, at) => sum + each * value(right, "embedding", at), 0);
const solid = (colour: Rgb): Uint8Array => paint(() => colour);

/** One colour of each term that nobody disputes. */
const typical: Record<string, string> = {
  black: "0a0a0a",
  white: "fafafa",
  grey: "808080",
  red: "e00000",
  orange: "ff8c00",
  yellow: "ffe600",
  green: "008c00",
  blue: "1e50e0",
  purple: "7a1fa2",
  pink: "ff69b4",
  brown: "6b4423",
};

/** CSS colours whose name is, or plainly means, a term. */
const css: Record<string, string> = {
  red: "ff0000 dc143c b22222 8b0000",
  orange: "ffa500 ff8c00",
  yellow: "ffff00 ffd700 f0e68c",
  black: "000000",
  green: "008000 00ff00 228b22 006400 32cd32 2e8b57 6b8e23 556b2f 90ee90 3cb371",
  white: "ffffff f5f5f5 fffafa",
  blue: "0000ff 000080 00008b 0000cd 4169e1 1e90ff 87ceeb add8e6 4682b4 6495ed 00bfff",
  grey: "808080 a9a9a9 696969",
  purple: "800080 4b0082 8a2be2 9932cc 663399",
  pink: "ffc0cb ff69b4 ff1493 ffb6c1",
  brown: "8b4513 a0522d d2b48c",
};

test("the committed file is what the script builds, byte for byte, and small", () => {
  const built = buildEncoder();
  assert.deepEqual(
    createHash("sha256").update(built).digest("hex"),
    createHash("sha256").update(readFileSync(file)).digest("hex"),
  );
  assert.equal(readFileSync(new URL("embedded.json", folder), "utf8"), buildManifest(built));
  assert.ok(built.length < 32 * 1024);
});

test("a solid typical colour is its own term, plain, without lines, and unlike the others", async () => {
  const all: EncoderOutputs[] = [];
  for (const term of colourTerms) {
    const outputs = await one(solid(rgb(typical[term] ?? "")));
    all.push(outputs);
    assert.ok(shareOf(outputs, term) >= 0.9, `${term}: ${shareOf(outputs, term)}`);
    for (const name of ["image_contrast", "image_edges", "image_sharpness"])
      assert.ok(value(outputs, name) <= 0.01, `${term} ${name}`);
    assert.ok(value(outputs, "image_symmetry") >= 0.99);
  }
  for (const [at, left] of all.entries()) {
    for (const [other, right] of all.entries()) {
      if (other > at)
        assert.ok(cosine(left, right) < 0.9, `${colourTerms[at]} and ${colourTerms[other]}: ${cosine(left, right)}`);
    }
  }
});

test("clear CSS colours have their term as the largest share", async () => {
  let count = 0;
  for (const [term, list] of Object.entries(css)) {
    for (const hex of list.split(" ")) {
      const shares = [...((await one(solid(rgb(hex))))["image_colours"] ?? [])];
      assert.equal(colourTerms[shares.indexOf(Math.max(...shares))], term, hex);
      count += 1;
    }
  }
  assert.ok(count >= 40);
});

test("no grey has a colour", async () => {
  const greys = Array.from({ length: 256 }, (_, level) => solid([level, level, level]));
  for (let from = 0; from < 256; from += 32) {
    for (const outputs of await encode(...greys.slice(from, from + 32))) {
      const chromatic = colourTerms.slice(3).reduce((sum, term) => sum + shareOf(outputs, term), 0);
      assert.ok(chromatic <= 0.02, String(chromatic));
    }
  }
});

test("two halves are told with their sides, and by the axis they mirror on", async () => {
  const [red, blue] = [rgb("e00000"), rgb("1e50e0")];
  const leftRight = await one(paint((x) => (x < side / 2 ? red : blue)));
  const topBottom = await one(paint((_, y) => (y < side / 2 ? red : blue)));
  const sentence = (outputs: EncoderOutputs): string =>
    describe(readEvidence(outputs, { width: 200, height: 200 })).sentence;
  assert.match(sentence(leftRight), /red on the left, blue on the right/);
  assert.match(sentence(topBottom), /red above, blue below/);
  assert.ok(cosine(leftRight, topBottom) < 0.9);
  assert.deepEqual(
    [value(leftRight, "image_symmetry", 0) <= 0.05, value(leftRight, "image_symmetry", 1) >= 0.99],
    [true, true],
  );
});

const directions: readonly [string, number, (x: number, y: number) => number][] = [
  ["vertical", 0, (x) => x],
  ["rising", 1, (x, y) => x + y],
  ["horizontal", 2, (_, y) => y],
  ["falling", 3, (x, y) => x - y + side],
];

for (const [name, index, along] of directions) {
  test(`${name} stripes are ${name} lines`, async () => {
    const outputs = await one(
      paint((x, y) => (Math.floor(along(x, y) / 8) % 2 === 0 ? [20, 20, 20] : [230, 230, 230])),
    );
    const lines = [...(outputs["image_lines"] ?? [])];
    const all = lines.reduce((sum, each) => sum + each, 0);
    assert.ok((lines[index] ?? 0) / all >= 0.9, JSON.stringify(lines));
  });
}

test("noise has lines of no direction, fine edges, and no place", async () => {
  const next = seeded(3);
  const outputs = await one(paint(() => [next(), next(), next()]));
  const lines = [...(outputs["image_lines"] ?? [])];
  const all = lines.reduce((sum, each) => sum + each, 0);
  for (const each of lines) assert.ok(Math.abs(each / all - 0.25) <= 0.05, JSON.stringify(lines));
  assert.ok(value(outputs, "image_edges") > 0.3 && value(outputs, "image_sharpness") > 0.6);
  assert.equal(readEvidence(outputs, { width: 9, height: 9 }).layout, null);
});

test("a gradient rises cell by cell along its axis and shows no lines", async () => {
  const outputs = await one(paint((x) => [x, x, x]));
  const cells = outputs["cell_brightness"] ?? new Float32Array();
  for (let column = 1; column < 8; column += 1) assert.ok((cells[column] ?? 0) > (cells[column - 1] ?? 0));
  assert.ok(value(outputs, "image_edges") <= 0.02);
});

test("sharpness falls with every blur", async () => {
  const next = seeded(5);
  // Grain at several sizes, as photographs have it: a drawing's flat areas have no detail to lose.
  const coarse = Array.from({ length: 28 * 28 }, next);
  const grain = paint((x, y) => {
    const level = (coarse[(y >> 3) * 28 + (x >> 3)] ?? 0) / 2 + next() / 2;
    return [level, level, level];
  });
  const picture = sharp(grain, { raw: { width: side, height: side, channels: 3 } });
  const values: number[] = [];
  for (const sigma of [0, 1, 2, 4]) {
    const image = sigma === 0 ? picture.clone() : picture.clone().blur(sigma);
    values.push(value(await one(new Uint8Array(await image.raw().toBuffer())), "image_sharpness"));
  }
  assert.deepEqual(
    values,
    [...values].sort((left, right) => right - left),
  );
});

test("a mirrored or turned picture keeps its shares, and is another vector", async () => {
  const picture = new Uint8Array(
    await sharp(Buffer.from(renderPicture())).resize(side, side, { fit: "fill" }).removeAlpha().raw().toBuffer(),
  );
  const [upright, mirror, turn] = [await one(picture), await one(mirrored(picture)), await one(turned(picture))];
  for (const term of colourTerms) {
    for (const copy of [mirror, turn]) assert.ok(Math.abs(shareOf(upright, term) - shareOf(copy, term)) <= 0.02);
  }
  assert.ok(cosine(upright, turn) < 0.98);
  assert.ok(Math.abs(value(upright, "image_lines", 0) - value(turn, "image_lines", 2)) < 0.02);
});

test("re-encoded, resized and cropped copies stay closer than 0.98", async () => {
  const source = sharp(Buffer.from(renderPicture())).removeAlpha();
  const read = async (image: Sharp): Promise<EncoderOutputs> =>
    one(
      new Uint8Array(
        await sharp(await image.toBuffer())
          .resize(side, side, { fit: "fill", kernel: "cubic" })
          .removeAlpha()
          .raw()
          .toBuffer(),
      ),
    );
  const original = await read(source.clone().png());
  const copies: Record<string, Sharp> = {
    "JPEG 30": source.clone().jpeg({ quality: 30 }),
    "JPEG 90": source.clone().jpeg({ quality: 90 }),
    WebP: source.clone().webp(),
    AVIF: source.clone().avif({ effort: 1 }),
    half: source.clone().resize(480).png(),
    "160 wide": source.clone().resize(160).png(),
    cropped: source.clone().extract({ left: 24, top: 16, width: 912, height: 608 }).png(),
    brighter: source.clone().linear(1.05, 0).png(),
    darker: source.clone().linear(0.95, 0).png(),
  };
  for (const [name, copy] of Object.entries(copies)) assert.ok(cosine(original, await read(copy)) > 0.98, name);
});

test("anything gives finite numbers, unit vectors and whole shares; a batch is its pictures one by one", async () => {
  const next = seeded(11);
  const pictures = Array.from({ length: 6 }, () => {
    const [a, b] = [next(), next()];
    return paint((x, y) => [(x * a) & 255, (y * b) & 255, (x * y + a) & 255]);
  });
  const together = await encode(...pictures);
  for (const [index, picture] of pictures.entries()) {
    const alone = await one(picture);
    for (const [name, values] of Object.entries(alone)) {
      for (const [at, each] of values.entries()) {
        assert.ok(Number.isFinite(each), name);
        assert.ok(Math.abs(each - value(together[index] ?? {}, name, at)) <= 1e-5, name);
      }
    }
    assert.ok(Math.abs(Math.hypot(...(alone["embedding"] ?? [])) - 1) <= 1e-5);
    assert.ok(
      Math.abs((alone["image_colours"] ?? new Float32Array()).reduce((sum, each) => sum + each, 0) - 1) <= 1e-4,
    );
  }
});
