import pino from "pino";
import type { LogLevel } from "../shared/config.ts";
import { loggerOver, passesLevel, renderEntry, type LogContext, type LogFields, type Logger } from "../shared/log.ts";

/** Where lines go, and how they are stopped. */
export type LogSink = {
  /** A logger of this sink under another component; it follows the sink's level. */
  logger(component: string, context?: Partial<LogContext>): Logger;
  level(): LogLevel;
  /** Takes effect at once, for every logger of this sink. */
  changeLevel(level: LogLevel): void;
  /** Writes what is waiting, in order, before it returns; a destination that takes nothing is passed over. */
  flush(): void;
  /** Lines lost so far, at least: too many were waiting, or a write failed. */
  dropped(): number;
};

/** What a sink is made from. */
export type LogSinkOptions = {
  name: string;
  level: LogLevel;
  /** Lines go here as well as to standard output; its folders are made. */
  file: string | null;
  /** Epoch milliseconds. */
  now: () => number;
};

/** Opens standard output, and a file when one is named, as destinations that never make a request wait. */
export function openLogSink(options: LogSinkOptions): LogSink {
  const destinations = [openDestination({ fd: 1 }, options.now)];
  if (options.file !== null) {
    destinations.push(openDestination({ dest: options.file, append: true, mkdir: true }, options.now));
  }
  let threshold = options.level;

  const write = (level: LogLevel, message: string, context: LogContext, fields: LogFields): void => {
    if (!passesLevel(level, threshold)) return;
    const timestamp = new Date(options.now()).toISOString();
    const line = `${renderEntry({ timestamp, level, message, context, logger: options.name }, fields)}\n`;
    for (const destination of destinations) destination.write(line);
  };

  return {
    logger(component, more = {}) {
      const context: LogContext = { component, ...more };
      return loggerOver((level, message, fields) => write(level, message, context, fields));
    },
    level: () => threshold,
    changeLevel(level) {
      threshold = level;
    },
    flush() {
      for (const destination of destinations) destination.flush();
    },
    dropped: () => destinations.reduce((sum, destination) => sum + destination.dropped(), 0),
  };
}

type Destination = { write(line: string): void; flush(): void; dropped(): number };

/** Bytes that may wait for one destination; past them the newest line is dropped, and counted. */
const waitingBytes = 8 * 2 ** 20;
/** After a failed write the destination is left alone for so long, in ms. */
const restMs = 10_000;

/** One destination whose failures end nothing: a full disk or a reader that stands still costs lines, not requests. */
function openDestination(
  target: { fd: number } | { dest: string; append: boolean; mkdir: boolean },
  now: () => number,
): Destination {
  let lost = 0;
  let brokenAt: number | null = null;
  let flushing = false;

  const open = (): ReturnType<typeof pino.destination> => {
    const opened = pino.destination({
      ...target,
      sync: false,
      minLength: 1,
      maxLength: waitingBytes,
      // While all else waits for the flush, a pipe that is full is not waited for.
      retryEAGAIN: () => !flushing,
    });
    opened.on("drop", () => {
      lost += 1;
    });
    opened.on("error", () => abandon(opened));
    return opened;
  };
  // Left as it is, a stream that cannot write is flushed again and again when the process wants to end, for ever.
  const abandon = (failed: ReturnType<typeof pino.destination>): void => {
    if (failed !== stream || brokenAt !== null) return;
    lost += 1;
    brokenAt = now();
    failed.destroy();
  };

  let stream = open();
  return {
    write(line) {
      if (brokenAt !== null && now() - brokenAt < restMs) {
        lost += 1;
        return;
      }
      if (brokenAt !== null) stream = open();
      brokenAt = null;
      stream.write(line);
    },
    flush() {
      if (brokenAt !== null) return;
      flushing = true;
      try {
        stream.flushSync();
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        abandon(stream);
      } finally {
        flushing = false;
      }
    },
    dropped: () => lost,
  };
}
