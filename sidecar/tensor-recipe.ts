/** How a picture becomes one encoder's input: uint8 RGB, rows of `width` pixels, interleaved. */
export type TensorRecipe = {
  width: number;
  height: number;
  /** `squash`: the whole frame; `shortest`: shortest edge to `shortestEdge`, then the centre of `width` × `height`. */
  fit: "squash" | "shortest";
  /** With `shortest`; absent = the larger of width and height. */
  shortestEdge?: number;
  kernel: "cubic" | "linear" | "lanczos3" | "nearest";
  /** `white`: transparent parts show white; `drop`: the hidden colours show, as Hugging Face's processors do. */
  alpha: "white" | "drop";
  /** False where parity needs the full decode; absent = true. */
  fastShrinkOnLoad?: boolean;
};
