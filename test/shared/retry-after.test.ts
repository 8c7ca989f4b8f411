import assert from "node:assert/strict";
import { test } from "node:test";
import { readHttpDate, readRetryAfter } from "../../shared/retry-after.ts";

const now = Date.UTC(2026, 10, 24, 12, 0, 0);
const read = (retryAfter: string[], retryAfterMs: string[] = [], date: string | null = null): number | null =>
  readRetryAfter({ retryAfter, retryAfterMs, date }, now);

const cases: readonly [string, number | null, string[], string[]?, string?][] = [
  ["whole seconds", 2000, ["2"]],
  ["decimal seconds", 1500, ["1.5"]],
  ["zero", 0, ["0"]],
  ["50 minutes, past a timer's limit", 3_000_000, ["3000"]],
  ["milliseconds first", 750, ["9"], ["750"]],
  ["the largest of two", 5000, ["2", "5"]],
  ["the valid one of two", 2000, ["soon", "2"]],
  ["a date ahead", 30_000, ["Tue, 24 Nov 2026 12:00:30 GMT"]],
  ["a date past", 0, ["Tue, 24 Nov 2026 11:00:00 GMT"]],
  [
    "a date against the answer's own clock",
    10_000,
    ["Tue, 24 Nov 2026 09:00:10 GMT"],
    [],
    "Tue, 24 Nov 2026 09:00:00 GMT",
  ],
  ["the old date form", 30_000, ["Tuesday, 24-Nov-26 12:00:30 GMT"]],
  ["the C date form", 30_000, ["Tue Nov 24 12:00:30 2026"]],
  ["nothing", null, []],
  ["an empty text", null, [""]],
  ["a negative number", null, ["-1"]],
  ["a large exponent", null, ["1e9"]],
  ["NaN", null, ["NaN"]],
  ["a list", null, ["1, 2"]],
  ["a month", null, ["2592000"]],
];

for (const [name, expected, retryAfter, retryAfterMs, date] of cases) {
  test(`Retry-After: ${name} is ${expected === null ? "as absent" : `${expected} ms`}`, () => {
    assert.equal(read(retryAfter, retryAfterMs, date ?? null), expected);
  });
}

test("HTTP dates agree with the platform's own over four centuries", () => {
  for (let year = 1970; year <= 2370; year += 7) {
    const at = Date.UTC(year, (year * 5) % 12, 1 + ((year * 11) % 28), year % 24, year % 60, year % 59);
    assert.equal(readHttpDate(new Date(at).toUTCString()), at);
  }
  assert.equal(readHttpDate("Tue, 24 Nix 2026 12:00:30 GMT"), null);
});
