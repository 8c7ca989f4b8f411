import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { promisify } from "node:util";

/** Logs a hundred lines to standard output and to a device that is always full, then flushes. */
const program = `
import { setImmediate as turn } from "node:timers/promises";
import { openLogSink } from ${JSON.stringify(new URL("../../sidecar/log.ts", import.meta.url).href)};
const sink = openLogSink({ name: "test", level: "INFO", file: "/dev/full", now: () => 0 });
const logger = sink.logger("test");
logger.info("line 0");
while (sink.dropped() === 0) await turn();
for (let line = 1; line < 100; line += 1) logger.info("line " + line);
sink.flush();
process.stderr.write(String(sink.dropped() > 0));
process.exit(0);
`;

test(
  "F56: a disk that is full costs its own lines, which are counted; the console has them all, and the flush ends",
  { skip: existsSync("/dev/full") ? false : "this system has no device that is always full" },
  async () => {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], {
      timeout: 20_000,
    });
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { message: string }).message);
    assert.deepEqual([stderr, lines], ["true", Array.from({ length: 100 }, (_, line) => `line ${line}`)]);
  },
);
