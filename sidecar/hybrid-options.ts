import { createHash } from "node:crypto";
import { cacheKeyText } from "../shared/cache-key.ts";
import { readConfig, type Config, type Profile } from "../shared/config.ts";
import { PixelLLMError } from "../shared/errors.ts";
import { parseCaptionOptions, settleGeneration, type CaptionOptions } from "../shared/wire.ts";

/** The contract's configuration keys, and `profile`; every key is optional. Texts are read as the value they spell. */
export type HybridConfig = Readonly<Partial<Record<keyof Config | "profile", unknown>>>;

/** What may be asked of one caption; what is left out takes the configured value, `0` is a value. */
export type GenerateOptions = {
  prompt?: string;
  model?: string;
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  seed?: number;
  /** A chain of rungs, as a list or separated by commas, or `none`. */
  fallback?: CaptionOptions["fallback"] | string;
  /** Ends the call at once; `generate` then rejects with its reason. */
  signal?: AbortSignal;
};

/** A configuration in force. */
export type HybridSettings = { config: Config; profile: Profile; warnings: readonly string[] };

/** One tenant: a library has a single owner. */
export const libraryTenant = "library";

/**
 * Reads a configuration; `ERR_VAL_INVALID_RANGE` names every problem at once, in `details.problems` too.
 * What is null or empty is refused by name where its key needs a value.
 */
export function readSettings(config: HybridConfig): HybridSettings {
  const given = Object.entries(config).map(([key, value]) => [
    `PIXEL_LLM_${key.toUpperCase()}`,
    value === "" ? null : value,
  ]);
  const reading = readConfig(Object.fromEntries(given) as Record<string, unknown>);
  if (reading.ok) return reading;
  const problems = reading.problems.map(({ key, rule }) => ({ field: key, rule }));
  throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
    param: problems[0]?.field,
    hint: problems.map(({ field, rule }) => `\`${field}\`: ${rule}.`).join(" "),
    details: { problems },
  });
}

const optionNames = {
  prompt: "prompt",
  model: "model",
  maxTokens: "max_tokens",
  temperature: "temperature",
  topP: "top_p",
  seed: "seed",
  fallback: "fallback",
} as const satisfies Record<Exclude<keyof GenerateOptions, "signal">, keyof CaptionOptions>;

/** The options under the contract's names; one that is not known is refused, not ignored. */
export function readOptions(wishes: GenerateOptions): CaptionOptions {
  const names: Readonly<Record<string, string>> = optionNames;
  const given = Object.entries(wishes).filter(([name, value]) => name !== "signal" && value !== undefined);
  return parseCaptionOptions(Object.fromEntries(given.map(([name, value]) => [names[name] ?? name, value])));
}

/** What a kept caption belongs to: the picture and everything asked of it, settled with the configuration. */
export function keyOf(sha256: string, options: CaptionOptions, config: Config): string {
  const { maxTokens, temperature, topP, seed } = settleGeneration(options, config);
  const wishes = {
    model: options.model ?? null,
    prompt: options.prompt ?? null,
    max_tokens: maxTokens,
    temperature,
    top_p: topP,
    seed,
  };
  return createHash("sha256")
    .update(cacheKeyText({ tenant: libraryTenant, sha256, wishes }))
    .digest("hex");
}
