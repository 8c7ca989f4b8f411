import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as z from "zod";
import { PixelLLMError } from "../shared/errors.ts";
import { preprocessingFiles, readPreprocessing, type Preprocessing } from "./preprocessing.ts";

/** A model file that was found and looked at, not yet loaded. */
export type EncoderModel = {
  name: string;
  file: string;
  /** Lower-case hex of the file's sha-256. */
  sha256: string;
  /** Null = none beside the file: usable only when the graph takes raw uint8 pixels. */
  preprocessing: Preprocessing | null;
  /** The encoder that ships with the project: its named outputs are evidence. */
  embedded: boolean;
  /** Cosine from which two of its vectors mean the same picture; null = not known for this model. */
  similarityFloor: number | null;
};

const embeddedFolder = fileURLToPath(new URL("encoders/", import.meta.url));

const manifestSchema = z.object({
  name: z.string(),
  file: z.string(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  similarity_floor: z.number().min(-1).max(1),
});

/** Places of the vision model inside a folder, first found first. */
const modelFiles = [
  "onnx/vision_model.onnx",
  "vision_model.onnx",
  "onnx/model.onnx",
  "model.onnx",
  "onnx/encoder_model.onnx",
  "encoder_model.onnx",
];

/**
 * Finds the encoder: `null` = the embedded one, else a `.onnx` file or a folder in Hugging Face or open_clip layout.
 * Every way to be wrong is `ERR_ENC_LOAD_FAILED` whose hint says what to do; the path stands in the detail only.
 */
export async function readCheckpoint(path: string | null): Promise<EncoderModel> {
  if (path === null) return readEmbedded();
  const facts = await look(path);
  if (facts.isDirectory()) {
    const file = await firstFile(path, modelFiles);
    if (file === null) {
      throw loadFailed(path, `The folder holds no model: expected one of ${modelFiles.join(", ")}.`);
    }
    return describeModel(basename(path), file, [path, dirname(file)]);
  }
  return describeModel(basename(path).replace(/\.onnx$/i, ""), path, [dirname(path), dirname(dirname(path))]);
}

/** Checks that a model's file is still the one that was looked at; `ERR_ENC_LOAD_FAILED` when it is gone or another. */
export async function checkUnchanged(model: EncoderModel): Promise<void> {
  if ((await hashFile(model.file)) === model.sha256) return;
  throw loadFailed(model.file, "The model file is another than at the start: start the sidecar again to use it.");
}

/** `ERR_ENC_LOAD_FAILED` with a public hint; the path and the library's words go to the log. */
export function loadFailed(file: string, hint: string, cause?: unknown): PixelLLMError {
  const words = cause instanceof Error ? `: ${cause.message}` : "";
  return new PixelLLMError("ERR_ENC_LOAD_FAILED", { hint, detail: `${file}${words}`, cause });
}

async function readEmbedded(): Promise<EncoderModel> {
  const manifest = manifestSchema.parse(JSON.parse(await readFile(join(embeddedFolder, "embedded.json"), "utf8")));
  const file = join(embeddedFolder, manifest.file);
  const sha256 = await hashFile(file);
  if (sha256 !== manifest.sha256) {
    throw loadFailed(
      file,
      "The embedded encoder differs from its manifest: restore the file, or run `node scripts/build-encoder.ts`.",
    );
  }
  return {
    name: manifest.name,
    file,
    sha256,
    preprocessing: {
      recipe: { width: 224, height: 224, fit: "squash", kernel: "cubic", alpha: "white" },
      mean: [0, 0, 0],
      std: [1, 1, 1],
    },
    embedded: true,
    similarityFloor: manifest.similarity_floor,
  };
}

async function describeModel(name: string, file: string, folders: readonly string[]): Promise<EncoderModel> {
  await refuseForeignFile(file);
  return {
    name,
    file,
    sha256: await hashFile(file),
    preprocessing: await findPreprocessing(file, folders),
    embedded: false,
    similarityFloor: null,
  };
}

async function look(path: string): Promise<Awaited<ReturnType<typeof stat>>> {
  try {
    return await stat(path);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : "";
    if (code === "ENOENT")
      throw loadFailed(path, "There is no file at checkpoint_path: give the absolute path.", error);
    throw loadFailed(path, "The file at checkpoint_path cannot be read: check its permissions.", error);
  }
}

async function firstFile(folder: string, names: readonly string[]): Promise<string | null> {
  for (const name of names) {
    const file = join(folder, name);
    try {
      if ((await stat(file)).isFile()) return file;
    } catch (error) {
      if (!(error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ENOTDIR")))
        throw error;
    }
  }
  return null;
}

async function findPreprocessing(file: string, folders: readonly string[]): Promise<Preprocessing | null> {
  for (const folder of folders) {
    const found = await firstFile(folder, preprocessingFiles);
    if (found === null) continue;
    try {
      return readPreprocessing(basename(found), await readFile(found, "utf8"));
    } catch (error) {
      const words = error instanceof Error ? error.message : "not readable";
      throw loadFailed(file, `The preprocessing beside the model cannot be used: ${words}.`, error);
    }
  }
  return null;
}

/** What people put there by mistake, told by its first bytes. */
async function refuseForeignFile(file: string): Promise<void> {
  const head = await readHead(file, 512);
  const text = head.toString("latin1");
  const refuse = (hint: string): never => {
    throw loadFailed(file, hint);
  };
  if (head.length === 0) refuse("The model file is empty: download it again.");
  if (text.startsWith("version https://git-lfs.github.com/spec/")) {
    refuse("The file is a Git LFS pointer, not the model: run `git lfs pull` in its repository.");
  }
  if (/^\s*<(!doctype|html|\?xml)/i.test(text)) {
    refuse("The file is a web page, not the model: the download needs another address or a login.");
  }
  if (text.startsWith("PK\u0003\u0004") || /\.(pt|pth|bin|ckpt)$/i.test(file)) {
    refuse("The file is a PyTorch checkpoint or an archive: export the vision encoder to ONNX.");
  }
  if (/\.(safetensors|gguf)$/i.test(file) || text.startsWith("GGUF")) {
    refuse("The file holds bare weights, not an ONNX graph: export the vision encoder to ONNX.");
  }
  if (/^\s*[{[]/.test(text)) refuse("The file is JSON, not an ONNX model.");
}

async function readHead(file: string, length: number): Promise<Buffer> {
  try {
    await using handle = await open(file);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, 0);
    return buffer.subarray(0, bytesRead);
  } catch (error) {
    throw loadFailed(file, "The model file cannot be read: check its permissions.", error);
  }
}

async function hashFile(file: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) hash.update(chunk);
  } catch (error) {
    throw loadFailed(file, "The model file cannot be read to its end.", error);
  }
  return hash.digest("hex");
}
