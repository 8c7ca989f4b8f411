import * as z from "zod";

/** The rungs a fallback chain may name, in the order of the default ladder. */
export const rungNames = ["cache", "similar", "describe", "default"] as const;
export type RungName = (typeof rungNames)[number];

/** The guide's levels, least severe first. */
export const logLevels = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] as const;
export type LogLevel = (typeof logLevels)[number];

const placeholderSecrets = ["changeme", "change-me", "secret", "password", "placeholder", "example", "test"];

const number = (min: number, max: number) => z.preprocess(fromNumberText, z.number().min(min).max(max));
const integer = (min: number, max: number) => z.preprocess(fromNumberText, z.int().min(min).max(max));
const optionalNumber = (min: number, max: number) =>
  z.preprocess((value) => (value === "none" ? null : fromNumberText(value)), z.number().min(min).max(max).nullable());
const flag = () => z.preprocess(fromBooleanText, z.boolean());
const text = (max = 4096) => z.string().trim().min(1).max(max);
const list = (item: z.ZodType<string>) => z.preprocess(fromListText, z.array(item));

/**
 * One key: its schema (texts from the environment are read as the value they spell), default, unit and meaning.
 * `secret` values are masked wherever a configuration is shown.
 */
type Key<S extends z.ZodType> = { schema: S; default: z.output<S>; unit: string; doc: string; secret?: true };
const key = <S extends z.ZodType>(row: Key<S>): Key<S> => row;

/** Every key of the configuration; the README's table is made from this one. */
export const configKeys = {
  checkpoint_path: key({
    schema: text().nullable(),
    default: null,
    unit: "path",
    doc: "ONNX encoder: a `.onnx` file or a folder in Hugging Face layout; none = the embedded encoder.",
  }),
  lm_studio_host: key({ schema: text(253), default: "localhost", unit: "host", doc: "Where LM Studio listens." }),
  lm_studio_port: key({ schema: integer(1, 65535), default: 1234, unit: "port", doc: "LM Studio's port." }),
  lm_studio_model: key({
    schema: text(256),
    default: "auto",
    unit: "model id",
    doc: "Model to caption with; `auto` = what is loaded, a model that sees first.",
  }),
  lm_studio_api_token: key({
    schema: text(1024).nullable(),
    default: null,
    unit: "token",
    doc: "Sent to LM Studio as bearer token, where its server asks for one.",
    secret: true,
  }),
  timeout_seconds: key({
    schema: number(0.1, 600),
    default: 30,
    unit: "s",
    doc: "Whole request, from its head at the edge to the answer.",
  }),
  timeout_connect_seconds: key({
    schema: number(0.1, 60),
    default: 3,
    unit: "s",
    doc: "Opening a connection, and the sidecar's response head (plus 1 s per MiB sent).",
  }),
  timeout_first_token_seconds: key({
    schema: number(0.1, 600),
    default: 20,
    unit: "s",
    doc: "From the request sent to LM Studio to its first token.",
  }),
  timeout_idle_seconds: key({
    schema: number(0.1, 600),
    default: 10,
    unit: "s",
    doc: "Between two tokens of LM Studio.",
  }),
  max_tokens: key({ schema: integer(1, 4096), default: 256, unit: "tokens", doc: "Length limit of a caption." }),
  temperature: key({ schema: number(0, 2), default: 0.7, unit: "", doc: "Sampling temperature; 0 = greedy." }),
  top_p: key({ schema: number(0, 1), default: 0.9, unit: "", doc: "Nucleus sampling bound." }),
  batch_size: key({ schema: integer(1, 256), default: 16, unit: "images", doc: "Upper bound of one encoder run." }),
  max_image_bytes: key({
    schema: integer(1024, 64 * 2 ** 20),
    default: 8 * 2 ** 20,
    unit: "bytes",
    doc: "Largest picture taken, as sent.",
  }),
  max_image_pixels: key({
    schema: integer(1, 26_214_400),
    default: 24 * 2 ** 20,
    unit: "pixels",
    doc: "Largest picture taken, width × height; LM Studio refuses above 26,214,400.",
  }),
  max_queue: key({
    schema: integer(1, 4096),
    default: 64,
    unit: "requests",
    doc: "Requests inside the sidecar at once.",
  }),
  memory_limit_bytes: key({
    schema: z.preprocess(
      (value) => (value === "none" ? null : fromNumberText(value)),
      z
        .int()
        .min(2 ** 27)
        .nullable(),
    ),
    default: null,
    unit: "bytes",
    doc: "The sidecar refuses work above 90 % of it; none = what the system allows the process.",
  }),
  retry_max_attempts: key({ schema: integer(1, 20), default: 3, unit: "calls", doc: "Calls in all; 1 = no retry." }),
  retry_initial_delay: key({ schema: number(0, 600), default: 1, unit: "s", doc: "Delay before the second call." }),
  retry_max_delay: key({ schema: number(0, 3600), default: 30, unit: "s", doc: "No delay of our own is longer." }),
  retry_backoff_multiplier: key({ schema: number(1, 100), default: 2, unit: "", doc: "Growth of the delay per call." }),
  retry_jitter: key({ schema: flag(), default: true, unit: "", doc: "Spread each delay over its upper half." }),
  retry_strategy: key({
    schema: z.enum(["exponential", "linear", "fixed", "immediate"]),
    default: "exponential",
    unit: "",
    doc: "How the delay grows.",
  }),
  circuit_breaker_enabled: key({ schema: flag(), default: true, unit: "", doc: "Off = count, never refuse." }),
  circuit_breaker_failure_threshold: key({
    schema: integer(1, 1000),
    default: 5,
    unit: "failures",
    doc: "Failures in a row that open the circuit.",
  }),
  circuit_breaker_success_threshold: key({
    schema: integer(1, 1000),
    default: 2,
    unit: "successes",
    doc: "Successful probes that close it.",
  }),
  circuit_breaker_cooldown_seconds: key({
    schema: number(0.1, 300),
    default: 60,
    unit: "s",
    doc: "How long an open circuit refuses before it probes.",
  }),
  circuit_breaker_half_open_max_calls: key({
    schema: integer(1, 1000),
    default: 3,
    unit: "calls",
    doc: "Probes under way at once.",
  }),
  circuit_breaker_window_seconds: key({
    schema: optionalNumber(1, 86_400),
    default: null,
    unit: "s",
    doc: "How far back failures are counted, at least 2 × timeout_seconds; none = that, and 60 at least.",
  }),
  circuit_breaker_failure_ratio: key({
    schema: optionalNumber(0.05, 1),
    default: 0.5,
    unit: "share",
    doc: "Share of failures in the window that opens the circuit, or `none`.",
  }),
  circuit_breaker_minimum_calls: key({
    schema: integer(2, 100_000),
    default: 30,
    unit: "calls",
    doc: "Calls in the window before shares count.",
  }),
  circuit_breaker_slow_call_seconds: key({
    schema: optionalNumber(0.01, 600),
    default: null,
    unit: "s",
    doc: "A good answer that took longer is slow; none = no answer is.",
  }),
  circuit_breaker_slow_ratio: key({
    schema: number(0.05, 1),
    default: 0.8,
    unit: "share",
    doc: "Share of slow answers in the window that opens the circuit.",
  }),
  circuit_breaker_max_cooldown_seconds: key({
    schema: number(0.1, 86_400),
    default: 300,
    unit: "s",
    doc: "No cooldown grows beyond this.",
  }),
  circuit_breaker_probe_timeout_seconds: key({
    schema: optionalNumber(0.1, 600),
    default: null,
    unit: "s",
    doc: "Time one probe has; none = timeout_seconds, its upper bound.",
  }),
  circuit_breaker_max_half_open_seconds: key({
    schema: optionalNumber(0.1, 86_400),
    default: null,
    unit: "s",
    doc: "Longest half-open time without a verdict; none = 2 × the probe's time.",
  }),
  circuit_breaker_ramp_seconds: key({
    schema: number(0, 3600),
    default: 10,
    unit: "s",
    doc: "After closing, calls are let through in doubling numbers for this long; 0 = all at once.",
  }),
  fallback_cache_enabled: key({
    schema: flag(),
    default: true,
    unit: "",
    doc: "Keep captions for later; needs `sidecar_secret`, which their keys are made from.",
  }),
  fallback_cache_ttl: key({
    schema: number(0, 31_536_000),
    default: 3600,
    unit: "s",
    doc: "How long a caption is fresh.",
  }),
  fallback_cache_max_size: key({
    schema: integer(0, 1_000_000),
    default: 1000,
    unit: "entries",
    doc: "Captions kept.",
  }),
  fallback_cache_stale_seconds: key({
    schema: number(0, 31_536_000),
    default: 604_800,
    unit: "s",
    doc: "How long an old caption may still stand in when the box fails.",
  }),
  fallback_similarity_floor: key({
    schema: optionalNumber(0, 1),
    default: null,
    unit: "cosine",
    doc: "Least likeness at which rung `similar` answers; none = what the encoder's manifest says.",
  }),
  fallback_default_value: key({
    schema: text(2000).nullable(),
    default: null,
    unit: "text",
    doc: "Caption of the rung `default`.",
  }),
  fallback_chain: key({
    schema: z.preprocess(fromChainText, z.array(z.enum(rungNames)).max(4)),
    default: ["cache", "describe"],
    unit: "rungs",
    doc: "What answers when the box does not, in order (`cache`, `similar`, `describe`, `default`), or `none`.",
  }),
  edge_port: key({ schema: integer(0, 65535), default: 8787, unit: "port", doc: "Local edge; 0 = any free port." }),
  sidecar_port: key({ schema: integer(0, 65535), default: 8790, unit: "port", doc: "Sidecar; 0 = any free port." }),
  log_level: key({
    schema: z.preprocess((value) => (typeof value === "string" ? value.toUpperCase() : value), z.enum(logLevels)),
    default: "INFO",
    unit: "",
    doc: "Least severe level that is written.",
  }),
  log_file: key({ schema: text().nullable(), default: null, unit: "path", doc: "Log lines go here too." }),
  state_dir: key({
    schema: text(),
    default: ".pixel-llm/",
    unit: "path",
    doc: "What outlives a restart: local edge state, generated secret, used nonces.",
  }),
  sidecar_url: key({
    schema: z.url({ protocol: /^https?$/, error: "an http: or https: URL" }),
    default: "http://127.0.0.1:8790",
    unit: "URL",
    doc: "Where the edge finds the sidecar; follows `sidecar_port` unless set.",
  }),
  sidecar_secret: key({
    schema: z.preprocess(
      fromListText,
      z
        .array(
          z
            .string()
            .min(32, "at least 32 characters")
            .refine(
              (secret) => !placeholderSecrets.some((word) => secret.toLowerCase().startsWith(word)),
              "not a placeholder",
            ),
        )
        .max(2),
    ),
    default: [],
    unit: "secret",
    doc: "Signs calls from edge to sidecar; two, newest first, while one is being replaced. `npm start` makes its own.",
    secret: true,
  }),
  api_keys: key({
    schema: list(text(256)),
    default: [],
    unit: "keys",
    doc: "Keys callers may use, comma-separated, each a tenant of its own; none = open, on loopback only.",
    secret: true,
  }),
} as const;

/** A configuration key in the guide's spelling. */
export type ConfigKey = keyof typeof configKeys;

/** The whole configuration, every key present and valid. */
export type Config = { [K in ConfigKey]: z.output<(typeof configKeys)[K]["schema"]> };

/** The guide's four configurations, to the number; what one does not name keeps its default. */
export const profiles = {
  production: {},
  development: {
    timeout_seconds: 10,
    retry_max_attempts: 1,
    retry_initial_delay: 0.5,
    circuit_breaker_enabled: false,
    log_level: "DEBUG",
  },
  high_throughput: {
    timeout_seconds: 120,
    retry_max_attempts: 5,
    retry_initial_delay: 2,
    retry_max_delay: 60,
    circuit_breaker_failure_threshold: 10,
    circuit_breaker_cooldown_seconds: 30,
    fallback_cache_ttl: 7200,
    log_level: "WARNING",
  },
  low_latency: {
    timeout_seconds: 5,
    retry_max_attempts: 1,
    retry_initial_delay: 0.1,
    circuit_breaker_failure_threshold: 3,
    circuit_breaker_success_threshold: 1,
    circuit_breaker_cooldown_seconds: 10,
    fallback_cache_max_size: 100,
    log_level: "ERROR",
  },
} as const satisfies Record<string, Partial<Config>>;

/** A name of `profiles`; the default is `production`. */
export type Profile = keyof typeof profiles;

/** The guide's short names; they mean the long key. */
export const configAliases = {
  timeout: "timeout_seconds",
  retry_attempts: "retry_max_attempts",
} as const satisfies Record<string, ConfigKey>;

/** What is wrong with one value; `value` is masked when the key is a secret. */
export type ConfigProblem = { key: string; value: string; rule: string };

/** A whole configuration, or every problem at once. */
export type ConfigReading =
  | { ok: true; profile: Profile; config: Config; warnings: string[] }
  | { ok: false; problems: ConfigProblem[] };

/** Prefix of an environment variable that sets a key. */
export const environmentPrefix = "PIXEL_LLM_";

/**
 * Reads the configuration from profile, environment (`PIXEL_LLM_` + key in upper case) and flags (key → text),
 * later sources winning. An empty text counts as not set. Unknown keys are problems, with the nearest known name.
 */
export function readConfig(
  environment: Readonly<Record<string, unknown>>,
  flags: Readonly<Record<string, string>> = {},
): ConfigReading {
  const given = new Map<string, unknown>();
  for (const [name, value] of Object.entries(environment)) {
    if (name.startsWith(environmentPrefix) && value !== undefined && value !== "") {
      given.set(name.slice(environmentPrefix.length).toLowerCase(), value);
    }
  }
  for (const [name, value] of Object.entries(flags)) given.set(name, value);

  const problems: ConfigProblem[] = [];
  const profile = readProfile(given.get("profile"), problems);
  given.delete("profile");
  const chosen = new Map<string, unknown>(Object.entries(profiles[profile]));
  for (const [name, value] of given) {
    const known = Object.hasOwn(configAliases, name) ? configAliases[name as keyof typeof configAliases] : name;
    if (Object.hasOwn(configKeys, known)) chosen.set(known, value);
    else problems.push({ key: name, value: "", rule: `unknown key; did you mean ${nearestKey(name)}?` });
  }

  if (!chosen.has("sidecar_url") && chosen.has("sidecar_port")) {
    chosen.set("sidecar_url", `http://127.0.0.1:${String(chosen.get("sidecar_port"))}`);
  }

  const config: Record<string, unknown> = {};
  for (const [name, row] of Object.entries(configKeys)) {
    const value = chosen.has(name) ? chosen.get(name) : row.default;
    const result = row.schema.safeParse(value);
    if (result.success) config[name] = result.data;
    else {
      const shown = "secret" in row ? "***" : typeof value === "string" ? value : (JSON.stringify(value) ?? "");
      problems.push({ key: name, value: shown, rule: result.error.issues.map((issue) => issue.message).join("; ") });
    }
  }
  if (problems.length === 0) problems.push(...findConflicts(config as Config));
  if (problems.length > 0) return { ok: false, problems };
  return { ok: true, profile, ...settleConfig(config as Config) };
}

/** The effective configuration as plain JSON, secrets masked, the profile first. */
export function showConfig(profile: Profile, config: Config): Record<string, unknown> {
  const shown: Record<string, unknown> = { profile };
  for (const [name, row] of Object.entries(configKeys)) {
    const value = config[name as ConfigKey];
    const empty = value === null || (Array.isArray(value) && value.length === 0);
    shown[name] = "secret" in row && !empty ? "***" : value;
  }
  return shown;
}

/** A problem list as text for people, one line each. */
export function renderProblems(problems: readonly ConfigProblem[]): string {
  return problems
    .map(({ key: name, value, rule }) => `  ${name}${value === "" ? "" : ` = ${value}`}: ${rule}`)
    .join("\n");
}

/** `--key value`, `--key=value`, dashes or underscores, as key → text; what is not a flag comes back as `rest`. */
export function readFlags(args: readonly string[]): { flags: Record<string, string>; rest: string[] } {
  const flags: Record<string, string> = {};
  const rest: string[] = [];
  for (let index = 0; index < args.length; index += 1) {
    const arg = args[index] ?? "";
    const match = /^--([a-z0-9_-]+)(?:=(.*))?$/is.exec(arg);
    if (match === null) {
      rest.push(arg);
      continue;
    }
    const name = (match[1] ?? "").replaceAll("-", "_").toLowerCase();
    if (match[2] === undefined) index += 1;
    flags[name] = match[2] ?? args[index] ?? "";
  }
  return { flags, rest };
}

/** Values that are each fine and cannot stand together. */
function findConflicts(config: Config): ConfigProblem[] {
  const {
    timeout_seconds: timeout,
    circuit_breaker_window_seconds: window,
    circuit_breaker_cooldown_seconds: cooldown,
    circuit_breaker_max_cooldown_seconds: longest,
    circuit_breaker_probe_timeout_seconds: probe,
    circuit_breaker_max_half_open_seconds: halfOpen,
  } = config;
  const rules: readonly [ConfigKey, number | null, boolean, string][] = [
    // A call longer than the window would never be counted in it.
    ["circuit_breaker_window_seconds", window, (window ?? Infinity) < 2 * timeout, "at least 2 × timeout_seconds"],
    ["circuit_breaker_max_cooldown_seconds", longest, longest < cooldown, "at least circuit_breaker_cooldown_seconds"],
    ["circuit_breaker_probe_timeout_seconds", probe, (probe ?? 0) > timeout, "at most timeout_seconds"],
    [
      "circuit_breaker_max_half_open_seconds",
      halfOpen,
      (halfOpen ?? Infinity) < (probe ?? timeout),
      "at least circuit_breaker_probe_timeout_seconds",
    ],
  ];
  return rules.flatMap(([name, value, broken, rule]) => (broken ? [{ key: name, value: String(value), rule }] : []));
}

// A stage limit above the whole budget could never fire; what is shown and used is what can happen.
function settleConfig(config: Config): { config: Config; warnings: string[] } {
  const warnings: string[] = [];
  if (config.fallback_default_value !== null && !config.fallback_chain.includes("default")) {
    warnings.push("fallback_default_value is set, but fallback_chain has no rung `default`: it will never be used");
  }
  const within = (seconds: number): number => Math.min(seconds, config.timeout_seconds);
  return {
    warnings,
    config: {
      ...config,
      timeout_connect_seconds: within(config.timeout_connect_seconds),
      timeout_first_token_seconds: within(config.timeout_first_token_seconds),
      timeout_idle_seconds: within(config.timeout_idle_seconds),
    },
  };
}

function readProfile(value: unknown, problems: ConfigProblem[]): Profile {
  if (value === undefined) return "production";
  if (typeof value === "string" && Object.hasOwn(profiles, value)) return value as Profile;
  problems.push({ key: "profile", value: JSON.stringify(value), rule: `one of ${Object.keys(profiles).join(", ")}` });
  return "production";
}

function fromNumberText(value: unknown): unknown {
  return typeof value === "string" && /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(value) ? Number(value) : value;
}

function fromBooleanText(value: unknown): unknown {
  if (typeof value !== "string") return value;
  const word = value.trim().toLowerCase();
  if (["true", "1", "yes", "on"].includes(word)) return true;
  if (["false", "0", "no", "off"].includes(word)) return false;
  return value;
}

function fromListText(value: unknown): unknown {
  if (typeof value !== "string") return value;
  return value
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

function fromChainText(value: unknown): unknown {
  return value === "none" ? [] : fromListText(value);
}

function nearestKey(name: string): string {
  const known = ["profile", ...Object.keys(configKeys), ...Object.keys(configAliases)];
  return known.reduce((best, next) => (editDistance(name, next) < editDistance(name, best) ? next : best));
}

/** Levenshtein distance, the number of one-letter changes between two names (both at most 64 letters here). */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (const [index, letter] of Array.from(from.slice(0, 64)).entries()) {
    const next = [index + 1];
    for (let column = 1; column <= to.length; column += 1) {
      next.push(
        Math.min(
          (row[column] ?? 0) + 1,
          (next[column - 1] ?? 0) + 1,
          (row[column - 1] ?? 0) + (letter === to[column - 1] ? 0 : 1),
        ),
      );
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
