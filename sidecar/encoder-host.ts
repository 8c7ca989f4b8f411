import { constants, setPriority } from "node:os";
import { InferenceSession, Tensor } from "onnxruntime-node";
import type { Feed, HostOrder, HostReport, HostTensor, TensorFacts } from "./encoder-protocol.ts";

/**
 * The process that holds one onnxruntime session. Its calls block, cannot be cancelled and never give memory back,
 * so they live where they can be killed. It ends with its parent.
 */
// onnxruntime-node 1.30 turns half floats into the platform's Float16Array where there is one, and then fails to read
// it ("not enough space: expected n, got 0"). Without the global it keeps to plain bits, which work.
const HalfFloats = Float16Array;
Reflect.deleteProperty(globalThis, "Float16Array");

let session: InferenceSession | undefined;
let feed: Feed | undefined;
let outputs: readonly string[] = [];

// Serving comes before encoding: on a box with few cores the parent must get its turn at once, or health checks wait.
setPriority(constants.priority.PRIORITY_BELOW_NORMAL);
// The parent decides when we end; a Ctrl-C in its terminal or a stop of its whole group must not end us before it.
process.on("SIGINT", () => undefined);
process.on("SIGTERM", () => undefined);
process.once("disconnect", () => process.exit(0));
process.on("message", (order: HostOrder) => {
  void obey(order);
});

async function obey(order: HostOrder): Promise<void> {
  switch (order.kind) {
    case "load":
      return load(order.file, order.threads);
    case "feed":
      feed = order.feed;
      outputs = order.outputs;
      return;
    case "run":
      return run(order.id, order.pixels);
  }
}

async function load(file: string, threads: number): Promise<void> {
  try {
    session = await InferenceSession.create(file, {
      executionProviders: ["cpu"],
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      // Idle threads that spin would take the cores that decoding wants.
      extra: { session: { intra_op: { allow_spinning: "0" } } },
      logSeverityLevel: 3,
    });
    report({ kind: "loaded", inputs: factsOf(session.inputMetadata), outputs: factsOf(session.outputMetadata) });
  } catch (error) {
    report({ kind: "load_failed", text: textOf(error) });
  }
}

async function run(id: number, pixels: Uint8Array): Promise<void> {
  try {
    if (session === undefined || feed === undefined) throw new Error("run before load");
    const startedAt = performance.now();
    const results = await session.run({ [feed.name]: toTensor(pixels, feed) }, [...outputs]);
    const milliseconds = performance.now() - startedAt;
    const named: Record<string, HostTensor> = {};
    for (const [name, tensor] of Object.entries(results)) named[name] = { dims: tensor.dims, data: toFloats(tensor) };
    report({ kind: "result", id, outputs: named, milliseconds });
  } catch (error) {
    report({ kind: "run_failed", id, text: textOf(error) });
  }
}

function toTensor(pixels: Uint8Array, { type, layout, height, width, mean, std }: Feed): Tensor {
  const dims = layout === "NHWC" ? [1, height, width, 3] : [1, 3, height, width];
  if (type === "uint8") return new Tensor("uint8", layout === "NHWC" ? pixels : toPlanes(pixels, height * width), dims);
  const floats = new Float32Array(pixels.length);
  const area = height * width;
  for (let channel = 0; channel < 3; channel += 1) {
    const table = normalTable(mean[channel] ?? 0, std[channel] ?? 1);
    for (let pixel = 0; pixel < area; pixel += 1) {
      const at = layout === "NHWC" ? pixel * 3 + channel : channel * area + pixel;
      floats[at] = table[pixels[pixel * 3 + channel] ?? 0] ?? 0;
    }
  }
  if (type === "float32") return new Tensor("float32", floats, dims);
  return new Tensor("float16", new Uint16Array(new HalfFloats(floats).buffer), dims);
}

/** Every value a byte can become: `(byte / 255 − mean) / std`. */
function normalTable(mean: number, std: number): Float32Array {
  return Float32Array.from({ length: 256 }, (_, byte) => (byte / 255 - mean) / std);
}

function toPlanes(pixels: Uint8Array, area: number): Uint8Array {
  const planes = new Uint8Array(pixels.length);
  for (let pixel = 0; pixel < area; pixel += 1) {
    for (let channel = 0; channel < 3; channel += 1) planes[channel * area + pixel] = pixels[pixel * 3 + channel] ?? 0;
  }
  return planes;
}

function toFloats(tensor: Tensor): Float32Array {
  const { data } = tensor;
  if (data instanceof Float32Array) return data;
  if (data instanceof Uint16Array && tensor.type === "float16") {
    return Float32Array.from(new HalfFloats(data.buffer, data.byteOffset, data.length));
  }
  throw new Error(`output of type ${tensor.type}`);
}

function factsOf(metadata: readonly InferenceSession.ValueMetadata[]): TensorFacts[] {
  return metadata.map((value) => ({
    name: value.name,
    type: value.isTensor ? value.type : "not a tensor",
    shape: value.isTensor ? value.shape : [],
  }));
}

function report(message: HostReport): void {
  process.send?.(message);
}

function textOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, 2000);
}
