/** Element type of a tensor or a value; the numbers behind the names are ONNX's `TensorProto.DataType`. */
export type ElementType = "float" | "uint8" | "int32" | "int64" | "bool" | "float16" | "double";

/** One node attribute; the key says which of ONNX's attribute types is written, since 1 may be an int or a float. */
export type Attribute =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly ints: readonly number[] };

/** One operator call; an empty input name leaves out an optional input. */
export interface Node {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes?: Readonly<Record<string, Attribute>>;
  readonly name?: string;
  readonly domain?: string;
}

/**
 * One constant of the graph. `data` holds the values in row-major order (float16: the 16 bits of each value as an
 * integer), or names a file beside the model that holds the raw little-endian bytes.
 */
export interface Tensor {
  readonly name: string;
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly data: ArrayLike<number> | { readonly location: string; readonly offset?: number; readonly length?: number };
}

/** Name, element type and shape of a graph input or output; a text dimension is symbolic, such as `batch`. */
export interface ValueInfo {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly (number | string)[];
}

/** Everything `encodeModel` writes; nodes stand in an order in which every input is known before it is used. */
export interface Model {
  readonly irVersion?: number;
  readonly opset?: number;
  readonly opsets?: readonly { readonly domain: string; readonly version: number }[];
  readonly producer?: string;
  readonly graphName?: string;
  readonly nodes: readonly Node[];
  readonly initializers?: readonly Tensor[];
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly metadata?: Readonly<Record<string, string>>;
}

const CODES: Readonly<Record<ElementType, number>> = {
  float: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  double: 11,
};

const SIZES: Readonly<Record<ElementType, number>> = {
  float: 4,
  uint8: 1,
  int32: 4,
  int64: 8,
  bool: 1,
  float16: 2,
  double: 8,
};

const utf8 = new TextEncoder();

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  // Negative integers are ten bytes of two's complement on the wire.
  let rest = BigInt.asUintN(64, BigInt(value));
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Uint8Array.from(bytes);
}

function integer(field: number, value: number): Uint8Array {
  return concat([varint(field << 3), varint(value)]);
}

function block(field: number, bytes: Uint8Array): Uint8Array {
  return concat([varint((field << 3) | 2), varint(bytes.length), bytes]);
}

function message(field: number, ...parts: readonly Uint8Array[]): Uint8Array {
  return block(field, concat(parts));
}

function text(field: number, value: string): Uint8Array {
  return block(field, utf8.encode(value));
}

function float32(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return concat([varint((field << 3) | 5), bytes]);
}

function pair(field: number, key: string, value: string): Uint8Array {
  return message(field, text(1, key), text(2, value));
}

function attribute(name: string, value: Attribute): Uint8Array {
  if ("int" in value) return message(5, text(1, name), integer(3, value.int), integer(20, 2));
  if ("float" in value) return message(5, text(1, name), float32(2, value.float), integer(20, 1));
  if ("string" in value) return message(5, text(1, name), text(4, value.string), integer(20, 3));
  return message(5, text(1, name), ...value.ints.map((each) => integer(8, each)), integer(20, 7));
}

function node(value: Node): Uint8Array {
  return message(
    1,
    ...value.inputs.map((name) => text(1, name)),
    ...value.outputs.map((name) => text(2, name)),
    ...(value.name === undefined ? [] : [text(3, value.name)]),
    text(4, value.op),
    ...Object.entries(value.attributes ?? {}).map(([name, each]) => attribute(name, each)),
    ...(value.domain === undefined ? [] : [text(7, value.domain)]),
  );
}

/** Little-endian bytes of `data` as ONNX keeps them in `raw_data`. */
export function rawBytes(type: ElementType, data: ArrayLike<number>): Uint8Array {
  const size = SIZES[type];
  const bytes = new Uint8Array(data.length * size);
  const view = new DataView(bytes.buffer);
  const put: Readonly<Record<ElementType, (at: number, value: number) => void>> = {
    float: (at, value) => view.setFloat32(at, value, true),
    uint8: (at, value) => view.setUint8(at, value),
    int32: (at, value) => view.setInt32(at, value, true),
    int64: (at, value) => view.setBigInt64(at, BigInt(value), true),
    bool: (at, value) => view.setUint8(at, value),
    float16: (at, value) => view.setUint16(at, value, true),
    double: (at, value) => view.setFloat64(at, value, true),
  };
  for (const [index, value] of Array.from(data).entries()) put[type](index * size, value);
  return bytes;
}

function tensor(value: Tensor): Uint8Array {
  const { data } = value;
  const head = [...value.dims.map((dim) => integer(1, dim)), integer(2, CODES[value.type])];
  if ("location" in data) {
    const entries = [
      pair(13, "location", data.location),
      ...(data.offset === undefined ? [] : [pair(13, "offset", String(data.offset))]),
      ...(data.length === undefined ? [] : [pair(13, "length", String(data.length))]),
    ];
    return message(5, ...head, text(8, value.name), ...entries, integer(14, 1));
  }
  const expected = value.dims.reduce((product, dim) => product * dim, 1);
  if (expected !== data.length)
    throw new Error(`tensor ${value.name}: ${data.length} values for a shape of ${expected}`);
  return message(5, ...head, text(8, value.name), block(9, rawBytes(value.type, data)));
}

function valueInfo(field: number, value: ValueInfo): Uint8Array {
  const dims = value.shape.map((dim) => message(1, typeof dim === "number" ? integer(1, dim) : text(2, dim)));
  const tensorType = message(1, integer(1, CODES[value.type]), message(2, ...dims));
  return message(field, text(1, value.name), message(2, tensorType));
}

/**
 * An ONNX file: IR 8 and opset 17 unless told otherwise, fields in ascending order, so that equal models give equal
 * bytes. The graph itself is not checked (fixtures need wrong ones); a constant whose length contradicts its shape
 * throws.
 */
export function encodeModel(model: Model): Uint8Array {
  const opsets = model.opsets ?? [{ domain: "", version: model.opset ?? 17 }];
  return concat([
    integer(1, model.irVersion ?? 8),
    text(2, model.producer ?? "pixel-llm"),
    message(
      7,
      ...model.nodes.map((each) => node(each)),
      text(2, model.graphName ?? "graph"),
      ...(model.initializers ?? []).map((each) => tensor(each)),
      ...model.inputs.map((each) => valueInfo(11, each)),
      ...model.outputs.map((each) => valueInfo(12, each)),
    ),
    ...opsets.map(({ domain, version }) => message(8, text(1, domain), integer(2, version))),
    ...Object.entries(model.metadata ?? {}).map(([key, value]) => pair(14, key, value)),
  ]);
}
