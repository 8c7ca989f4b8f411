import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  environmentPrefix,
  readConfig,
  readFlags,
  renderProblems,
  type Config,
  type ConfigReading,
} from "../shared/config.ts";
import { exitCodes } from "../sidecar/exit.ts";

/** A checked configuration, and the environment that gives a child process the same one. */
export type Settings = {
  profile: string;
  config: Config;
  environment: Record<string, string>;
  /** Arguments that were no flags. */
  rest: string[];
};

/** Reads environment and command line; a bad value ends the process with 78 and every problem listed. */
export function readSettings(args: readonly string[]): Settings {
  const { flags, rest } = readFlags(args);
  const reading = readConfig(process.env, flags);
  if (!reading.ok) return refuse(reading);
  for (const warning of reading.warnings) console.error(`pixel-llm: ${warning}`);
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) if (value !== undefined) environment[name] = value;
  for (const [name, value] of Object.entries(flags)) environment[environmentPrefix + name.toUpperCase()] = value;
  return { profile: reading.profile, config: reading.config, environment, rest };
}

/**
 * The secret both halves sign with: the configured one, else one kept in `state_dir`, made on first use, mode 0600.
 * What is given to a child as `PIXEL_LLM_SIDECAR_SECRET`.
 */
export function settleSecret(config: Config): string {
  if (config.sidecar_secret.length > 0) return config.sidecar_secret.join(",");
  const file = join(config.state_dir, "sidecar-secret");
  if (!existsSync(file)) {
    mkdirSync(config.state_dir, { recursive: true });
    writeFileSync(file, randomBytes(32).toString("hex"), { mode: 0o600 });
  }
  return readFileSync(file, "utf8").trim();
}

function refuse(reading: Extract<ConfigReading, { ok: false }>): never {
  console.error(`pixel-llm: bad configuration:\n${renderProblems(reading.problems)}`);
  process.exit(exitCodes.configuration);
}
