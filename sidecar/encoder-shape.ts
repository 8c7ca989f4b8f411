import type { EncoderModel } from "./checkpoint.ts";
import { loadFailed } from "./checkpoint.ts";
import type { Feed, HostTensor, InputType, TensorFacts } from "./encoder-protocol.ts";
import type { TensorRecipe } from "./tensor-recipe.ts";

/** How a loaded graph is used: what it is fed, and which output is its vector. */
export type EncoderShape = {
  feed: Feed;
  recipe: TensorRecipe;
  /** Names of the outputs to fetch; all of them for the embedded encoder. */
  fetch: readonly string[];
  /** The output that holds the vector; `token` = the first row of `[batch, tokens, n]`. */
  vector: { name: string; pooling: "none" | "token" };
};

const inputTypes: readonly string[] = ["uint8", "float32", "float16"] satisfies InputType[];

/** Outputs that hold an image's vector, best first. */
const vectorOutputs = ["image_embeds", "embedding", "pooler_output"];

/**
 * Fits a graph's inputs and outputs to what we can feed and read, or throws `ERR_ENC_LOAD_FAILED` saying why not:
 * one image input of rank 4 with 3 channels at axis 1 or 3, and an output that is a vector per picture.
 */
export function fitEncoder(
  model: EncoderModel,
  inputs: readonly TensorFacts[],
  outputs: readonly TensorFacts[],
): EncoderShape {
  const refuse = (hint: string): never => {
    throw loadFailed(model.file, hint);
  };
  const [input, ...others] = inputs;
  if (input === undefined || others.length > 0) {
    return refuse(
      `The model has ${inputs.length} inputs (${inputs.map(({ name }) => name).join(", ")}); an encoder takes one picture: use the vision model alone.`,
    );
  }
  if (!inputTypes.includes(input.type)) {
    return refuse(`The input \`${input.name}\` is ${input.type}; uint8, float32 and float16 pictures can be fed.`);
  }
  const type = input.type as InputType;
  if (input.shape.length !== 4) {
    return refuse(
      `The input \`${input.name}\` has ${input.shape.length} axes; a picture has 4: batch, and channels, height, width.`,
    );
  }
  const layout = input.shape[1] === 3 ? "NCHW" : input.shape[3] === 3 ? "NHWC" : null;
  // An export may leave every axis symbolic; then the order is the one all image processors use.
  const symbolic = layout === null && typeof input.shape[1] === "string" && typeof input.shape[3] === "string";
  if (layout === null && !symbolic) {
    return refuse(`The input \`${input.name}\` of shape ${input.shape.join(" × ")} has no axis of 3 colour channels.`);
  }
  const order = layout ?? "NCHW";
  const [height, width] = order === "NCHW" ? [input.shape[2], input.shape[3]] : [input.shape[1], input.shape[2]];
  const recipe = model.preprocessing?.recipe ?? rawRecipe(type, height, width);
  if (recipe === null) {
    return refuse("Nothing says how to prepare pictures for this model: put its preprocessor_config.json beside it.");
  }
  if (
    (typeof height === "number" && height !== recipe.height) ||
    (typeof width === "number" && width !== recipe.width)
  ) {
    return refuse(
      `The model takes ${width} × ${height} pixels, its preprocessing gives ${recipe.width} × ${recipe.height}.`,
    );
  }
  const vector = chooseVector(outputs);
  if (vector === null) {
    return refuse(`None of the outputs (${outputs.map(({ name }) => name).join(", ")}) is a vector per picture.`);
  }
  return {
    feed: {
      name: input.name,
      type,
      layout: order,
      height: recipe.height,
      width: recipe.width,
      mean: model.preprocessing?.mean ?? [0, 0, 0],
      std: model.preprocessing?.std ?? [1, 1, 1],
    },
    recipe,
    fetch: model.embedded ? outputs.map(({ name }) => name) : [vector.name],
    vector,
  };
}

/** The unit vector of one run, normalised in double precision; null when it is not finite, empty or zero. */
export function readVector(shape: EncoderShape, outputs: Readonly<Record<string, HostTensor>>): Float32Array | null {
  const tensor = outputs[shape.vector.name];
  if (tensor === undefined) return null;
  const length = tensor.dims.at(-1) ?? 0;
  const values = tensor.data.subarray(0, length);
  const norm = Math.hypot(...values);
  if (values.length !== length || length === 0 || !Number.isFinite(norm) || norm === 0) return null;
  return Float32Array.from(values, (value) => value / norm);
}

/** Raw bytes need no preprocessing to be known: the graph itself says their size. */
function rawRecipe(
  type: InputType,
  height: number | string | undefined,
  width: number | string | undefined,
): TensorRecipe | null {
  if (type !== "uint8" || typeof height !== "number" || typeof width !== "number") return null;
  return { width, height, fit: "squash", kernel: "cubic", alpha: "white" };
}

function chooseVector(outputs: readonly TensorFacts[]): EncoderShape["vector"] | null {
  const flat = outputs.filter(({ shape }) => shape.length === 2);
  for (const name of vectorOutputs) if (flat.some((output) => output.name === name)) return { name, pooling: "none" };
  const [only, ...more] = flat;
  if (only !== undefined && more.length === 0) return { name: only.name, pooling: "none" };
  const hidden = outputs.find(({ name, shape }) => name === "last_hidden_state" && shape.length === 3);
  return hidden === undefined ? null : { name: hidden.name, pooling: "token" };
}
