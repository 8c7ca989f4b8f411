import * as z from "zod";
import type { TensorRecipe } from "./tensor-recipe.ts";

type Triple = [number, number, number];

/** How a model wants its pictures; mean and standard deviation are of values scaled to 0…1. */
export type Preprocessing = { recipe: TensorRecipe; mean: Triple; std: Triple };

/** Names of the files a checkpoint's preprocessing is read from, first found first. */
export const preprocessingFiles = ["preprocessor_config.json", "preprocess_cfg.json", "open_clip_config.json"] as const;

const side = z.int().min(16).max(2048);
const triple = z.tuple([z.number(), z.number(), z.number()]);
const deviation = z.tuple([z.number().positive(), z.number().positive(), z.number().positive()]);
const sizes = z.union([side, z.object({ shortest_edge: side }), z.object({ height: side, width: side })]);

/** Hugging Face's `preprocessor_config.json`; `resample` is Pillow's number, old files say `mean`, `std` and a bare size. */
const huggingFaceSchema = z.object({
  size: sizes,
  crop_size: z.union([side, z.object({ height: side, width: side })]).optional(),
  do_center_crop: z.boolean().optional(),
  do_normalize: z.boolean().optional(),
  rescale_factor: z.number().optional(),
  resample: z.union([z.literal(0), z.literal(1), z.literal(2), z.literal(3)]).optional(),
  image_mean: triple.optional(),
  image_std: deviation.optional(),
  mean: triple.optional(),
  std: deviation.optional(),
});

/** open_clip's `preprocess_cfg`. */
const openClipSchema = z.object({
  size: z.union([side, z.tuple([side, side])]),
  interpolation: z.enum(["bicubic", "bilinear", "random"]).optional(),
  mean: triple,
  std: deviation,
  resize_mode: z.enum(["shortest", "squash"]).optional(),
});

const kernels = { 0: "nearest", 1: "lanczos3", 2: "linear", 3: "cubic" } as const;

/** Reads one of `preprocessingFiles`; throws an Error whose message says what is wrong with it. */
export function readPreprocessing(file: string, text: string): Preprocessing {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new Error(`${file} is not JSON`, { cause });
  }
  if (file === "preprocessor_config.json") return readHuggingFace(file, json);
  const inner =
    file === "open_clip_config.json"
      ? z.object({ preprocess_cfg: z.unknown() }).safeParse(json).data?.preprocess_cfg
      : json;
  return readOpenClip(file, inner);
}

function readHuggingFace(file: string, json: unknown): Preprocessing {
  const config = parse(file, huggingFaceSchema, json);
  const mean = config.image_mean ?? config.mean;
  const std = config.image_std ?? config.std;
  if (config.do_normalize !== false && (mean === undefined || std === undefined)) {
    throw new Error(`${file} has no image_mean and image_std`);
  }
  if (config.rescale_factor !== undefined && Math.abs(config.rescale_factor - 1 / 255) > 1e-6) {
    throw new Error(`${file} rescales by ${config.rescale_factor}; only 1/255 is understood`);
  }
  const crops = config.do_center_crop ?? config.crop_size !== undefined;
  const crop = config.crop_size === undefined ? undefined : edges(config.crop_size);
  const plain = { kernel: kernels[config.resample ?? 3], alpha: "drop" } as const;
  const recipe: TensorRecipe =
    typeof config.size === "object" && "shortest_edge" in config.size
      ? shortest(config.size.shortest_edge, crop)
      : typeof config.size === "number" && crops
        ? shortest(config.size, crop)
        : { ...edges(config.size), fit: "squash", ...plain };
  return { recipe, mean: mean ?? [0, 0, 0], std: std ?? [1, 1, 1] };

  function shortest(edge: number, cut: { width: number; height: number } | undefined): TensorRecipe {
    return { ...(cut ?? { width: edge, height: edge }), fit: "shortest", shortestEdge: edge, ...plain };
  }
}

function readOpenClip(file: string, json: unknown): Preprocessing {
  const { size, interpolation, mean, std, resize_mode: mode } = parse(file, openClipSchema, json);
  const [height, width] = typeof size === "number" ? [size, size] : size;
  const recipe: TensorRecipe = {
    width,
    height,
    fit: mode === "squash" ? "squash" : "shortest",
    kernel: interpolation === "bilinear" ? "linear" : "cubic",
    alpha: "drop",
  };
  return { recipe, mean, std };
}

function edges(size: z.output<typeof sizes>): { width: number; height: number } {
  if (typeof size === "number") return { width: size, height: size };
  return "shortest_edge" in size ? { width: size.shortest_edge, height: size.shortest_edge } : size;
}

function parse<S extends z.ZodType>(file: string, schema: S, json: unknown): z.output<S> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new Error(`${file}: ${issue?.path.join(".") ?? ""} ${issue?.message ?? "is not valid"}`);
}
