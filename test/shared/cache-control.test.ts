import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { mayServe, mayStandIn, readCacheControl, type CacheControl } from "../../shared/cache-control.ts";

const nothing: CacheControl = { noCache: false, noStore: false, maxAgeSeconds: null, onlyIfCached: false };

const readings: readonly [string, string | null, Partial<CacheControl>][] = [
  ["no header", null, {}],
  ["an empty one", "", {}],
  ["no-cache", "no-cache", { noCache: true }],
  ["no-store", "no-store", { noStore: true }],
  ["only-if-cached", "only-if-cached", { onlyIfCached: true }],
  ["max-age", "max-age=60", { maxAgeSeconds: 60 }],
  ["max-age of zero", "max-age=0", { maxAgeSeconds: 0 }],
  ["all four", "no-cache, no-store,only-if-cached , max-age=1", { ...all(), maxAgeSeconds: 1 }],
  ["any case", "No-Cache, NO-STORE, Only-If-Cached, MAX-AGE=1", { ...all(), maxAgeSeconds: 1 }],
  ["spaces around the sign", "max-age = 5", { maxAgeSeconds: 5 }],
  ["the smallest of two ages", "max-age=60, max-age=5, max-age=90", { maxAgeSeconds: 5 }],
  ["more seconds than anyone lives", "max-age=99999999999999999999", { maxAgeSeconds: 2 ** 31 }],
  ["a quoted age", 'max-age="60"', {}],
  ["a negative age", "max-age=-1", {}],
  ["half a second", "max-age=0.5", {}],
  ["an age without value", "max-age", {}],
  ["an age with an empty value", "max-age=", {}],
  ["an age in words", "max-age=long", {}],
  ["an age in hexadecimal", "max-age=0x10", {}],
  ["a valid age beside an invalid one", "max-age=x, max-age=7", { maxAgeSeconds: 7 }],
  ["directives of answers and unknown ones", "private, s-maxage=3, x-max-age=4, no-cached", {}],
  ["a directive inside a quoted text", 'x="no-store, no-cache, max-age=0", max-age=9', { maxAgeSeconds: 9 }],
  ["a directive behind an escaped quote", 'x="a\\", no-store", no-cache', { noCache: true }],
  ["a text whose quote never ends", 'no-cache, x="no-store, max-age=1', { noCache: true }],
  ["empty members", ",, no-cache ,,", { noCache: true }],
  ["two words in one member", "no-cache no-store", {}],
  ["a value where none belongs", "no-store=yes", { noStore: true }],
];

function all(): Partial<CacheControl> {
  return { noCache: true, noStore: true, onlyIfCached: true };
}

for (const [name, header, expected] of readings) {
  test(`Cache-Control: ${name} reads as ${JSON.stringify(expected)}`, () => {
    assert.deepEqual(readCacheControl(header), { ...nothing, ...expected });
  });
}

test("Cache-Control is never an error, whatever it holds, and an age is whole seconds or none", () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.constantFrom('"', ",", "=", "\\", "max-age=", "no-store", " "), fc.string())),
      (parts) => {
        const { maxAgeSeconds } = readCacheControl(parts.join(""));
        assert.ok(maxAgeSeconds === null || (Number.isInteger(maxAgeSeconds) && maxAgeSeconds >= 0));
      },
    ),
  );
});

/** Request, age in whole seconds: served fresh; stands in when the rung was not asked for; when it was. */
const uses: readonly [string, string | null, number, boolean, boolean, boolean][] = [
  ["nothing asked", null, 1000, true, true, true],
  ["no-cache", "no-cache", 0, false, false, true],
  ["no-store", "no-store", 0, false, false, false],
  ["no-store and no-cache", "no-store, no-cache", 0, false, false, false],
  ["younger than max-age", "max-age=60", 59, true, true, true],
  ["at max-age, and so older than it", "max-age=60", 60, false, false, true],
  ["max-age=0 and just made", "max-age=0", 0, false, false, true],
  ["only-if-cached", "only-if-cached", 5, true, true, true],
];

for (const [name, header, ageSeconds, fresh, standsIn, listed] of uses) {
  test(`a stored answer, ${name}: served ${fresh}, stands in ${standsIn}, when its rung is named ${listed}`, () => {
    const control = readCacheControl(header);
    assert.deepEqual(
      [mayServe(control, ageSeconds), mayStandIn(control, false, ageSeconds), mayStandIn(control, true, ageSeconds)],
      [fresh, standsIn, listed],
    );
  });
}
