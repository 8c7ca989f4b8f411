/** Element types an encoder's image input may have. */
export type InputType = "uint8" | "float32" | "float16";

/** One input or output as onnxruntime reports it; symbolic sizes are text. */
export type TensorFacts = { name: string; type: string; shape: readonly (number | string)[] };

/** How uint8 RGB pixels become the model's input. */
export type Feed = {
  name: string;
  type: InputType;
  layout: "NHWC" | "NCHW";
  height: number;
  width: number;
  /** Per channel, of values scaled to 0…1; not used for uint8. */
  mean: readonly [number, number, number];
  std: readonly [number, number, number];
};

/** Parent to encoder host. */
export type HostOrder =
  | { kind: "load"; file: string; threads: number }
  | { kind: "feed"; feed: Feed; outputs: readonly string[] }
  | { kind: "run"; id: number; pixels: Uint8Array };

/** One output tensor of one picture. */
export type HostTensor = { dims: readonly number[]; data: Float32Array };

/** Encoder host to parent. */
export type HostReport =
  | { kind: "loaded"; inputs: TensorFacts[]; outputs: TensorFacts[] }
  | { kind: "load_failed"; text: string }
  | { kind: "result"; id: number; outputs: Record<string, HostTensor>; milliseconds: number }
  | { kind: "run_failed"; id: number; text: string };
