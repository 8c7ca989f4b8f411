import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  cacheKeyText,
  canonicalText,
  captionTemplateVersion,
  maxShards,
  planShards,
  shardOf,
  wishesText,
  type CacheQuestion,
  type CacheWishes,
  type Canonical,
} from "../../shared/cache-key.ts";
import { tagsMessages, visionMessages } from "../../shared/caption-prompt.ts";
import { blueEvidence } from "../kit/evidence.ts";

const maybe = <T>(values: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(values, { nil: null });
const word = fc.oneof(fc.constantFrom("", "0", "null", "auto", "a", '"', ",", "undefined"), fc.string());
const wishes: fc.Arbitrary<CacheWishes> = fc.record({
  model: maybe(word),
  prompt: maybe(word),
  max_tokens: fc.integer({ min: 0, max: 4096 }),
  temperature: fc.constantFrom(0, 0.1, 0.7, 1, 2),
  top_p: fc.constantFrom(0, 0.1, 0.9, 1),
  seed: maybe(fc.integer({ min: -3, max: 3 })),
});
const question: fc.Arbitrary<CacheQuestion> = fc.record({
  tenant: word,
  sha256: fc.constantFrom("0".repeat(64), "f".repeat(64), `${"0".repeat(63)}1`),
  wishes,
});

/** The question as one flat list of its fields. */
const fields = ({ tenant, sha256, wishes: asked }: CacheQuestion): [string, unknown][] => [
  ["tenant", tenant],
  ["sha256", sha256],
  ...Object.entries(asked),
];
const sameFields = (left: CacheQuestion, right: CacheQuestion): boolean => {
  const other = new Map(fields(right));
  return fields(left).every(([name, value]) => other.get(name) === value);
};

/** The same question with its keys written down in another order. */
const reordered = ({ tenant, sha256, wishes: asked }: CacheQuestion): CacheQuestion => ({
  wishes: Object.fromEntries(Object.entries(asked).reverse()) as CacheWishes,
  sha256,
  tenant,
});

test("B7 G11 two questions share a key exactly when every field is the same, in whatever order", () => {
  fc.assert(
    fc.property(question, question, (left, right) => {
      assert.equal(cacheKeyText(left) === cacheKeyText(right), sameFields(left, right));
      assert.equal(cacheKeyText(reordered(left)), cacheKeyText(left));
      assert.equal(wishesText(reordered(left)), wishesText(left));
    }),
    { numRuns: 2000 },
  );
});

test("B7 a question that differs in any one field has another key", () => {
  const change = fc.constantFrom<(keyof CacheWishes | "tenant" | "sha256")[]>(
    "tenant",
    "sha256",
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
  );
  fc.assert(
    fc.property(question, question, change, (left, right, name) => {
      const changed: CacheQuestion =
        name === "tenant" || name === "sha256"
          ? { ...left, [name]: right[name] }
          : { ...left, wishes: { ...left.wishes, [name]: right.wishes[name] } };
      assert.equal(cacheKeyText(left) === cacheKeyText(changed), sameFields(left, changed));
      // Another picture may be answered for; another tenant, model, prompt or option never.
      assert.equal(wishesText(left) === wishesText(changed), name === "sha256" || sameFields(left, changed));
    }),
    { numRuns: 2000 },
  );
});

const base: CacheQuestion = {
  tenant: "a",
  sha256: "0".repeat(64),
  wishes: { model: null, prompt: null, max_tokens: 256, temperature: 0.7, top_p: 0.9, seed: null },
};

const apart: readonly [string, Partial<CacheWishes>, Partial<CacheWishes>][] = [
  ["seed 0 and no seed", { seed: 0 }, { seed: null }],
  ["temperature 0 and 0.7", { temperature: 0 }, { temperature: 0.7 }],
  ["top_p 0 and 1", { top_p: 0 }, { top_p: 1 }],
  ["an empty prompt and none", { prompt: "" }, { prompt: null }],
  ["the prompt `null` and none", { prompt: "null" }, { prompt: null }],
  ["the prompt `0` and the empty one", { prompt: "0" }, { prompt: "" }],
  ["model `auto` and none", { model: "auto" }, { model: null }],
  ["a model and a prompt of one text", { model: "x", prompt: null }, { model: null, prompt: "x" }],
];

for (const [name, left, right] of apart) {
  test(`${name} have keys of their own`, () => {
    const keyOf = (some: Partial<CacheWishes>): string =>
      cacheKeyText({ ...base, wishes: { ...base.wishes, ...some } });
    assert.notEqual(keyOf(left), keyOf(right));
  });
}

const texts: readonly [string, Canonical, string][] = [
  ["null", null, "null"],
  ["undefined", undefined, "undefined"],
  ["zero", 0, "0"],
  ["zero as text", "0", '"0"'],
  ["NaN, which JSON would make null", Number.NaN, "NaN"],
  ["an infinity", [-Infinity, Infinity], "[-Infinity,Infinity]"],
  ["a list with a gap", [1, undefined, null], "[1,undefined,null]"],
  [
    "keys by code unit, absent ones left out",
    { b: 1, a: { d: [], c: "x" }, B: true, z: undefined },
    '{"B":true,"a":{"c":"x","d":[]},"b":1}',
  ],
  ["half a surrogate pair", "\ud800", '"\\ud800"'],
];

for (const [name, value, expected] of texts) {
  test(`canonical text of ${name}`, () => {
    assert.equal(canonicalText(value), expected);
  });
}

test("canonical text is JSON wherever JSON can say it, and keeps the value", () => {
  fc.assert(
    fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
      const text = canonicalText(value);
      assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify(value)));
    }),
  );
});

/** `max_size`, shards, entries in each. */
const plans: readonly [number, number, number][] = [
  [0, 1, 0],
  [1, 1, 1],
  [5, 5, 1],
  [15, 15, 1],
  [16, 16, 1],
  [31, 16, 1],
  [32, 16, 2],
  [100, 16, 6],
  [1000, 16, 62],
  [1_000_000, 16, 62_500],
];

for (const [maxSize, shards, bound] of plans) {
  test(`${maxSize} entries are ${shards} shards of ${bound}`, () => {
    assert.deepEqual(planShards(maxSize), { shards, bound });
  });
}

test("the shards never hold more than max_size in all, a small one still stores, and every picture has a shard", () => {
  fc.assert(
    fc.property(fc.nat({ max: 100_000 }), fc.stringMatching(/^[0-9a-f]{64}$/), (maxSize, sha256) => {
      const plan = planShards(maxSize);
      assert.ok(plan.shards * plan.bound <= maxSize);
      assert.equal(plan.bound > 0, maxSize > 0);
      const index = shardOf(sha256, plan);
      assert.ok(Number.isInteger(index) && index >= 0 && index < Math.min(plan.shards, maxShards));
      if (plan.shards === maxShards) assert.equal(index, Number.parseInt(sha256.charAt(0), 16));
    }),
  );
});

test("B22 other words to the model are another template version, so that no answer to the old ones is served", () => {
  const words = JSON.stringify([visionMessages(null, ""), tagsMessages(null, blueEvidence).slice(0, -1)]);
  const digest = createHash("sha256").update(words).digest("hex").slice(0, 16);
  // Raise `captionTemplateVersion` when this fails, and note the new pair here.
  assert.deepEqual([captionTemplateVersion, digest], ["2026-11-1", "112704f3abe0be1d"]);
});
