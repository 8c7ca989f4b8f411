import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { createEventStreamReader, EventTooLong, type StreamEvent } from "../../../sidecar/lm-studio/event-stream.ts";

const read = (pieces: readonly Uint8Array[]): StreamEvent[] => {
  const reader = createEventStreamReader(65_536);
  return [...pieces.flatMap((piece) => reader.read(piece)), ...reader.end()];
};

test("cuts anywhere, inside a character too, change nothing", () => {
  const lineEnds = fc.constantFrom("\n", "\r\n", "\r");
  const texts = fc.array(
    fc.string({ unit: "grapheme", maxLength: 12 }).map((text) => text.replaceAll(/[\r\n]/g, "")),
    { minLength: 1, maxLength: 6 },
  );
  fc.assert(
    fc.property(texts, lineEnds, fc.array(fc.nat(400), { maxLength: 12 }), (list, end, cuts) => {
      const whole = Buffer.from(list.map((text) => `: note${end}data: ${text}${end}${end}`).join(""));
      const marks = [0, ...cuts.map((cut) => cut % (whole.length + 1)), whole.length].sort(
        (left, right) => left - right,
      );
      const pieces = marks.slice(1).map((mark, index) => whole.subarray(marks[index], mark));
      assert.deepEqual(
        read(pieces),
        list.map((data) => ({ event: "message", data })),
      );
    }),
  );
});

test("names, several data lines, a missing space and a missing last line end are understood", () => {
  const text = "event: error\ndata:one\ndata: two\nid: 7\nretry: 5\n\ndata: last";
  assert.deepEqual(read([Buffer.from(text)]), [
    { event: "error", data: "one\ntwo" },
    { event: "message", data: "last" },
  ]);
});

test("an event that never ends is stopped at the limit, in one line or in many", () => {
  const reader = createEventStreamReader(100);
  assert.throws(() => reader.read(Buffer.from(`data: ${"x".repeat(200)}`)), EventTooLong);
  const many = createEventStreamReader(100);
  assert.throws(() => many.read(Buffer.from("data: 0123456789\n".repeat(20))), EventTooLong);
});
