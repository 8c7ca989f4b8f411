import * as z from "zod";

/** The encoder's colour terms, in the order of its outputs: the eleven basic terms of Berlin and Kay. */
export const colourTerms = [
  "black",
  "white",
  "grey",
  "red",
  "orange",
  "yellow",
  "green",
  "blue",
  "purple",
  "pink",
  "brown",
] as const;
export type ColourTerm = (typeof colourTerms)[number];

/** Line directions, in the order of the encoder's outputs. */
export const lineDirections = ["vertical", "rising", "horizontal", "falling"] as const;

const share = z.number().min(0).max(1);
const term = z.enum(colourTerms);
const place = z.enum(["top", "bottom", "left", "right", "middle"]);
export type Place = z.output<typeof place>;

/** A word about a picture and the strength of its evidence, 0 to 1. */
export const tagSchema = z.object({ label: z.string().min(1), score: share });
export type Tag = z.output<typeof tagSchema>;

/**
 * What was measured of one picture, in words and numbers a person can check: nothing in it is guessed.
 * Shares are of the whole picture; `where` names the part that holds most of a colour, when one does.
 */
export const evidenceSchema = z.object({
  frame: z.object({
    width: z.int().min(1),
    height: z.int().min(1),
    shape: z.enum(["landscape", "portrait", "square"]),
  }),
  /** At most four, largest share first. */
  colours: z.array(z.object({ term, share, where: place.nullable() })),
  /** Two colours that fill opposite halves, or one that fills the middle alone. */
  layout: z
    .union([
      z.object({ kind: z.literal("above_below"), first: term, second: term }),
      z.object({ kind: z.literal("left_right"), first: term, second: term }),
      z.object({ kind: z.literal("middle"), first: term }),
    ])
    .nullable(),
  light: z.object({
    brightness: share,
    contrast: share,
    saturation: share,
    words: z.array(z.enum(["dark", "bright", "low contrast", "high contrast", "vivid", "without colour"])),
  }),
  detail: z.object({
    edges: share,
    sharpness: share,
    lines: z.enum(lineDirections).nullable(),
    symmetry: z.enum(["left to right", "top to bottom"]).nullable(),
    words: z.array(z.enum(["large plain areas", "fine detail", "soft", "crisp"])),
  }),
  /** Zero-shot labels of an owner's encoder; empty with the embedded one. */
  labels: z.array(z.object({ label: z.string(), p: share, group: z.string() })),
});
export type Evidence = z.output<typeof evidenceSchema>;

/** The embedded encoder's named outputs for one picture, row-major; cells are [n, 8, 8], row 0 on top. */
export type EncoderOutputs = Readonly<Record<string, Float32Array>>;

/** Cells a side of the encoder's grid. */
const grid = 8;

/**
 * The limits at which a measurement becomes a word. Starting values of the design, checked on photographs;
 * OKLab lightness puts middle grey (sRGB 128) at 0.60, and chroma ends at about 0.32.
 */
export const evidenceLimits = {
  colourShare: 0.05,
  colours: 4,
  whereMass: 0.75,
  middleMass: 0.6,
  halfFilled: 0.6,
  halfAbsent: 0.25,
  colourless: 0.05,
  dark: 0.36,
  bright: 0.74,
  lowContrast: 0.1,
  highContrast: 0.27,
  vivid: 0.09,
  plain: 0.03,
  fine: 0.35,
  linesEdges: 0.1,
  linesShare: 0.45,
  focusEdges: 0.05,
  soft: 0.15,
  crisp: 0.4,
  symmetrical: 0.85,
  symmetryContrast: 0.05,
  landscape: 1.15,
  portrait: 0.87,
} as const;

/** Turns one picture's outputs into evidence. `frame` is the upright size in pixels before any resize. */
export function readEvidence(outputs: EncoderOutputs, frame: { width: number; height: number }): Evidence {
  const shares = take(outputs, "image_colours", colourTerms.length);
  const cells = take(outputs, "cell_colours", colourTerms.length * grid * grid);
  const [brightness = 0] = take(outputs, "image_brightness", 1);
  const [contrast = 0] = take(outputs, "image_contrast", 1);
  const [saturation = 0] = take(outputs, "image_saturation", 1);
  const [edges = 0] = take(outputs, "image_edges", 1);
  const [sharpness = 0] = take(outputs, "image_sharpness", 1);
  const lines = take(outputs, "image_lines", lineDirections.length);
  const symmetry = take(outputs, "image_symmetry", 2);
  const limits = evidenceLimits;

  const light: Evidence["light"]["words"] = [];
  if (brightness < limits.dark) light.push("dark");
  if (brightness > limits.bright) light.push("bright");
  if (contrast < limits.lowContrast) light.push("low contrast");
  if (contrast > limits.highContrast) light.push("high contrast");
  if (saturation > limits.vivid) light.push("vivid");
  if (mostChromatic(cells) <= limits.colourless) light.push("without colour");

  const detail: Evidence["detail"]["words"] = [];
  if (edges < limits.plain) detail.push("large plain areas");
  if (edges > limits.fine) detail.push("fine detail");
  if (edges >= limits.focusEdges && sharpness < limits.soft) detail.push("soft");
  if (edges >= limits.focusEdges && sharpness > limits.crisp) detail.push("crisp");

  return {
    frame: { ...frame, shape: shapeOf(frame.width / frame.height) },
    colours: colourTerms
      .map((name, index) => ({ term: name, share: round(shares[index] ?? 0), where: placeOf(cellsOf(cells, index)) }))
      .filter((colour) => colour.share >= limits.colourShare)
      .sort((left, right) => right.share - left.share)
      .slice(0, limits.colours),
    layout: layoutOf(cells),
    light: { brightness: round(brightness), contrast: round(contrast), saturation: round(saturation), words: light },
    detail: {
      edges: round(edges),
      sharpness: round(sharpness),
      lines: directionOf(lines, edges),
      symmetry: contrast >= limits.symmetryContrast ? axisOf(symmetry) : null,
      words: detail,
    },
    labels: [],
  };
}

function take(outputs: EncoderOutputs, name: string, length: number): Float32Array {
  const values = outputs[name];
  if (values?.length !== length) throw new RangeError(`encoder output ${name} has ${values?.length ?? 0} values`);
  return values;
}

function cellsOf(cells: Float32Array, index: number): Float32Array {
  return cells.subarray(index * grid * grid, (index + 1) * grid * grid);
}

const isTop = (cell: number): boolean => cell < (grid * grid) / 2;
const isLeft = (cell: number): boolean => cell % grid < grid / 2;
const isMiddle = (cell: number): boolean => {
  const [row, column] = [Math.floor(cell / grid), cell % grid];
  return row >= 2 && row < 6 && column >= 2 && column < 6;
};
const not =
  (test: (cell: number) => boolean) =>
  (cell: number): boolean =>
    !test(cell);

/** Sum over the cells that pass. */
function sum(cells: Float32Array, test: (cell: number) => boolean): number {
  return cells.reduce((total, value, cell) => (test(cell) ? total + value : total), 0);
}

/** Mean share over the cells that pass. */
function mean(cells: Float32Array, test: (cell: number) => boolean): number {
  const count = cells.reduce((total, _, cell) => (test(cell) ? total + 1 : total), 0);
  return sum(cells, test) / count;
}

function placeOf(cells: Float32Array): Place | null {
  const whole = sum(cells, () => true);
  const part = (test: (cell: number) => boolean): number => (whole > 0 ? sum(cells, test) / whole : 0);
  if (part(isMiddle) >= evidenceLimits.middleMass) return "middle";
  const halves = [
    ["top", part(isTop)],
    ["bottom", part(not(isTop))],
    ["left", part(isLeft)],
    ["right", part(not(isLeft))],
  ] as const;
  const best = halves.reduce((most, half) => (half[1] > most[1] ? half : most));
  return best[1] >= evidenceLimits.whereMass ? best[0] : null;
}

function layoutOf(cells: Float32Array): Evidence["layout"] {
  // The colour that fills the first region and is all but absent from the second.
  const owner = (inside: (cell: number) => boolean, outside: (cell: number) => boolean): ColourTerm | undefined =>
    colourTerms.find(
      (_, index) =>
        mean(cellsOf(cells, index), inside) >= evidenceLimits.halfFilled &&
        mean(cellsOf(cells, index), outside) <= evidenceLimits.halfAbsent,
    );
  const above = owner(isTop, not(isTop));
  const below = owner(not(isTop), isTop);
  if (above !== undefined && below !== undefined) return { kind: "above_below", first: above, second: below };
  const left = owner(isLeft, not(isLeft));
  const right = owner(not(isLeft), isLeft);
  if (left !== undefined && right !== undefined) return { kind: "left_right", first: left, second: right };
  const middle = owner(isMiddle, not(isMiddle));
  return middle === undefined ? null : { kind: "middle", first: middle };
}

/** Largest share of chromatic terms (all but black, white and grey) in any cell. */
function mostChromatic(cells: Float32Array): number {
  let most = 0;
  for (let cell = 0; cell < grid * grid; cell += 1) {
    let chromatic = 0;
    for (let index = 3; index < colourTerms.length; index += 1) chromatic += cells[index * grid * grid + cell] ?? 0;
    most = Math.max(most, chromatic);
  }
  return most;
}

function directionOf(lines: Float32Array, edges: number): Evidence["detail"]["lines"] {
  const all = lines.reduce((total, value) => total + value, 0);
  if (edges < evidenceLimits.linesEdges || all <= 0) return null;
  return lineDirections.find((_, index) => (lines[index] ?? 0) / all >= evidenceLimits.linesShare) ?? null;
}

function axisOf(symmetry: Float32Array): Evidence["detail"]["symmetry"] {
  const [across = 0, down = 0] = symmetry;
  if (Math.max(across, down) < evidenceLimits.symmetrical) return null;
  return across >= down ? "left to right" : "top to bottom";
}

function shapeOf(ratio: number): Evidence["frame"]["shape"] {
  if (ratio >= evidenceLimits.landscape) return "landscape";
  return ratio <= evidenceLimits.portrait ? "portrait" : "square";
}

/** Three decimals, inside 0 to 1: float noise must not leave the schema's range. */
function round(value: number): number {
  return Math.min(1, Math.max(0, Math.round(value * 1000) / 1000));
}
