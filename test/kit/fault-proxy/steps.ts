import type { Direction, Fault } from "./modes.ts";

/** One thing to do with bytes that came: pass them on, wait, stand before a gate, or let this be the last of them. */
export type Step =
  | { readonly kind: "send"; readonly bytes: Uint8Array }
  | { readonly kind: "wait"; readonly ms: number }
  | { readonly kind: "gate"; readonly gate: string }
  | { readonly kind: "end"; readonly how: "fin" | "rst" | "silence" };

/** Pieces a second that a limited line is cut into, so that a slow one dribbles instead of pausing. */
const piecesPerSecond = 20;

/** What becomes of `bytes` of which `sent` of the same exchange and direction went before; `random` gives [0, 1). */
export function stepsFor(
  fault: Fault,
  direction: Direction,
  sent: number,
  bytes: Uint8Array,
  random: () => number,
): Step[] {
  const whole: Step[] = [{ kind: "send", bytes }];
  if ("direction" in fault ? fault.direction !== direction : direction === "up") return whole;
  switch (fault.kind) {
    case "reset_after":
      return until(fault.bytes - sent, bytes, "rst");
    case "cut":
      return until(fault.bytes - sent, bytes, "fin");
    case "silence":
      return until(fault.bytes - sent, bytes, "silence");
    case "bandwidth": {
      const size = Math.max(1, Math.floor(fault.bytesPerSecond / piecesPerSecond));
      return pieces(bytes, size).flatMap((piece): Step[] => [
        { kind: "wait", ms: (1000 * piece.length) / fault.bytesPerSecond },
        { kind: "send", bytes: piece },
      ]);
    }
    case "latency":
      return [{ kind: "wait", ms: fault.ms + (fault.jitterMs ?? 0) * random() }, ...whole];
    case "slice":
      return pieces(bytes, fault.bytes).flatMap((piece): Step[] => [
        { kind: "gate", gate: fault.gate },
        { kind: "send", bytes: piece },
      ]);
    case "pass":
    case "black_hole":
    case "reset":
    case "empty":
    case "garbage":
    case "no_tls":
    case "answer":
    case "bad_chunk":
      return whole;
  }
}

function until(left: number, bytes: Uint8Array, how: "fin" | "rst" | "silence"): Step[] {
  if (left > bytes.length) return [{ kind: "send", bytes }];
  const end: Step = { kind: "end", how };
  return left > 0 ? [{ kind: "send", bytes: bytes.subarray(0, left) }, end] : [end];
}

function pieces(bytes: Uint8Array, size: number): Uint8Array[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.subarray(at * size, (at + 1) * size));
}
