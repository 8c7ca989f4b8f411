import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { describe } from "../../shared/describe.ts";
import {
  colourTerms,
  evidenceLimits,
  evidenceSchema,
  readEvidence,
  type EncoderOutputs,
} from "../../shared/evidence.ts";

const unit = fc.double({ min: 0, max: 1, noNaN: true });

/** Outputs as the encoder could give them: shares that sum to one in every cell, the rest within its range. */
const outputs: fc.Arbitrary<EncoderOutputs> = fc
  .record({
    weights: fc.array(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 11, maxLength: 11 }), {
      minLength: 64,
      maxLength: 64,
    }),
    power: fc.constantFrom(1, 8, 40),
    brightness: unit,
    contrast: fc.double({ min: 0, max: 0.5, noNaN: true }),
    saturation: fc.double({ min: 0, max: 0.32, noNaN: true }),
    lines: fc.array(fc.double({ min: 0, max: 0.25, noNaN: true }), { minLength: 4, maxLength: 4 }),
    sharpness: unit,
    symmetry: fc.tuple(fc.double({ min: -1, max: 1, noNaN: true }), fc.double({ min: -1, max: 1, noNaN: true })),
  })
  .map(({ weights, power, brightness, contrast, saturation, lines, sharpness, symmetry }) => {
    const cells = new Float32Array(11 * 64);
    for (const [cell, row] of weights.entries()) {
      const sharpened = row.map((weight) => (weight + 1e-3) ** power);
      const sum = sharpened.reduce((total, each) => total + each, 0);
      for (const [term, weight] of sharpened.entries()) cells[term * 64 + cell] = weight / sum;
    }
    return {
      cell_colours: cells,
      image_colours: Float32Array.from(
        colourTerms,
        (_, term) => cells.subarray(term * 64, term * 64 + 64).reduce((sum, each) => sum + each, 0) / 64,
      ),
      image_brightness: Float32Array.of(brightness),
      image_contrast: Float32Array.of(contrast),
      image_saturation: Float32Array.of(saturation),
      image_edges: Float32Array.of(lines.reduce((sum, each) => sum + each, 0)),
      image_lines: Float32Array.from(lines),
      image_sharpness: Float32Array.of(sharpness),
      image_symmetry: Float32Array.from(symmetry),
    };
  });

const frame = fc.record({ width: fc.integer({ min: 1, max: 16_383 }), height: fc.integer({ min: 1, max: 16_383 }) });

test("for any measurements every word is carried by its number", () => {
  const limits = evidenceLimits;
  fc.assert(
    fc.property(outputs, frame, (raw, size) => {
      const evidence = evidenceSchema.parse(readEvidence(raw, size));
      const { sentence, tags } = describe(evidence);
      const number = (name: string): number => raw[name]?.[0] ?? Number.NaN;
      const carried: readonly [RegExp, boolean][] = [
        [/\bdark\b/, number("image_brightness") < limits.dark],
        [/\bbright\b/, number("image_brightness") > limits.bright],
        [/low contrast/, number("image_contrast") < limits.lowContrast],
        [/high contrast/, number("image_contrast") > limits.highContrast],
        [/vivid/, number("image_saturation") > limits.vivid],
        [/large plain areas/, number("image_edges") < limits.plain],
        [/fine detail/, number("image_edges") > limits.fine],
        [/mainly \w+ lines/, number("image_edges") >= limits.linesEdges],
        [/symmetrical/, number("image_contrast") >= limits.symmetryContrast],
        [/landscape/, size.width / size.height >= limits.landscape],
        [/portrait/, size.width / size.height <= limits.portrait],
      ];
      const said = `${sentence} ${tags.map(({ label }) => label).join(" ")}`;
      for (const [words, true_] of carried) assert.ok(!words.test(said) || true_, `${words}: ${said}`);
      for (const [index, term] of colourTerms.entries()) {
        const share = raw["image_colours"]?.[index] ?? 0;
        const placed = evidence.layout !== null && JSON.stringify(evidence.layout).includes(`"${term}"`);
        if (new RegExp(`\\b${term}\\b`).test(said))
          assert.ok(share >= limits.colourShare - 0.001 || placed, `${term} ${share}`);
      }
    }),
    { numRuns: 300 },
  );
});

test("a sentence has at most 25 words, starts with A, ends with a stop, and says image, never photo", () => {
  fc.assert(
    fc.property(outputs, frame, (raw, size) => {
      const { sentence } = describe(readEvidence(raw, size));
      assert.match(sentence, /^A [\w ,]+ image[\w ,]*\.$/);
      assert.ok(sentence.split(" ").length <= 25, sentence);
      assert.ok(!/photo/.test(sentence));
    }),
    { numRuns: 300 },
  );
});

test("outputs of another shape are refused, not read as zeros", () => {
  assert.throws(() => readEvidence({}, { width: 1, height: 1 }), /image_colours has 0 values/);
});
