import { isPixelLLMError, type ErrorCode } from "./errors.ts";
import { logLevels, type LogLevel } from "./config.ts";

/** Where an entry comes from; absent keys are left out of the line. */
export type LogContext = {
  component: string;
  operation?: string;
  request_id?: string;
  session_id?: string;
  user_id?: string;
  trace_id?: string;
};

/** One log line: always these keys, in this order; null where nothing is known. */
export type LogEntry = {
  /** UTC, milliseconds, `Z`. */
  timestamp: string;
  level: LogLevel;
  message: string;
  context: LogContext;
  error_code: ErrorCode | null;
  exception_type: string | null;
  stack_trace: string | null;
  extra: Readonly<Record<string, unknown>>;
  /** Name of the logger. */
  logger: string;
};

/** What a caller adds to a message. */
export type LogFields = {
  errorCode?: ErrorCode | undefined;
  exception?: unknown;
  extra?: Readonly<Record<string, unknown>> | undefined;
};

/** What code that logs is given; one method a level. */
export type Logger = Readonly<
  Record<"debug" | "info" | "warning" | "error" | "critical", (message: string, fields?: LogFields) => void>
>;

/** A logger over one way to write an entry. */
export function loggerOver(write: (level: LogLevel, message: string, fields: LogFields) => void): Logger {
  const at =
    (level: LogLevel) =>
    (message: string, fields: LogFields = {}): void =>
      write(level, message, fields);
  return {
    debug: at("DEBUG"),
    info: at("INFO"),
    warning: at("WARNING"),
    error: at("ERROR"),
    critical: at("CRITICAL"),
  };
}

/** Longest message, stack and extra of one line, in characters; longer ones are cut and marked. */
export const logLimits = { message: 2048, stack: 8192, extra: 4096 } as const;

/** Whether an entry of `level` passes a logger set to `threshold`. */
export function passesLevel(level: LogLevel, threshold: LogLevel): boolean {
  return logLevels.indexOf(level) >= logLevels.indexOf(threshold);
}

/**
 * One entry as a line of JSON without its line break. Never throws: cycles, BigInt and failing getters become text.
 * An exception of ours fills in `error_code`; its private detail goes to `extra.detail`.
 */
export function renderEntry(
  entry: Pick<LogEntry, "timestamp" | "level" | "message" | "context" | "logger">,
  fields: LogFields,
): string {
  const { exception } = fields;
  const ours = isPixelLLMError(exception) ? exception : null;
  const extra = ours?.detail === null || ours === null ? fields.extra : { ...fields.extra, detail: ours.detail };
  const line: LogEntry = {
    timestamp: entry.timestamp,
    level: entry.level,
    message: cut(entry.message, logLimits.message),
    context: entry.context,
    error_code: fields.errorCode ?? ours?.code ?? null,
    exception_type: exception === undefined ? null : exception instanceof Error ? exception.name : typeof exception,
    stack_trace: exception === undefined ? null : cut(stackOf(exception), logLimits.stack),
    extra: readExtra(extra),
    logger: entry.logger,
  };
  return JSON.stringify(line);
}

function readExtra(extra: Readonly<Record<string, unknown>> | undefined): Readonly<Record<string, unknown>> {
  if (extra === undefined) return {};
  const textOf = stringifySafely(extra);
  return textOf.length <= logLimits.extra
    ? (JSON.parse(textOf) as Record<string, unknown>)
    : { cut: cut(textOf, logLimits.extra) };
}

function stringifySafely(value: object): string {
  const seen = new Set<unknown>();
  try {
    return JSON.stringify(value, (_, inner: unknown) => {
      if (typeof inner === "bigint" || (typeof inner === "number" && !Number.isFinite(inner))) return String(inner);
      if (typeof inner === "object" && inner !== null) {
        if (seen.has(inner)) return "[seen before]";
        seen.add(inner);
      }
      return inner;
    });
  } catch (error) {
    return JSON.stringify({ unreadable: error instanceof Error ? error.message : "value" });
  }
}

function stackOf(exception: unknown): string {
  const parts: string[] = [];
  let current: unknown = exception;
  for (let depth = 0; depth < 5 && current !== undefined && current !== null; depth += 1) {
    parts.push(
      current instanceof Error
        ? (current.stack ?? `${current.name}: ${current.message}`)
        : stringifySafely({ thrown: current }),
    );
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join("\nCaused by: ");
}

function cut(value: string, limit: number): string {
  return value.length <= limit ? value : `${value.slice(0, limit)}… [cut]`;
}
