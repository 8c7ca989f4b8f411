import { STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import type { Answer } from "./answers.ts";
import type { Gates } from "./gates.ts";
import type { Interruptions, Place } from "./modes.ts";

/** Thrown where a script ends the connection early. */
class Cut extends Error {}

/** Sends an answer over a raw socket, standing still at its gates and cutting where the script says. */
export async function sendAnswer(
  socket: Socket,
  answer: Answer,
  script: Interruptions,
  gates: Gates,
  signal: AbortSignal,
): Promise<void> {
  let sent = 0;

  const reach = async (place: Place): Promise<void> => {
    for (const pause of script.pauses ?? []) {
      if (samePlace(pause.at, place)) await gates(pause.gate).pass(signal);
    }
    if (script.cut !== undefined && samePlace(script.cut.at, place)) {
      if (script.cut.midChunk === true) socket.write("40\r\nhalf of a chunk");
      await end(socket, script.cut.how);
      throw new Cut();
    }
  };
  const write = (bytes: string | Uint8Array): void => {
    signal.throwIfAborted();
    socket.write(bytes);
  };
  const writeBody = async (bytes: Uint8Array): Promise<void> => {
    for (const piece of pieces(bytes, sent, script)) {
      if (answer.length === null) write(`${piece.length.toString(16)}\r\n`);
      write(piece);
      if (answer.length === null) write("\r\n");
      sent += piece.length;
      if (script.dribble !== undefined) await gates(script.dribble).pass(signal);
      await reach({ byte: sent });
      // Endless answers must leave room for the other side's abort to be seen.
      if (socket.writableNeedDrain) await drained(socket, signal);
    }
  };

  try {
    await reach("status");
    const framing: [string, string] =
      answer.length === null ? ["Transfer-Encoding", "chunked"] : ["Content-Length", String(answer.length)];
    const lines = [...answer.headers, framing].map(([name, value]) => `${name}: ${value}\r\n`).join("");
    const head = `HTTP/1.1 ${answer.status} ${STATUS_CODES[answer.status] ?? ""}\r\n${lines}\r\n`;
    const half = Math.floor(head.length / 2);
    write(head.slice(0, half));
    await reach("mid-head");
    write(head.slice(half));
    await reach("head");
    for (const { bytes, at } of answer.steps) {
      await writeBody(typeof bytes === "string" ? Buffer.from(bytes) : bytes);
      await reach(at);
    }
    if (answer.length === null) write("0\r\n\r\n");
    await end(socket, "eof");
  } catch (error) {
    if (!(error instanceof Cut) && !signal.aborted) throw error;
  }
}

/** Ends a connection in an orderly way or by reset. */
export async function end(socket: Socket, how: "eof" | "rst"): Promise<void> {
  if (how === "rst") socket.resetAndDestroy();
  else await new Promise<void>((resolve) => socket.end(resolve));
}

/** A body's bytes, split where a pause or a cut stands at a byte, and into single bytes when they dribble. */
function pieces(bytes: Uint8Array, from: number, script: Interruptions): Uint8Array[] {
  if (script.dribble !== undefined) return Array.from(bytes, (_, at) => bytes.subarray(at, at + 1));
  const places = [...(script.pauses ?? []).map(({ at }) => at), ...(script.cut === undefined ? [] : [script.cut.at])];
  const marks = places
    .flatMap((place) => (typeof place === "object" && "byte" in place ? [place.byte - from] : []))
    .filter((mark) => mark > 0 && mark < bytes.length)
    .sort((left, right) => left - right);
  return [0, ...marks].map((start, index) => bytes.subarray(start, marks[index] ?? bytes.length));
}

function samePlace(left: Place, right: Place): boolean {
  return JSON.stringify(left) === JSON.stringify(right);
}

function drained(socket: Socket, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const leave = (): void => reject(signal.reason as Error);
    socket.once("drain", () => {
      signal.removeEventListener("abort", leave);
      resolve();
    });
    signal.addEventListener("abort", leave, { once: true });
  });
}
