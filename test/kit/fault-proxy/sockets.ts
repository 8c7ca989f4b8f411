import type { Socket } from "node:net";

/** Ends a socket by RST; one whose FIN is on its way cannot be reset any more (Node then leaves it open for ever). */
export function resetSocket(socket: Socket | null): void {
  if (socket?.writableEnded === true) socket.destroy();
  else socket?.resetAndDestroy();
}

/** What comes over a socket, one piece at a time; the next is read when the last is dealt with. */
export function piecesOf(socket: Socket): AsyncIterable<Buffer> {
  return socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
}

/** Lets go of work whose connection broke; anything else is a defect of the proxy and must be seen. */
export function settle(work: Promise<void>, sides: () => readonly (Socket | null)[]): void {
  work.catch((error: unknown) => {
    if (!sides().some((socket) => socket?.destroyed === true)) throw error;
  });
}

/** A pause in real time; rejects with the signal's reason when that comes first. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const leave = (): void => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", leave);
      resolve();
    }, ms);
    if (signal.aborted) leave();
    else signal.addEventListener("abort", leave, { once: true });
  });
}

/** Numbers in [0, 1), the same on every machine (Numerical Recipes' linear congruential generator). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
