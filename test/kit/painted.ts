/** One pixel of a painted picture. */
export type Rgb = readonly [number, number, number];

/** Side of the embedded encoder's input. */
export const side = 224;

/** An encoder input painted by a function of column and row. */
export function paint(colour: (x: number, y: number) => Rgb): Uint8Array {
  const pixels = new Uint8Array(side * side * 3);
  for (let y = 0; y < side; y += 1) for (let x = 0; x < side; x += 1) pixels.set(colour(x, y), (y * side + x) * 3);
  return pixels;
}

/** Red, green, blue of `rrggbb`. */
export function rgb(hex: string): Rgb {
  const [red = 0, green = 0, blue = 0] = [0, 2, 4].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
  return [red, green, blue];
}

/** Seeded bytes, the same on every machine (Numerical Recipes' linear congruential generator). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state >>> 24;
  };
}

/** A mirrored copy. */
export function mirrored(pixels: Uint8Array): Uint8Array {
  return paint((x, y) => {
    const at = (y * side + (side - 1 - x)) * 3;
    return [pixels[at] ?? 0, pixels[at + 1] ?? 0, pixels[at + 2] ?? 0];
  });
}

/** A copy turned a quarter to the right. */
export function turned(pixels: Uint8Array): Uint8Array {
  return paint((x, y) => {
    const at = ((side - 1 - x) * side + y) * 3;
    return [pixels[at] ?? 0, pixels[at + 1] ?? 0, pixels[at + 2] ?? 0];
  });
}
