import { HalfEnded } from "./supervised-half.ts";
import { exitCodes } from "../sidecar/exit.ts";

/** Something that was started and is stopped once. */
type Stoppable = { stop(): Promise<void> };

/** A line for people, told apart from the halves' log lines. */
export function notice(line: string): void {
  console.log(`pixel-llm: ${line}`);
}

/**
 * Starts something and keeps it until Ctrl-C, SIGTERM or its own end; then stops it and ends the process:
 * 0 when asked to, else the exit code of what ended.
 */
export async function keepRunning<T extends Stoppable>(
  start: (signal: AbortSignal, giveUp: (code: number | null) => void) => Promise<T>,
  whenUp: (running: T) => Promise<void>,
): Promise<void> {
  const ending = new AbortController();
  let running: T | undefined;
  const end = async (code: number): Promise<void> => {
    if (ending.signal.aborted) return;
    process.exitCode = code;
    ending.abort(new Error("told to stop"));
    await running?.stop();
  };
  process.on("SIGINT", () => void end(0));
  process.on("SIGTERM", () => void end(0));
  try {
    running = await start(ending.signal, (code) => void end(code ?? exitCodes.bug));
    if (!ending.signal.aborted) await whenUp(running);
  } catch (error) {
    if (ending.signal.aborted) return;
    if (!(error instanceof HalfEnded)) throw error;
    process.exitCode = error.exitCode ?? exitCodes.bug;
  }
}
