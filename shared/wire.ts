import * as z from "zod";
import { rungNames, type Config, type RungName } from "./config.ts";
import { errorCodes, PixelLLMError, errorTable, type ErrorBody } from "./errors.ts";
import { evidenceSchema, tagSchema } from "./evidence.ts";

/** Longest prompt: characters as a person counts them, and UTF-8 bytes, since it travels in a URL of at most 16 KiB. */
export const promptLimits = { characters: 2000, bytes: 4000 } as const;

const fallback = z.union([
  z.array(z.enum(rungNames)).max(rungNames.length),
  z.string().transform((chain, context): RungName[] => {
    if (chain.trim() === "none") return [];
    const parts = chain.split(",").map((part) => part.trim());
    const result = z.array(z.enum(rungNames)).min(1).max(rungNames.length).safeParse(parts);
    if (result.success) return result.data;
    context.addIssue({ code: "custom", message: `\`none\`, or some of ${rungNames.join(", ")}` });
    return z.NEVER;
  }),
]);

/** What a caller may ask of a caption; every key is optional, an absent one takes the configured value. */
export const captionOptionsSchema = z.strictObject({
  prompt: z
    .string()
    .trim()
    .min(1)
    .refine((prompt) => [...prompt].length <= promptLimits.characters, `at most ${promptLimits.characters} characters`)
    .refine((prompt) => utf8Length(prompt) <= promptLimits.bytes, `at most ${promptLimits.bytes} bytes of UTF-8`)
    .optional(),
  model: z.string().trim().min(1).max(256).optional(),
  max_tokens: z.int().min(1).max(4096).optional(),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().min(0).max(1).optional(),
  seed: z.int().optional(),
  stream: z.literal(false, "streaming is not offered on this route").optional(),
  fallback: fallback.optional(),
});

/** A caller's wishes, checked. */
export type CaptionOptions = z.output<typeof captionOptionsSchema>;

/** Option names whose texts (query, form) spell a number or a boolean. */
const typedOptions: ReadonlySet<string> = new Set(["max_tokens", "temperature", "top_p", "seed", "stream"]);

/** What a query or a form spells, as the value it spells; a text that spells none is left for the schema to refuse. */
export function readOptionText(name: string, value: string): unknown {
  if (!typedOptions.has(name)) return value;
  if (value === "true") return true;
  if (value === "false") return false;
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value) ? Number(value) : value;
}

/** Checks option values; the first problem is thrown as `ERR_VAL_INVALID_RANGE` with `param` and the rule. */
export function parseCaptionOptions(values: Readonly<Record<string, unknown>>): CaptionOptions {
  return parseWith(captionOptionsSchema, values);
}

/**
 * Checks a value against a schema; a problem becomes `ERR_VAL_MISSING_FIELD` (a required key is absent) or
 * `ERR_VAL_INVALID_RANGE`, `param` naming the key and the message the rule, never the value.
 */
export function parseWith<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const unknownKey = issue?.code === "unrecognized_keys" ? issue.keys[0] : undefined;
  const param = unknownKey ?? issue?.path.map(String).join(".") ?? "";
  if (unknownKey !== undefined) {
    const known = schema instanceof z.ZodObject ? ` Known: ${Object.keys(schema.shape).join(", ")}.` : "";
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
      param: param.slice(0, 64),
      hint: `This key is not known.${known}`,
    });
  }
  const missing = issue?.code === "invalid_type" && !hasPath(value, issue.path);
  throw new PixelLLMError(missing ? "ERR_VAL_MISSING_FIELD" : "ERR_VAL_INVALID_RANGE", {
    ...(param === "" ? {} : { param }),
    hint: `${param === "" ? "The body" : `\`${param}\``}: ${issue?.message ?? "not valid"}.`,
    details: {
      problems: result.error.issues.slice(0, 8).map((each) => ({ field: each.path.join("."), rule: each.message })),
    },
  });
}

/** The generation settings one call runs with: the caller's where given, else the configured ones. */
export type GenerationSettings = {
  maxTokens: number;
  temperature: number;
  topP: number;
  seed: number | null;
};

/** Merges a caller's options over the configuration; `0` is a value. */
export function settleGeneration(
  options: {
    max_tokens?: number | undefined;
    temperature?: number | undefined;
    top_p?: number | undefined;
    seed?: number | undefined;
  },
  config: Config,
): GenerationSettings {
  return {
    maxTokens: options.max_tokens ?? config.max_tokens,
    temperature: options.temperature ?? config.temperature,
    topP: options.top_p ?? config.top_p,
    seed: options.seed ?? null,
  };
}

/** Token counts in OpenAI's words; zero when unknown. */
export const usageSchema = z.object({
  prompt_tokens: z.int().min(0),
  completion_tokens: z.int().min(0),
  total_tokens: z.int().min(0),
});
export type Usage = z.output<typeof usageSchema>;

/** Formats that are taken, by their registered names. */
export const imageFormats = ["jpeg", "png", "webp", "gif", "avif"] as const;
export type ImageFormat = (typeof imageFormats)[number];

/** The picture as it came: format, size in pixels before any resize (orientation applied), hash of its bytes. */
export const imageInfoSchema = z.object({
  format: z.enum(imageFormats),
  width: z.int().min(1),
  height: z.int().min(1),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
export type ImageInfo = z.output<typeof imageInfoSchema>;

/** How the words were made: the model saw the picture, or read the encoder's evidence. */
export const routeSchema = z.enum(["vision", "tags"]);
export type Route = z.output<typeof routeSchema>;

const milliseconds = z.number().min(0);

/** The contract's inner `error` object. */
export const errorBodySchema: z.ZodType<ErrorBody> = z.object({
  message: z.string().min(1),
  type: z.custom<ErrorBody["type"]>((value) => typeof value === "string" && value.endsWith("_error")),
  param: z.string().nullable(),
  code: z.enum(errorCodes),
  category: z.custom<ErrorBody["category"]>((value) => typeof value === "string"),
  severity: z.enum(["LOW", "MEDIUM", "HIGH", "CRITICAL"]),
  retryable: z.boolean(),
  request_id: z.string().nullable(),
  retry_after_seconds: z.number().nullable(),
  details: z.record(z.string(), z.unknown()),
});

/** The answer of `POST /v1/captions`. */
export const captionSchema = z.object({
  id: z.string().regex(/^cap_[0-9a-f]{24}$/),
  object: z.literal("caption"),
  created: z.int(),
  caption: z.string().min(1),
  source: z.enum(["lm_studio", "cache", "similar", "describe", "default"]),
  degraded: z.boolean(),
  route: routeSchema.nullable(),
  model: z.string().nullable(),
  tags: z.array(tagSchema),
  image: imageInfoSchema,
  attempts: z.int().min(0),
  cause: errorBodySchema.nullable(),
  usage: usageSchema,
  timings_ms: z.object({
    total: milliseconds,
    decode: milliseconds,
    encode: milliseconds,
    generate: milliseconds,
  }),
});
export type Caption = z.output<typeof captionSchema>;

/** What the sidecar measured of one image before any words were made. */
export const stageTimingsSchema = z.object({ decode: milliseconds, encode: milliseconds, generate: milliseconds });
export type StageTimings = z.output<typeof stageTimingsSchema>;

/** A picture's unit vector, to find pictures like it by. */
export const sidecarVectorSchema = z.object({
  /** Encoder id, `name@fingerprint`: vectors of different ids are never compared. */
  encoder: z.string(),
  /** Least cosine at which this encoder's vectors mean the same picture; null = its manifest names none. */
  floor: z.number().min(0).max(1).nullable(),
  /** Little-endian float32 in standard base64. */
  base64: z.string(),
});
export type SidecarVector = z.output<typeof sidecarVectorSchema>;

/** The sidecar's answer to `POST /v1/caption` when LM Studio gave words. */
export const sidecarCaptionSchema = z.object({
  caption: z.string().min(1),
  route: routeSchema,
  model: z.string(),
  /** `length`: cut by `max_tokens`. */
  finish: z.enum(["stop", "length"]),
  image: imageInfoSchema,
  tags: z.array(tagSchema),
  evidence: evidenceSchema.nullable(),
  vector: sidecarVectorSchema.nullable(),
  /** Another call for the same picture, prompt, options and tenant was under way and its answer is shared. */
  collapsed: z.boolean(),
  usage: usageSchema,
  timings_ms: stageTimingsSchema,
});
export type SidecarCaption = z.output<typeof sidecarCaptionSchema>;

/** The sidecar's answer to a failed call: the error, and what was known of the picture by then. */
export const sidecarFailureSchema = z.object({
  error: errorBodySchema,
  image: imageInfoSchema.nullable(),
  evidence: evidenceSchema.nullable(),
  vector: sidecarVectorSchema.nullable(),
  timings_ms: stageTimingsSchema,
});
export type SidecarFailure = z.output<typeof sidecarFailureSchema>;

/** The sidecar's answer to `POST /v1/embed`: a unit vector of `dimensions` numbers and what the encoder saw. */
export const sidecarEmbeddingSchema = z.object({
  /** Encoder id, `name@fingerprint`: vectors of different ids are never compared. */
  model: z.string(),
  dimensions: z.int().min(1),
  embedding: z.array(z.number()),
  /** As in `vector.floor`. */
  similarity_floor: z.number().min(0).max(1).nullable(),
  image: imageInfoSchema,
  tags: z.array(tagSchema),
  evidence: evidenceSchema.nullable(),
  timings_ms: stageTimingsSchema,
});
export type SidecarEmbedding = z.output<typeof sidecarEmbeddingSchema>;

/** One dependency in a readiness answer. */
export const dependencySchema = z.object({
  status: z.enum(["ok", "degraded", "down"]),
  /** What a person would want to know, of our own words. */
  detail: z.string(),
  code: z.enum(errorCodes).nullable(),
});
export type Dependency = z.output<typeof dependencySchema>;

/** The sidecar's `GET /readyz`: ready to answer with an encoder; LM Studio down is degraded, not dead. */
export const sidecarReadinessSchema = z.object({
  ready: z.boolean(),
  dependencies: z.object({ encoder: dependencySchema, lm_studio: dependencySchema }),
});
export type SidecarReadiness = z.output<typeof sidecarReadinessSchema>;

/** The sidecar's `GET /info`. */
export const sidecarInfoSchema = z.object({
  version: z.string(),
  profile: z.string(),
  encoder: z.record(z.string(), z.unknown()),
  lm_studio: z.record(z.string(), z.unknown()),
});
export type SidecarInfo = z.output<typeof sidecarInfoSchema>;

/** An error as it came over the wire, as an error of ours again, status and message rebuilt from the table. */
export function fromErrorBody(body: ErrorBody, status: number): PixelLLMError {
  const base = errorTable[body.code].message;
  return new PixelLLMError(body.code, {
    details: body.details,
    status,
    ...(body.param === null ? {} : { param: body.param }),
    ...(body.retry_after_seconds === null ? {} : { retryAfterSeconds: body.retry_after_seconds }),
    ...(body.message.startsWith(`${base}. `) ? { hint: body.message.slice(base.length + 2) } : {}),
  });
}

/** Bytes of a text in UTF-8. */
export function utf8Length(value: string): number {
  let bytes = 0;
  for (const letter of value) {
    const point = letter.codePointAt(0) ?? 0;
    bytes += point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x1_0000 ? 3 : 4;
  }
  return bytes;
}

function hasPath(value: unknown, path: readonly PropertyKey[]): boolean {
  let current = value;
  for (const step of path) {
    if (typeof current !== "object" || current === null || !Object.hasOwn(current, step)) return false;
    current = (current as Record<PropertyKey, unknown>)[step];
  }
  return true;
}
