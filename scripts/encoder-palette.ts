import { colourTerms, type ColourTerm } from "../shared/evidence.ts";

/** The eleven basic colour terms, in the order of the encoder's outputs. */
export const TERMS = colourTerms;

/**
 * sRGB prototypes of each term, as hexadecimal triples. Chosen by hand from colours people name without dispute, plus
 * dark tints under black, pale tints under white and tinted greys, which would otherwise be read as faint colours.
 */
export const PROTOTYPES: Readonly<Record<ColourTerm, string>> = {
  black: "000000 141414 1e0c0c 0c1a0c 0a0a20 1c1408 180a1c 08161a",
  white: "ffffff f4f4f4 fffaee f0fff0 eef6ff fff2f6 f6f2ff ecfbfa",
  grey: "808080 bebebe 4a4a4a 708090 8c8084 7c8a7e 948c80 b4bac4 50545c 5c544e c4bcb4 5a665e",
  red: "ff0000 dc143c b22222 8b0000 e03c31 640a0a cd3c3c c01030 f04a40",
  orange: "d85a34 f0966a ffa500 ff8c00 ff7f50 ff6a00 e67300 ffb347 f08c3c ff9b5a",
  yellow: "ffff00 ffd700 f0e68c ffeb3b e6c619 fff59d d2be28 fafa8c fffacd",
  green: "008000 00ff00 228b22 006400 90ee90 556b2f 6b8e23 2e8b57 9acd32 8fbc8f 00ff7f 143c14 3cb371 7cb860",
  blue: "0000ff 000080 4169e1 87ceeb add8e6 1e90ff 00bfff 4682b4 6495ed 00ffff 14285a 5a8cc8 3050a0 b0d0f0",
  purple: "800080 4b0082 8a2be2 9932cc ba55d3 9370db 663399 321446 8c64aa 6a3cc8 b48cd8",
  pink: "ffc0cb ff69b4 ff1493 db7093 ffb6c1 ff00ff f4b4c8 e75480 ff8cc8 e8a0b0",
  brown: "8b4513 a0522d 964b00 654321 3d2b1f 5c4033 7b3f00 b4783c c19a6b d2b48c a87850 4a2c14 8c6446 6e4628",
};

/** Linear light 0…1 of an 8-bit sRGB value (IEC 61966-2-1). */
export function linearLight(byte: number): number {
  const value = byte / 255;
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
}

/** Linear sRGB to the cone responses of OKLab (Ottosson 2020; the figures of CSS Color 4), row-major 3 × 3. */
export const RGB_TO_LMS: readonly number[] = [
  0.412221469470763, 0.5363325372617348, 0.0514459932675022, 0.2119034958178252, 0.6806995506452344, 0.1073969535369406,
  0.0883024591900564, 0.2817188391361215, 0.6299787016738222,
];

/** Cube roots of the cone responses to OKLab's L, a, b (same source), row-major 3 × 3. */
export const LMS_TO_LAB: readonly number[] = [
  0.210454268309314, 0.7936177747023054, -0.0040720430116193, 1.9779985324311684, -2.4285922420485799,
  0.450593709617411, 0.0259040424655478, 0.7827717124575296, -0.8086757549230774,
];

function product(matrix: readonly number[], vector: readonly number[]): number[] {
  return [0, 1, 2].map((row) =>
    vector.reduce((sum, value, column) => sum + (matrix[3 * row + column] ?? 0) * value, 0),
  );
}

/** OKLab of an sRGB triple such as `ffa500`. */
export function oklab(hex: string): number[] {
  const rgb = [0, 2, 4].map((at) => linearLight(Number.parseInt(hex.slice(at, at + 2), 16)));
  return product(
    LMS_TO_LAB,
    product(RGB_TO_LMS, rgb).map((cone) => Math.cbrt(cone)),
  );
}
