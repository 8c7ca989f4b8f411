import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { DIMENSIONS, encoderModel } from "./encoder-graph.ts";
import { encodeModel } from "./onnx-writer.ts";

// Raised with every change of the graph: vectors of different versions are never compared.
const VERSION = "1";
const FOLDER = new URL("../sidecar/encoders/", import.meta.url);
const GRAPH = new URL("embedded.onnx", FOLDER);
const MANIFEST = new URL("embedded.json", FOLDER);

/** The embedded encoder as an ONNX file; the same bytes on every call and machine. */
export function buildEncoder(): Uint8Array {
  return encodeModel(encoderModel(VERSION));
}

/** The manifest that goes with `graph`, as the text of `embedded.json`. */
export function buildManifest(graph: Uint8Array): string {
  const manifest = {
    name: "embedded",
    version: VERSION,
    file: "embedded.onnx",
    sha256: createHash("sha256").update(graph).digest("hex"),
    input: {
      name: "pixels",
      dtype: "uint8",
      layout: "NHWC",
      height: 224,
      width: 224,
      channels: "RGB",
      resize: "squash",
      kernel: "cubic",
      alpha: "white",
    },
    output: { name: "embedding", dim: DIMENSIONS, normalised: true },
    similarity_floor: 0.98,
  };
  return `${JSON.stringify(manifest, null, 2)}\n`;
}

function isCurrent(graph: Uint8Array, manifest: string): boolean {
  try {
    return Buffer.compare(readFileSync(GRAPH), graph) === 0 && readFileSync(MANIFEST, "utf8") === manifest;
  } catch (error) {
    console.error(String(error));
    return false;
  }
}

function main(): void {
  const graph = buildEncoder();
  const manifest = buildManifest(graph);
  if (process.argv.includes("--check")) {
    if (isCurrent(graph, manifest)) return;
    console.error("sidecar/encoders is not what the sources say: run node scripts/build-encoder.ts");
    process.exitCode = 1;
    return;
  }
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(GRAPH, graph);
  writeFileSync(MANIFEST, manifest);
  console.log(`${fileURLToPath(GRAPH)}: ${graph.length} bytes`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
