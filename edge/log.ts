import { passesLevel, renderEntry, type LogContext, type LogFields } from "../shared/log.ts";
import type { LogLevel } from "../shared/config.ts";
import type { ErrorCode } from "../shared/errors.ts";
import type { Deps } from "./deps.ts";

/** Writes one line of the log, if its level passes. */
export type Log = (level: LogLevel, message: string, fields?: LogFields) => void;

/** A log whose lines all carry the same context. */
export function createLog(
  deps: Pick<Deps, "write" | "now">,
  threshold: LogLevel,
  context: Omit<LogContext, "component">,
): Log {
  return (level, message, fields = {}) => {
    if (!passesLevel(level, threshold)) return;
    const timestamp = new Date(deps.now()).toISOString();
    const entry = { timestamp, level, message, context: { component: "edge", ...context }, logger: "pixel_llm.edge" };
    deps.write(renderEntry(entry, fields));
  };
}

/** What an access line tells: never a path as sent, a query, a prompt, a caption or a key. */
export type Access = {
  method: string;
  /** The route's pattern, `-` where none matched. */
  route: string;
  status: number;
  code: ErrorCode | null;
  ms: number;
  /** The caller had left when the answer was made. */
  cancelled: boolean;
  /** Bytes read of the request's body. */
  bytes: number;
  /** Where a caption came from. */
  source: string | null;
};

/** One access line; a server error is a warning, so that it shows where plain traffic does not. */
export function logAccess(log: Log, access: Access): void {
  const { code, ...extra } = access;
  const failed = access.status >= 500 && !access.cancelled;
  log(failed ? "WARNING" : "INFO", "request", { errorCode: (access.cancelled ? null : code) ?? undefined, extra });
}

/** A way to write lines that never throws, and how many lines it has lost: a log that fails decides nothing. */
export function guardWrite(write: Deps["write"]): { write: Deps["write"]; lost: () => number } {
  let lost = 0;
  return {
    write(line) {
      try {
        write(line);
      } catch {
        // There is nowhere left to tell what went wrong; that it did is counted.
        lost += 1;
      }
    },
    lost: () => lost,
  };
}
