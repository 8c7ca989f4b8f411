import assert from "node:assert/strict";
import { test } from "node:test";
import { logLevels } from "../../shared/config.ts";
import { PixelLLMError } from "../../shared/errors.ts";
import { logLimits, passesLevel, renderEntry, type LogFields } from "../../shared/log.ts";

const render = (fields: LogFields, message = "m"): Record<string, unknown> =>
  JSON.parse(
    renderEntry(
      { timestamp: "2026-11-24T00:00:00.000Z", level: "ERROR", message, context: { component: "c" }, logger: "l" },
      fields,
    ),
  ) as Record<string, unknown>;

test("a line has the guide's keys in the guide's order, always", () => {
  assert.deepEqual(Object.keys(render({})), [
    "timestamp",
    "level",
    "message",
    "context",
    "error_code",
    "exception_type",
    "stack_trace",
    "extra",
    "logger",
  ]);
});

test("an error of ours brings its code, its class of the guide, its detail, and its causes", () => {
  const line = render({
    exception: new PixelLLMError("ERR_API_OVERLOAD", { detail: "why", cause: new TypeError("root") }),
  });
  assert.deepEqual(
    [line["error_code"], line["exception_type"], line["extra"]],
    ["ERR_API_OVERLOAD", "APIError", { detail: "why" }],
  );
  assert.match(String(line["stack_trace"]), /Caused by: TypeError: root/);
});

test("an explicit code wins", () => {
  assert.equal(
    render({ errorCode: "ERR_CB_OPEN", exception: new PixelLLMError("ERR_INTERNAL") })["error_code"],
    "ERR_CB_OPEN",
  );
});

test("hostile values become text, never a throw", () => {
  const cycle: Record<string, unknown> = { n: 1n, bad: Number.NaN };
  cycle["self"] = cycle;
  const trap = {
    get boom(): string {
      throw new Error("no");
    },
  };
  assert.deepEqual(render({ extra: cycle })["extra"], { n: "1", bad: "NaN", self: "[seen before]" });
  assert.deepEqual(render({ extra: trap })["extra"], { unreadable: "no" });
  for (const exception of [null, 7, "text", {}]) assert.equal(typeof render({ exception })["stack_trace"], "string");
});

test("long parts are cut and marked", () => {
  const line = render({ extra: { long: "x".repeat(9000) } }, "y".repeat(5000));
  assert.ok(String(line["message"]).length < logLimits.message + 10 && String(line["message"]).endsWith("[cut]"));
  assert.ok(JSON.stringify(line["extra"]).length < logLimits.extra + 100);
});

test("an entry passes at or above the level", () => {
  for (const [at, level] of logLevels.entries()) {
    for (const [other, threshold] of logLevels.entries()) assert.equal(passesLevel(level, threshold), at >= other);
  }
});
