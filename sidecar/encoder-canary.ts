/** Four made pictures that no working encoder confuses: grey, two halves, a gradient, seeded noise (uint8 RGB). */
export function canaryPictures(width: number, height: number): Uint8Array[] {
  const paint = (colour: (x: number, y: number) => readonly [number, number, number]): Uint8Array => {
    const pixels = new Uint8Array(width * height * 3);
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) pixels.set(colour(x, y), (y * width + x) * 3);
    }
    return pixels;
  };
  let seed = 1;
  // Numerical Recipes' linear congruential generator: the same noise on every machine.
  const noise = (): number => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return seed >>> 24;
  };
  return [
    paint(() => [128, 128, 128]),
    paint((x) => (x < width / 2 ? [200, 40, 30] : [30, 60, 200])),
    paint((x, y) => [Math.floor((255 * x) / width), Math.floor((255 * y) / height), 90]),
    paint(() => [noise(), noise(), noise()]),
  ];
}

/** Whether an encoder's vectors of the canary pictures can be trusted. */
export type CanaryVerdict = { ok: true; dimensions: number } | { ok: false; hint: string };

/** Cosine from which two vectors count as the same. */
const sameCosine = 0.9999;

/** Judges unit vectors of the canary pictures; null = the run gave no finite vector. */
export function judgeCanary(vectors: readonly (Float32Array | null)[]): CanaryVerdict {
  const good: Float32Array[] = [];
  for (const vector of vectors) {
    if (vector === null) return { ok: false, hint: "The model gives zero or non-finite vectors." };
    good.push(vector);
  }
  for (const [index, left] of good.entries()) {
    for (const right of good.slice(index + 1)) {
      const cosine = left.reduce((sum, value, at) => sum + value * (right[at] ?? 0), 0);
      if (cosine >= sameCosine) return { ok: false, hint: "The model gives the same vector for different pictures." };
    }
  }
  return { ok: true, dimensions: good[0]?.length ?? 0 };
}
