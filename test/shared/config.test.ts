import assert from "node:assert/strict";
import { test } from "node:test";
import {
  configKeys,
  profiles,
  readConfig,
  readFlags,
  showConfig,
  type Config,
  type Profile,
} from "../../shared/config.ts";

function read(environment: Record<string, string> = {}, flags: Record<string, string> = {}): Config {
  const reading = readConfig(environment, flags);
  assert.ok(reading.ok, JSON.stringify(reading));
  return reading.config;
}

/** The guide's four configurations and the contract's defaults, to the number. */
const expected: Record<Profile, Partial<Config>> = {
  production: {
    timeout_seconds: 30,
    retry_max_attempts: 3,
    retry_initial_delay: 1,
    retry_max_delay: 30,
    retry_backoff_multiplier: 2,
    retry_jitter: true,
    circuit_breaker_enabled: true,
    circuit_breaker_failure_threshold: 5,
    circuit_breaker_success_threshold: 2,
    circuit_breaker_cooldown_seconds: 60,
    circuit_breaker_half_open_max_calls: 3,
    fallback_cache_enabled: true,
    fallback_cache_ttl: 3600,
    fallback_cache_max_size: 1000,
    log_level: "INFO",
  },
  development: {
    timeout_seconds: 10,
    retry_max_attempts: 1,
    retry_initial_delay: 0.5,
    circuit_breaker_enabled: false,
    log_level: "DEBUG",
    timeout_first_token_seconds: 10,
    timeout_idle_seconds: 10,
  },
  high_throughput: {
    timeout_seconds: 120,
    retry_max_attempts: 5,
    retry_initial_delay: 2,
    retry_max_delay: 60,
    circuit_breaker_failure_threshold: 10,
    circuit_breaker_cooldown_seconds: 30,
    fallback_cache_ttl: 7200,
    fallback_cache_max_size: 1000,
    log_level: "WARNING",
  },
  low_latency: {
    timeout_seconds: 5,
    retry_max_attempts: 1,
    retry_initial_delay: 0.1,
    circuit_breaker_failure_threshold: 3,
    circuit_breaker_success_threshold: 1,
    circuit_breaker_cooldown_seconds: 10,
    fallback_cache_ttl: 3600,
    fallback_cache_max_size: 100,
    log_level: "ERROR",
    timeout_first_token_seconds: 5,
    timeout_idle_seconds: 5,
  },
};

for (const [profile, values] of Object.entries(expected)) {
  test(`profile ${profile} is the guide's, to the number`, () => {
    const config = read({ PIXEL_LLM_PROFILE: profile });
    for (const [key, value] of Object.entries(values))
      assert.deepEqual([key, config[key as keyof Config]], [key, value]);
  });
}

test("flags win over the environment, the environment over the profile", () => {
  const environment = { PIXEL_LLM_PROFILE: "low_latency", PIXEL_LLM_TIMEOUT_SECONDS: "7" };
  assert.deepEqual(
    [
      read({ PIXEL_LLM_PROFILE: "low_latency" }).timeout_seconds,
      read(environment).timeout_seconds,
      read(environment, { timeout_seconds: "9" }).timeout_seconds,
    ],
    [5, 7, 9],
  );
});

test("the guide's short names mean the long keys", () => {
  const config = read({ PIXEL_LLM_TIMEOUT: "11", PIXEL_LLM_RETRY_ATTEMPTS: "2", PIXEL_LLM_LOG_LEVEL: "warning" });
  assert.deepEqual([config.timeout_seconds, config.retry_max_attempts, config.log_level], [11, 2, "WARNING"]);
});

test("B18: zero is a value", () => {
  const zeros = {
    temperature: "0",
    fallback_cache_ttl: "0",
    fallback_cache_max_size: "0",
    edge_port: "0",
    retry_initial_delay: "0",
  };
  const config = read({}, zeros);
  for (const key of Object.keys(zeros)) assert.equal(config[key as keyof Config], 0);
});

const problems: readonly [Record<string, string>, string, RegExp][] = [
  [{ PIXEL_LLM_TOP_P: "1.1" }, "top_p", /<=1/],
  [{ PIXEL_LLM_MAX_TOKENS: "1.5" }, "max_tokens", /int/],
  [{ PIXEL_LLM_LM_STUDIO_PORT: "70000" }, "lm_studio_port", /65535/],
  [{ PIXEL_LLM_LM_STUDIO_PORT: "text" }, "lm_studio_port", /number/],
  [{ PIXEL_LLM_RETRY_JITTER: "maybe" }, "retry_jitter", /boolean/],
  [{ PIXEL_LLM_PROFILE: "toString" }, "profile", /one of production/],
  [{ PIXEL_LLM_TEMPRATURE: "1" }, "temprature", /did you mean temperature/],
  [{ PIXEL_LLM_CONSTRUCTOR: "1" }, "constructor", /unknown key/],
  [{ PIXEL_LLM_FALLBACK_CHAIN: "cache,nothing" }, "fallback_chain", /Invalid option/],
  [{ PIXEL_LLM_SIDECAR_SECRET: "changeme".repeat(5) }, "sidecar_secret", /placeholder/],
  [{ PIXEL_LLM_SIDECAR_SECRET: "short" }, "sidecar_secret", /32 characters/],
  [{ PIXEL_LLM_SIDECAR_URL: "ftp://x" }, "sidecar_url", /http/],
  [{ PIXEL_LLM_CIRCUIT_BREAKER_WINDOW_SECONDS: "59" }, "circuit_breaker_window_seconds", /2 × timeout_seconds/],
  [{ PIXEL_LLM_CIRCUIT_BREAKER_COOLDOWN_SECONDS: "300.5" }, "circuit_breaker_cooldown_seconds", /<=300/],
  [
    { PIXEL_LLM_CIRCUIT_BREAKER_MAX_COOLDOWN_SECONDS: "59" },
    "circuit_breaker_max_cooldown_seconds",
    /at least circuit_breaker_cooldown_seconds/,
  ],
  [
    { PIXEL_LLM_CIRCUIT_BREAKER_PROBE_TIMEOUT_SECONDS: "31" },
    "circuit_breaker_probe_timeout_seconds",
    /at most timeout_seconds/,
  ],
  [
    { PIXEL_LLM_CIRCUIT_BREAKER_MAX_HALF_OPEN_SECONDS: "29" },
    "circuit_breaker_max_half_open_seconds",
    /at least circuit_breaker_probe_timeout_seconds/,
  ],
  [{ PIXEL_LLM_CIRCUIT_BREAKER_FAILURE_RATIO: "0.04" }, "circuit_breaker_failure_ratio", />=0.05/],
];

test("values at their bounds stand together, and `none` is no number", () => {
  const config = read({
    PIXEL_LLM_CIRCUIT_BREAKER_WINDOW_SECONDS: "60",
    PIXEL_LLM_CIRCUIT_BREAKER_MAX_COOLDOWN_SECONDS: "60",
    PIXEL_LLM_CIRCUIT_BREAKER_PROBE_TIMEOUT_SECONDS: "30",
    PIXEL_LLM_CIRCUIT_BREAKER_MAX_HALF_OPEN_SECONDS: "30",
    PIXEL_LLM_CIRCUIT_BREAKER_FAILURE_RATIO: "none",
  });
  assert.deepEqual([config.circuit_breaker_window_seconds, config.circuit_breaker_failure_ratio], [60, null]);
});

for (const [environment, key, rule] of problems) {
  test(`${Object.keys(environment)[0]}=${Object.values(environment)[0]?.slice(0, 8)} is refused by name and rule`, () => {
    const reading = readConfig(environment);
    assert.ok(!reading.ok);
    assert.deepEqual(
      reading.problems.map((problem) => problem.key),
      [key],
    );
    assert.match(reading.problems[0]?.rule ?? "", rule);
  });
}

test("S24: a secret stands in no problem and no show", () => {
  const secret = "a-real-secret-of-more-than-32-letters";
  const reading = readConfig({ PIXEL_LLM_SIDECAR_SECRET: `${secret},short`, PIXEL_LLM_LM_STUDIO_API_TOKEN: secret });
  assert.ok(!reading.ok && !JSON.stringify(reading).includes("real"));
  const shown = showConfig(
    "production",
    read({ PIXEL_LLM_SIDECAR_SECRET: secret, PIXEL_LLM_API_KEYS: secret, PIXEL_LLM_LM_STUDIO_API_TOKEN: secret }),
  );
  assert.ok(!JSON.stringify(shown).includes("real"));
});

test("every key has a default that its own schema takes, a unit, and one sentence", () => {
  for (const [key, row] of Object.entries(configKeys)) {
    assert.ok(row.schema.safeParse(row.default).success, key);
    assert.match(row.doc, /\.$/, key);
  }
  for (const profile of Object.keys(profiles)) read({ PIXEL_LLM_PROFILE: profile });
});

test("the sidecar's address follows its port unless it is set", () => {
  assert.equal(read().sidecar_url, "http://127.0.0.1:8790");
  assert.equal(read({}, { sidecar_port: "9001" }).sidecar_url, "http://127.0.0.1:9001");
  assert.equal(
    read({}, { sidecar_port: "9001", sidecar_url: "https://box.example" }).sidecar_url,
    "https://box.example",
  );
});

test("a default text that no rung will use is warned of", () => {
  const reading = readConfig({ PIXEL_LLM_FALLBACK_DEFAULT_VALUE: "no caption" });
  assert.ok(reading.ok && reading.warnings.length === 1);
  const used = readConfig({
    PIXEL_LLM_FALLBACK_DEFAULT_VALUE: "no caption",
    PIXEL_LLM_FALLBACK_CHAIN: "describe,default",
  });
  assert.ok(used.ok && used.warnings.length === 0);
});

test("flags come with a space or an equals sign, dashes or underscores; the rest is left alone", () => {
  assert.deepEqual(readFlags(["--top-p", "0.5", "photo.jpg", "--log_level=DEBUG"]), {
    flags: { top_p: "0.5", log_level: "DEBUG" },
    rest: ["photo.jpg"],
  });
});
