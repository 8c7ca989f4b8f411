import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { encodeModel, type ElementType, type Model, type Node } from "../../scripts/onnx-writer.ts";
import { temporaryFolder } from "./folders.ts";

/** How a made encoder differs from a well-behaved one. */
export type FixtureShape = {
  type?: ElementType;
  shape?: readonly (number | string)[];
  layout?: "NCHW" | "NHWC";
  output?: "image_embeds" | "last_hidden_state" | "features";
  /** What its vectors are, whatever the picture. */
  fault?: "nan" | "zero" | "constant";
  op?: string;
  extraInput?: boolean;
};

const side = 32;

/** A small encoder that gives each picture's mean energy and its left half's mean colour: `[batch, 6]`. */
export function makeEncoder(fixture: FixtureShape = {}): Uint8Array {
  const layout = fixture.layout ?? "NCHW";
  const shape = fixture.shape ?? (layout === "NCHW" ? ["batch", 3, side, side] : ["batch", side, side, 3]);
  const output = fixture.output ?? "image_embeds";
  const nodes: Node[] = [];
  const add = (op: string, inputs: string[], outputs: string, attributes: Node["attributes"] = {}): string => {
    nodes.push({ op, inputs, outputs: [outputs], attributes });
    return outputs;
  };
  const floats = add("Cast", ["pixel_values"], "floats", { to: { int: 1 } });
  const planes = layout === "NCHW" ? floats : add("Transpose", [floats], "planes", { perm: { ints: [0, 3, 1, 2] } });
  const squares = add("Mul", [add("Mul", [planes, "scale"], "scaled"), planes], "squares");
  const energy = add("ReduceMean", [squares], "energy", { axes: { ints: [2, 3] }, keepdims: { int: 0 } });
  const half = add("Slice", [planes, "from", "to", "axis"], "half");
  const left = add("ReduceMean", [half], "left", { axes: { ints: [2, 3] }, keepdims: { int: 0 } });
  const joined = add("Concat", [energy, left], "joined", { axis: { int: 1 } });
  let vector = fixture.op === undefined ? joined : add(fixture.op, [joined], "odd");
  if (fixture.fault === "zero") vector = add("Sub", [joined, joined], "zeros");
  if (fixture.fault === "nan") vector = add("Div", ["nothing", add("Sub", [joined, joined], "zeros")], "nans");
  if (fixture.fault === "constant") vector = add("Add", [add("Sub", [joined, joined], "zeros"), "ones"], "same");
  if (output === "last_hidden_state") add("Reshape", [vector, "tokens"], output);
  else add("Identity", [vector], output);
  const model: Model = {
    graphName: "fixture",
    metadata: {},
    nodes,
    initializers: [
      { name: "from", type: "int64", dims: [1], data: [0] },
      { name: "to", type: "int64", dims: [1], data: [side / 2] },
      { name: "axis", type: "int64", dims: [1], data: [3] },
      // Raw bytes are large numbers: unscaled, their squares would drown everything else.
      { name: "scale", type: "float", dims: [], data: [fixture.type === "uint8" ? 1 / 256 : 1] },
      { name: "nothing", type: "float", dims: [], data: [0] },
      { name: "ones", type: "float", dims: [6], data: [1, 2, 3, 4, 5, 6] },
      { name: "tokens", type: "int64", dims: [3], data: [0, 1, 6] },
    ],
    inputs: [
      { name: "pixel_values", type: fixture.type ?? "float", shape },
      ...(fixture.extraInput === true ? [{ name: "input_ids", type: "int64" as const, shape: ["batch", 7] }] : []),
    ],
    outputs: [{ name: output, type: "float", shape: output === "last_hidden_state" ? ["batch", 1, 6] : ["batch", 6] }],
  };
  return encodeModel(model);
}

/** Hugging Face's preprocessing for the made encoder. */
export const preprocessorConfig = {
  do_center_crop: true,
  crop_size: { height: side, width: side },
  size: { shortest_edge: side },
  resample: 3,
  rescale_factor: 1 / 255,
  image_mean: [0.48, 0.46, 0.41],
  image_std: [0.27, 0.26, 0.28],
};

/** Writes files (path inside → content) into a new temporary folder and gives its path. */
export async function makeFolder(files: Readonly<Record<string, Uint8Array | string>>): Promise<string> {
  const folder = temporaryFolder();
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), content);
  }
  return folder;
}
