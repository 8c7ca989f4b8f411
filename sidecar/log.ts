import pino from "pino";
import type { LogLevel } from "../shared/config.ts";
import { passesLevel, renderEntry, type LogContext, type LogFields, type Logger } from "../shared/log.ts";

/** Where lines go, and how they are stopped. */
export type LogSink = {
  /** A logger of this sink under another component; it follows the sink's level. */
  logger(component: string, context?: Partial<LogContext>): Logger;
  level(): LogLevel;
  /** Takes effect at once, for every logger of this sink. */
  changeLevel(level: LogLevel): void;
  /** Writes what is waiting, in order, before it returns. */
  flush(): void;
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
  const destinations = [pino.destination({ fd: 1, sync: false, minLength: 1 })];
  if (options.file !== null) {
    destinations.push(pino.destination({ dest: options.file, append: true, mkdir: true, sync: false, minLength: 1 }));
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
      const at =
        (level: LogLevel) =>
        (message: string, fields: LogFields = {}): void => {
          write(level, message, context, fields);
        };
      return {
        debug: at("DEBUG"),
        info: at("INFO"),
        warning: at("WARNING"),
        error: at("ERROR"),
        critical: at("CRITICAL"),
      };
    },
    level: () => threshold,
    changeLevel(level) {
      threshold = level;
    },
    flush() {
      for (const destination of destinations) destination.flushSync();
    },
  };
}
