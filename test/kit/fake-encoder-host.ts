import type { HostOrder, HostReport, HostTensor } from "../../sidecar/encoder-protocol.ts";
import { readMark, type Mark } from "./marked-pictures.ts";

/**
 * The real encoder host, but for plain pictures of the marked colours (`marked-pictures.ts`): with those it does what
 * the colour says. Forked in place of `sidecar/encoder-host.ts`; the picture itself is the order, so a test needs no
 * other way into this process.
 */

/** onnxruntime's words when a GPU has no room left (1.30, CUDA). */
const outOfMemoryText =
  "Non-zero status code returned while running Conv node. Status Message: BFCArena::AllocateRawInternal Failed to " +
  "allocate memory for requested buffer of size 1073741824: out of memory";

/** Answers that the real host has still to give, and what is to become of them. */
const distorted = new Map<number, Mark>();
let poisoned = false;

const waiting: HostOrder[] = [];
let serve: ((order: HostOrder) => void) | null = null;
process.on("message", (order: HostOrder) => {
  if (serve === null) waiting.push(order);
  else obey(order, serve);
});

const tell = process.send?.bind(process);
process.send = (report: HostReport): boolean => tell?.(distort(report)) ?? false;

await takeOverRealHost();

/** Loads the real host and stands between it and its parent: its only listener for messages becomes ours to call. */
async function takeOverRealHost(): Promise<void> {
  const before = process.listeners("message");
  await import("../../sidecar/encoder-host.ts");
  const real = process.listeners("message").find((listener) => !before.includes(listener));
  if (real === undefined) throw new Error("the encoder host listens to nobody");
  process.off("message", real);
  serve = (order) => void Reflect.apply(real, process, [order]);
  for (const order of waiting.splice(0)) obey(order, serve);
}

function obey(order: HostOrder, next: (order: HostOrder) => void): void {
  if (order.kind !== "run") return next(order);
  if (poisoned) return fail(order.id);
  const mark = readMark(order.pixels);
  switch (mark) {
    case null:
      return next(order);
    case "crash":
      process.kill(process.pid, "SIGKILL");
      return;
    case "hang":
      return;
    case "out_of_memory":
      poisoned = true;
      return fail(order.id);
    case "not_a_number":
    case "infinite":
    case "wrong_dimension":
      distorted.set(order.id, mark);
      return next(order);
  }
}

function fail(id: number): void {
  tell?.({ kind: "run_failed", id, text: outOfMemoryText } satisfies HostReport);
}

function distort(report: HostReport): HostReport {
  if (report.kind !== "result") return report;
  const mark = distorted.get(report.id);
  distorted.delete(report.id);
  if (mark === undefined) return report;
  const outputs = Object.entries(report.outputs).map(([name, tensor]) => [name, distortTensor(tensor, mark)] as const);
  return { ...report, outputs: Object.fromEntries(outputs) };
}

function distortTensor({ dims, data }: HostTensor, mark: Mark): HostTensor {
  if (mark === "wrong_dimension") {
    const last = dims.at(-1) ?? 0;
    return { dims: [...dims.slice(0, -1), last - 1], data: data.filter((_, at) => at % last !== last - 1) };
  }
  return { dims, data: data.map(() => (mark === "infinite" ? Number.POSITIVE_INFINITY : Number.NaN)) };
}
