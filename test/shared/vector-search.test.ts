import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { findNearest, readVector, unitVector } from "../../shared/vector-search.ts";

const everything = (): boolean => true;

/** Directions in the plane, in degrees, as unit vectors one after another. */
const plane = (...degrees: number[]): Float32Array =>
  Float32Array.from(degrees.flatMap((angle) => [Math.cos((angle * Math.PI) / 180), Math.sin((angle * Math.PI) / 180)]));

/** Stored directions, direction asked for, floor, index of the answer. */
const searches: readonly [string, number[], number, number, number | null][] = [
  ["nothing stored", [], 0, 0, null],
  ["the one there is", [10], 0, 0.9, 0],
  ["the nearest of five", [90, 60, 30, 100, 45], 32, 0.9, 2],
  ["the nearest in the last place of a block", [90, 91, 92, 5], 0, 0.9, 3],
  ["the nearest in the block after", [90, 91, 92, 93, 5], 0, 0.9, 4],
  ["the first of equals", [5, 5, 5], 5, 0.9, 0],
  ["nothing under the floor", [61], 0, 0.5, null],
  ["exactly at the floor", [60], 0, 0.5, 0],
  ["itself under a floor of one", [33], 33, 1, 0],
  ["the opposite never", [180], 0, 0, null],
];

for (const [name, stored, asked, floor, expected] of searches) {
  test(`of stored vectors, ${name} is found`, () => {
    const found = findNearest({
      vectors: plane(...stored),
      count: stored.length,
      query: plane(asked),
      floor,
      accepts: everything,
    });
    assert.equal(found?.index ?? null, expected);
    assert.ok(found === null || found.cosine <= 1);
  });
}

test("what is not accepted is no answer, and hides none that is", () => {
  const search = { vectors: plane(0, 5, 20), count: 3, query: plane(0), floor: 0.5 };
  assert.equal(findNearest({ ...search, accepts: (index) => index !== 0 })?.index, 1);
  assert.equal(findNearest({ ...search, accepts: (index) => index === 2 })?.index, 2);
  assert.equal(findNearest({ ...search, accepts: () => false }), null);
});

test("vectors behind the count are not looked at", () => {
  const search = { vectors: plane(50, 50, 50, 50, 50, 0), query: plane(0), floor: 0, accepts: everything };
  for (const [count, index] of [
    [0, null],
    [1, 0],
    [5, 0],
    [6, 5],
  ]) {
    assert.equal(findNearest({ ...search, count: count ?? 0 })?.index ?? null, index);
  }
});

test("the answer is that of a plain loop, for any number of vectors of any length", () => {
  const shape = fc.record({
    count: fc.integer({ min: 0, max: 13 }),
    dimensions: fc.integer({ min: 1, max: 9 }),
    floor: fc.constantFrom(0, 0.2, 0.6, 0.95),
  });
  fc.assert(
    fc.property(shape, fc.infiniteStream(fc.integer({ min: -5, max: 5 })), ({ count, dimensions, floor }, numbers) => {
      const make = (): Float32Array => {
        const raw = Float32Array.from({ length: dimensions }, () => numbers.next().value ?? 1);
        return unitVector(raw) ?? make();
      };
      const stored = Array.from({ length: count }, make);
      const query = make();
      const vectors = new Float32Array(count * dimensions);
      for (const [index, vector] of stored.entries()) vectors.set(vector, index * dimensions);
      const cosines = stored.map((vector) => vector.reduce((sum, value, at) => sum + value * (query[at] ?? 0), 0));
      const best = Math.max(...cosines, -2);
      const found = findNearest({ vectors, count, query, floor, accepts: everything });
      if (found === null) assert.ok(best < floor);
      else {
        assert.ok(Math.abs((cosines[found.index] ?? -2) - best) < 1e-6);
        assert.ok(found.cosine >= floor - 1e-6 && Math.abs(found.cosine - best) < 1e-6);
      }
    }),
    { numRuns: 500 },
  );
});

test("a unit vector has length one, and there is none of nothing", () => {
  assert.deepEqual(unitVector(Float32Array.of(3, 4)), Float32Array.of(0.6, 0.8));
  for (const values of [[], [0, 0], [Number.NaN, 1], [Infinity, 1], [-Infinity]]) {
    assert.equal(unitVector(Float32Array.from(values)), null);
  }
});

test("a vector survives base64, and other texts are none", () => {
  fc.assert(
    fc.property(fc.array(fc.float({ noNaN: true }), { maxLength: 20 }), (values) => {
      const vector = Float32Array.from(values);
      assert.deepEqual(readVector(Buffer.from(vector.buffer).toString("base64")), vector);
    }),
  );
  for (const text of ["AAAA", "AAAAA", "AAAAAAA", "AAAAAA=A", "AAAA AA=", "-_==", "AAAAAA==="]) {
    assert.equal(readVector(text), null, text);
  }
});
