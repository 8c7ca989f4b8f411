import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { isPixelLLMError } from "../../shared/errors.ts";
import { readCheckpoint } from "../../sidecar/checkpoint.ts";
import { startEncoder, type Encoder } from "../../sidecar/encoder.ts";
import { makeEncoder, makeFolder, preprocessorConfig, type FixtureShape } from "../kit/onnx-fixtures.ts";
import { listeningLogger } from "../kit/settings.ts";

const config = JSON.stringify(preprocessorConfig);
const open = async (path: string | null): Promise<Encoder> =>
  startEncoder({ model: await readCheckpoint(path), logger: listeningLogger() });

const folderOf = (shape: FixtureShape = {}): Promise<string> =>
  makeFolder({ "onnx/vision_model.onnx": makeEncoder(shape), "preprocessor_config.json": config });

const wrong: readonly [string, () => Promise<string>, RegExp][] = [
  ["a missing file", async () => "/nowhere/model.onnx", /no file at checkpoint_path/],
  ["a folder without model", () => makeFolder({ "README.md": "" }), /holds no model/],
  ["an empty file", async () => join(await makeFolder({ "model.onnx": "" }), "model.onnx"), /empty/],
  [
    "a cut file",
    async () =>
      join(
        await makeFolder({ "model.onnx": makeEncoder().subarray(0, 300), "preprocessor_config.json": config }),
        "model.onnx",
      ),
    /no whole ONNX model/,
  ],
  [
    "random bytes",
    async () =>
      join(
        await makeFolder({ "model.onnx": "\u0001\u0002 no protobuf at all", "preprocessor_config.json": config }),
        "model.onnx",
      ),
    /no whole ONNX model/,
  ],
  [
    "a web page",
    async () => join(await makeFolder({ "model.onnx": "<!DOCTYPE html><html>" }), "model.onnx"),
    /web page/,
  ],
  [
    "a Git LFS pointer",
    async () =>
      join(
        await makeFolder({ "model.onnx": "version https://git-lfs.github.com/spec/v1\noid sha256:0" }),
        "model.onnx",
      ),
    /git lfs pull/,
  ],
  [
    "a PyTorch checkpoint",
    async () => join(await makeFolder({ "vision_encoder.pt": "PK\u0003\u0004" }), "vision_encoder.pt"),
    /export the vision encoder to ONNX/,
  ],
  [
    "bare weights",
    async () => join(await makeFolder({ "model.safetensors": "\u0008\u0000" }), "model.safetensors"),
    /bare weights/,
  ],
  ["JSON", async () => join(await makeFolder({ "model.onnx": '{"a":1}' }), "model.onnx"), /JSON/],
  [
    "no preprocessing",
    () => makeFolder({ "onnx/vision_model.onnx": makeEncoder() }),
    /put its preprocessor_config.json beside it/,
  ],
  [
    "broken preprocessing",
    () => makeFolder({ "model.onnx": makeEncoder(), "preprocessor_config.json": "{" }),
    /is not JSON/,
  ],
  [
    "preprocessing without means",
    () => makeFolder({ "model.onnx": makeEncoder(), "preprocessor_config.json": '{"size":32}' }),
    /image_mean/,
  ],
  [
    "another size than the graph's",
    () =>
      makeFolder({
        "model.onnx": makeEncoder(),
        "preprocessor_config.json": JSON.stringify({ ...preprocessorConfig, crop_size: 64, size: 64 }),
      }),
    /takes 32 × 32 pixels/,
  ],
  ["a text input beside the picture", () => folderOf({ extraInput: true }), /takes one picture/],
  ["an input of three axes", () => folderOf({ shape: [3, 32, 32] }), /axes|cannot load/],
  ["an input of four channels", () => folderOf({ shape: ["batch", 4, 32, 32] }), /3 colour channels/],
  ["an input of integers", () => folderOf({ type: "int32" }), /is int32/],
  ["an unknown operator", () => folderOf({ op: "NoSuchOperator" }), /operator/],
  ["vectors that are not finite", () => folderOf({ fault: "nan" }), /zero or non-finite/],
  ["vectors that are zero", () => folderOf({ fault: "zero" }), /zero or non-finite/],
  ["one vector for every picture", () => folderOf({ fault: "constant" }), /same vector/],
];

for (const [name, make, hint] of wrong) {
  test(`${name} is ERR_ENC_LOAD_FAILED and says what to do`, async () => {
    const path = await make();
    await assert.rejects(open(path), (error: unknown) => {
      assert.ok(isPixelLLMError(error));
      assert.equal(error.code, "ERR_ENC_LOAD_FAILED");
      assert.match(error.message, hint);
      // The path is the owner's business: it stands in the log only.
      assert.ok(!error.message.includes(path));
      return true;
    });
  });
}

const working: readonly [string, () => Promise<string>][] = [
  ["a folder in Hugging Face layout", () => folderOf()],
  [
    "a bare file with its configuration beside it",
    async () =>
      join(await makeFolder({ "model.onnx": makeEncoder(), "preprocessor_config.json": config }), "model.onnx"),
  ],
  [
    "an open_clip configuration",
    () =>
      makeFolder({
        "model.onnx": makeEncoder(),
        "open_clip_config.json": JSON.stringify({
          preprocess_cfg: { size: 32, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] },
        }),
      }),
  ],
  ["half-precision pixels", () => folderOf({ type: "float16" })],
  ["channels last", () => folderOf({ layout: "NHWC" })],
  [
    "raw bytes without configuration",
    async () => join(await makeFolder({ "model.onnx": makeEncoder({ type: "uint8", layout: "NHWC" }) }), "model.onnx"),
  ],
  ["the first token of the last hidden state", () => folderOf({ output: "last_hidden_state" })],
  ["an output of another name, the only vector", () => folderOf({ output: "features" })],
];

for (const [name, make] of working) {
  test(`${name} loads and tells pictures apart by unit vectors`, async () => {
    const encoder = await open(await make());
    const { width, height } = encoder.recipe;
    const paint = (left: number, right: number): Uint8Array =>
      new Uint8Array(width * height * 3).map((_, at) => (at % (width * 3) < (width * 3) / 2 ? left : right));
    const signal = new AbortController().signal;
    const [first, second] = [
      await encoder.encode(paint(250, 10), signal),
      await encoder.encode(paint(10, 250), signal),
    ];
    const norm = Math.hypot(...first.embedding);
    const cosine = first.embedding.reduce((sum, value, at) => sum + value * (second.embedding[at] ?? 0), 0);
    await encoder.close();
    assert.deepEqual(
      [encoder.info().dimensions, Math.abs(norm - 1) < 1e-5, cosine < 0.999],
      [6, true, true],
      `cosine ${cosine}`,
    );
  });
}

test("the same model with other preprocessing has another fingerprint", async () => {
  const other = JSON.stringify({ ...preprocessorConfig, image_mean: [0.5, 0.5, 0.5] });
  const [left, right] = await Promise.all([
    open(await folderOf()),
    open(await makeFolder({ "onnx/vision_model.onnx": makeEncoder(), "preprocessor_config.json": other })),
  ]);
  assert.notEqual(left.info().fingerprint, right.info().fingerprint);
  await Promise.all([left.close(), right.close()]);
});
