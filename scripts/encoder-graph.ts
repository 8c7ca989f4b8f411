import { LMS_TO_LAB, PROTOTYPES, RGB_TO_LMS, TERMS, linearLight, oklab } from "./encoder-palette.ts";
import type { Attribute, ElementType, Model, Node, Tensor } from "./onnx-writer.ts";

/** Side of the input in pixels, of the working maps, and of the grid of cells. */
const SIDE = 224;
const HALF = SIDE / 2;
const GRID = 8;

/** Number of values per image of every measured output; `image_` is [batch, n], `cell_` is [batch, n, 8, 8]. */
const MEASURED = {
  colours: TERMS.length,
  brightness: 1,
  contrast: 1,
  saturation: 1,
  edges: 1,
  lines: 4,
  sharpness: 1,
};

/** Width of the embedding. */
export const DIMENSIONS = 128;

// Lightness counts 0.6 of a and b, so that shades of one hue stay together; the exponent is how soon a neighbour's
// share fades (0.05 away: a third, 0.1 away: a hundredth).
const LIGHTNESS_WEIGHT = 0.6;
const SOFTMAX_BETA = 450;

// What a black terms vector, a grey one and so on share is subtracted, or any two images would look alike.
const TERM_CENTRES = [0.3, 0.3, 0.4, 0.2, 0.2, 0.15, 0.25, 0.3, 0.12, 0.2, 0.3];
const SCALAR_CENTRES = [0.55, 0.2, 0.07, 0.25, 0.04];

// Below these the sums are noise: three thousandths of full scale (with less, a blur of 4 px reads sharper than one of
// 2 on two of five photographs), and a mean OKLab difference of 4e-5 per value.
const SHARPNESS_EPSILON = 0.003;
const SYMMETRY_EPSILON = 0.1;

type Attributes = Readonly<Record<string, Attribute>>;

interface Graph {
  readonly nodes: Node[];
  readonly constants: Tensor[];
  add: (op: string, inputs: readonly string[], attributes?: Attributes, output?: string) => string;
  constant: (data: readonly number[], dims?: readonly number[], type?: ElementType) => string;
}

function emptyGraph(): Graph {
  const nodes: Node[] = [];
  const constants: Tensor[] = [];
  return {
    nodes,
    constants,
    add(op, inputs, attributes = {}, output = `v${nodes.length}`) {
      nodes.push({ op, inputs, outputs: [output], attributes });
      return output;
    },
    constant(data, dims = [data.length], type = "float") {
      const name = `c${constants.length}`;
      constants.push({ name, type, dims, data });
      return name;
    },
  };
}

const ints = (...values: readonly number[]): Attribute => ({ ints: values });
const scalar = (graph: Graph, value: number): string => graph.constant([value], []);
const lengths = (graph: Graph, ...values: readonly number[]): string =>
  graph.constant(values, [values.length], "int64");

function pool(graph: Graph, value: string, size: number, step = size): string {
  return graph.add("AveragePool", [value], {
    kernel_shape: ints(size, size),
    strides: ints(step, step),
  });
}

function padEdge(graph: Graph, value: string, size: number): string {
  const pads = lengths(graph, 0, 0, size, size, 0, 0, size, size);
  return graph.add("Pad", [value, pads], { mode: { string: "edge" } });
}

/** Mean over a square window around every pixel; two passes, as a window is the product of its row and its column. */
function box(graph: Graph, value: string, size: number): string {
  const padded = padEdge(graph, value, (size - 1) / 2);
  const rows = graph.add("AveragePool", [padded], { kernel_shape: ints(1, size) });
  return graph.add("AveragePool", [rows], { kernel_shape: ints(size, 1) });
}

function mix(graph: Graph, value: string, weights: readonly number[], inputs: number): string {
  const dims = [weights.length / inputs, inputs, 1, 1];
  return graph.add("Conv", [value, graph.constant(weights, dims)], { kernel_shape: ints(1, 1) });
}

function channel(graph: Graph, value: string, from: number, to = from + 1): string {
  const [start, end, axis] = [from, to, 1].map((each) => lengths(graph, each));
  return graph.add("Slice", [value, start ?? "", end ?? "", axis ?? ""]);
}

/** `sigmoid((value − middle) / width)`; a negative width turns it round. */
function sigmoidAt(graph: Graph, value: string, middle: number, width: number): string {
  const shifted = graph.add("Sub", [value, scalar(graph, middle)]);
  return graph.add("Sigmoid", [graph.add("Mul", [shifted, scalar(graph, 1 / width)])]);
}

function absolute(graph: Graph, left: string, right: string): string {
  return graph.add("Abs", [graph.add("Sub", [left, right])]);
}

function imageMean(graph: Graph, value: string, output?: string): string {
  return graph.add(
    "ReduceMean",
    [value],
    { axes: ints(2, 3), keepdims: { int: output === undefined ? 1 : 0 } },
    output,
  );
}

/** OKLab [batch, 3, 112, 112] and luma 0…1 [batch, 1, 224, 224]: light adds up linearly, edges are seen as encoded. */
function readPixels(graph: Graph): { lab: string; luma: string } {
  const planes = graph.add("Transpose", ["pixels"], { perm: ints(0, 3, 1, 2) });
  const indices = graph.add("Cast", [planes], { to: { int: 6 } });
  const table = graph.constant(Array.from({ length: 256 }, (_, byte) => linearLight(byte)));
  const light = pool(graph, graph.add("Gather", [table, indices]), 2);
  const cones = mix(graph, light, RGB_TO_LMS, 3);
  const lab = mix(graph, graph.add("Pow", [cones, scalar(graph, 1 / 3)]), LMS_TO_LAB, 3);
  const bytes = graph.add("Cast", [planes], { to: { int: 1 } });
  const luma = mix(
    graph,
    bytes,
    [0.299, 0.587, 0.114].map((weight) => weight / 255),
    3,
  );
  return { lab, luma };
}

/** Shares of the colour terms per cell, [batch, 11, 8, 8]. */
function measureColours(graph: Graph, lab: string, lightness: string, chroma: string): string {
  const owners: number[] = [];
  const centres = TERMS.flatMap((term, index) =>
    PROTOTYPES[term].split(" ").map((hex) => {
      owners.push(index);
      const [l = 0, a = 0, b = 0] = oklab(hex);
      return [LIGHTNESS_WEIGHT * l, a, b];
    }),
  );
  // The squared distance without the pixel's own square, which every prototype shares and the softmax cancels.
  const weights = [LIGHTNESS_WEIGHT, 1, 1].flatMap((scale, axis) =>
    centres.map((centre) => 2 * SOFTMAX_BETA * scale * (centre[axis] ?? 0)),
  );
  const biases = centres.map((centre) => -SOFTMAX_BETA * centre.reduce((sum, value) => sum + value * value, 0));
  const membership = owners.flatMap((owner) => TERMS.map((_, index) => (index === owner ? 1 : 0)));

  // Channels last: over any other axis the softmax costs more than the rest of the graph.
  const points = graph.add("Transpose", [lab], { perm: ints(0, 2, 3, 1) });
  const products = graph.add("MatMul", [points, graph.constant(weights, [3, centres.length])]);
  const logits = graph.add("Add", [products, graph.constant(biases)]);
  const likeness = graph.add("Softmax", [logits], { axis: { int: -1 } });
  const terms = graph.add("MatMul", [likeness, graph.constant(membership, [centres.length, TERMS.length])]);

  const last = lengths(graph, 0, HALF, HALF, 1);
  const gate = graph.add("Reshape", [sigmoidAt(graph, chroma, 0.03, 0.006), last]);
  const one = scalar(graph, 1);
  const closed = graph.add("Sub", [one, gate]);
  const flat = graph.add("Reshape", [lightness, last]);
  const black = sigmoidAt(graph, flat, 0.27, -0.02);
  const white = sigmoidAt(graph, flat, 0.9, 0.012);
  const grey = graph.add("Sub", [graph.add("Sub", [one, black]), white]);
  const neutral = graph.add("Concat", [black, white, grey], { axis: { int: -1 } });
  const both = graph.add("Concat", [graph.add("Mul", [terms, gate]), graph.add("Mul", [neutral, closed])], {
    axis: { int: -1 },
  });
  const cells = pool(graph, graph.add("Transpose", [both], { perm: ints(0, 3, 1, 2) }), 14);
  const joined = TERMS.flatMap((_, row) =>
    Array.from({ length: TERMS.length + 3 }, (__, column) => (column === row || column === TERMS.length + row ? 1 : 0)),
  );
  return mix(graph, cells, joined, TERMS.length + 3);
}

/** Edge density split by line direction per cell, [batch, 4, 8, 8]: vertical, rising, horizontal, falling. */
function measureLines(graph: Graph, luma: string): string {
  // Scharr's kernels; divided by 16 a full step between two pixels is 1.
  const scharr = [-3, 0, 3, -10, 0, 10, -3, 0, 3, -3, -10, -3, 0, 0, 0, 3, 10, 3];
  const kernels = graph.constant(
    scharr.map((value) => value / 16),
    [2, 1, 3, 3],
  );
  const gradient = graph.add("Conv", [padEdge(graph, pool(graph, luma, 2), 1), kernels], {
    kernel_shape: ints(3, 3),
  });
  const squares = graph.add("Mul", [gradient, gradient]);
  const [xx, yy] = [channel(graph, squares, 0), channel(graph, squares, 1)];
  const cosine = graph.add("Sub", [xx, yy]);
  const product = graph.add("Mul", [channel(graph, gradient, 0), channel(graph, gradient, 1)]);
  const sine = graph.add("Mul", [product, scalar(graph, 2)]);
  const zero = scalar(graph, 0);
  // y points down: a gradient to the lower right crosses a line that rises to the right.
  const turned = graph.add("Concat", [cosine, sine, graph.add("Neg", [cosine]), graph.add("Neg", [sine])], {
    axis: { int: 1 },
  });
  const rectified = graph.add("Clip", [turned, zero]);
  const total = graph.add("ReduceSum", [rectified, lengths(graph, 1)]);
  const safe = graph.add("Add", [total, scalar(graph, 1e-12)]);
  const magnitude = graph.add("Sqrt", [graph.add("Add", [xx, yy])]);
  const above = graph.add("Sub", [magnitude, scalar(graph, 0.06)]);
  const scaled = graph.add("Mul", [above, scalar(graph, 1 / 0.18)]);
  const weight = graph.add("Clip", [scaled, zero, scalar(graph, 1)]);
  const lines = graph.add("Mul", [rectified, graph.add("Div", [weight, safe])]);
  return pool(graph, lines, 14);
}

/** Fine and coarse detail per cell, each [batch, 1, 8, 8]. */
function measureDetail(graph: Graph, luma: string): { fine: string; coarse: string } {
  const near = box(graph, luma, 3);
  const wide = box(graph, luma, 9);
  return {
    fine: pool(graph, absolute(graph, luma, near), SIDE / GRID),
    coarse: pool(graph, absolute(graph, near, wide), SIDE / GRID),
  };
}

function sharpness(graph: Graph, fine: string, coarse: string, output: string): void {
  const sum = graph.add("Add", [graph.add("Add", [fine, coarse]), scalar(graph, SHARPNESS_EPSILON)]);
  graph.add("Div", [fine, sum], {}, output);
}

/** Standard deviation of lightness, over each cell and over the image. */
function measureContrast(graph: Graph, lightness: string): void {
  const off = graph.add("Sub", [lightness, imageMean(graph, lightness)]);
  const variance = imageMean(graph, graph.add("Mul", [off, off]), "image_variance");
  graph.add("Sqrt", [variance], {}, "image_contrast");
  const cell = HALF / GRID;
  const split = graph.add("Reshape", [lightness, lengths(graph, 0, GRID, cell, GRID, cell)]);
  const axes = { axes: ints(2, 4) };
  const away = graph.add("Sub", [split, graph.add("ReduceMean", [split], axes)]);
  const squares = graph.add("Mul", [away, away]);
  const deviation = graph.add("Sqrt", [graph.add("ReduceMean", [squares], axes)]);
  graph.add("Reshape", [deviation, lengths(graph, 0, 1, GRID, GRID)], {}, "cell_contrast");
}

/** `image_symmetry` [batch, 2]: left to right, top to bottom, at 28 × 28. */
function measureSymmetry(graph: Graph, lab: string): void {
  const small = pool(graph, lab, 4);
  const mirror = graph.constant(
    Array.from({ length: 28 }, (_, index) => 27 - index),
    [28],
    "int64",
  );
  const axes = lengths(graph, 1, 2, 3);
  const total = (value: string): string =>
    graph.add("Reshape", [graph.add("ReduceSum", [value, axes]), lengths(graph, 0, 1)]);
  const spread = total(absolute(graph, small, imageMean(graph, small)));
  const most = graph.add("Mul", [spread, scalar(graph, 2)]);
  const safe = graph.add("Add", [most, scalar(graph, SYMMETRY_EPSILON)]);
  const differences = [3, 2].map((axis) =>
    total(absolute(graph, small, graph.add("Gather", [small, mirror], { axis: { int: axis } }))),
  );
  const ratio = graph.add("Div", [graph.add("Concat", differences, { axis: { int: 1 } }), safe]);
  graph.add("Sub", [scalar(graph, 1), ratio], {}, "image_symmetry");
}

function softNormal(graph: Graph, value: string, epsilon: number, weight: number): string {
  const flat = graph.add("Reshape", [value, lengths(graph, 0, -1)]);
  const squares = graph.add("ReduceSum", [graph.add("Mul", [flat, flat]), lengths(graph, 1)]);
  const norm = graph.add("Sqrt", [graph.add("Add", [squares, scalar(graph, epsilon ** 2)])]);
  return graph.add("Mul", [graph.add("Div", [flat, norm]), scalar(graph, weight)]);
}

function root(graph: Graph, value: string): string {
  return graph.add("Sqrt", [graph.add("Clip", [value, scalar(graph, 0)])]);
}

/** `embedding` [batch, 128]: centred blocks, each softly normalised, so that no block speaks where it measured nothing. */
function embed(graph: Graph, lab: string): void {
  const quarters = pool(graph, lab, HALF / 4);
  const light = channel(graph, quarters, 0);
  const lines = graph.add("Sub", [root(graph, pool(graph, "cell_lines", 2)), scalar(graph, 0.2)]);
  const terms = graph.add("Sub", [root(graph, "image_colours"), graph.constant(TERM_CENTRES)]);
  const dimmed = graph.add("Mul", ["image_sharpness", scalar(graph, 0.1)]);
  const measured = graph.add(
    "Concat",
    ["image_brightness", "image_contrast", "image_saturation", "image_edges", dimmed],
    { axis: { int: 1 } },
  );
  const scalars = graph.add("Sub", [measured, graph.constant(SCALAR_CENTRES)]);
  const joined = graph.add(
    "Concat",
    [
      softNormal(graph, graph.add("Sub", [light, imageMean(graph, light)]), 0.15, 1),
      softNormal(graph, channel(graph, quarters, 1, 3), 0.12, 1),
      softNormal(graph, terms, 0.05, 1),
      softNormal(graph, lines, 0.1, 0.4),
      softNormal(graph, scalars, 0.05, 0.5),
    ],
    { axis: { int: 1 } },
  );
  const squares = graph.add("ReduceSum", [graph.add("Mul", [joined, joined]), lengths(graph, 1)]);
  graph.add("Div", [joined, graph.add("Sqrt", [squares])], {}, "embedding");
}

/** The embedded encoder: `pixels` uint8 [batch, 224, 224, 3] RGB in, measurements and a unit vector out. */
export function encoderModel(version: string): Model {
  const graph = emptyGraph();
  const { lab, luma } = readPixels(graph);
  const lightness = channel(graph, lab, 0);
  const tint = channel(graph, lab, 1, 3);
  const tintSquared = graph.add("Mul", [tint, tint]);
  const chroma = graph.add("Sqrt", [graph.add("ReduceSum", [tintSquared, lengths(graph, 1)])]);
  const publish = (name: string, cells: string): void => {
    const cell = graph.add("Identity", [cells], {}, `cell_${name}`);
    imageMean(graph, cell, `image_${name}`);
  };
  publish("colours", measureColours(graph, lab, lightness, chroma));
  publish("brightness", pool(graph, lightness, 14));
  publish("saturation", pool(graph, chroma, 14));
  const lines = measureLines(graph, luma);
  publish("lines", lines);
  publish("edges", graph.add("ReduceSum", [lines, lengths(graph, 1)]));
  measureContrast(graph, lightness);
  const { fine, coarse } = measureDetail(graph, luma);
  sharpness(graph, fine, coarse, "cell_sharpness");
  sharpness(graph, imageMean(graph, fine, "image_fine"), imageMean(graph, coarse, "image_coarse"), "image_sharpness");
  measureSymmetry(graph, lab);
  embed(graph, lab);

  const outputs = Object.entries(MEASURED).flatMap(([name, size]) => [
    { name: `image_${name}`, type: "float" as const, shape: ["batch", size] },
    { name: `cell_${name}`, type: "float" as const, shape: ["batch", size, GRID, GRID] },
  ]);
  return {
    graphName: "pixel-llm embedded encoder",
    metadata: { name: "embedded", version },
    nodes: graph.nodes,
    initializers: graph.constants,
    inputs: [{ name: "pixels", type: "uint8", shape: ["batch", SIDE, SIDE, 3] }],
    outputs: [
      ...outputs,
      { name: "image_symmetry", type: "float", shape: ["batch", 2] },
      { name: "embedding", type: "float", shape: ["batch", DIMENSIONS] },
    ],
  };
}
