import type { LogLevel } from "../../shared/config.ts";
import { loggerOver, passesLevel, renderEntry } from "../../shared/log.ts";
import type { LogSink } from "../../sidecar/log.ts";

/** A sink that keeps its lines as they would be written. */
export function listeningSink(level: LogLevel = "INFO"): LogSink & { lines: string[] } {
  const lines: string[] = [];
  let threshold = level;
  return {
    lines,
    logger(component, more = {}) {
      const context = { component, ...more };
      return loggerOver((of, message, fields) => {
        if (!passesLevel(of, threshold)) return;
        const timestamp = new Date().toISOString();
        lines.push(renderEntry({ timestamp, level: of, message, context, logger: "test" }, fields));
      });
    },
    level: () => threshold,
    changeLevel(next) {
      threshold = next;
    },
    flush: () => undefined,
    dropped: () => 0,
  };
}
