import { readConfig, type Config } from "../../shared/config.ts";
import type { Logger } from "../../shared/log.ts";

/** A valid configuration with some keys set, as the environment would spell them. */
export function configWith(settings: Readonly<Record<string, string | number>> = {}): Config {
  const environment = Object.entries(settings).map(([key, value]) => [`PIXEL_LLM_${key.toUpperCase()}`, String(value)]);
  const reading = readConfig(Object.fromEntries(environment) as Record<string, string>);
  if (!reading.ok) throw new Error(JSON.stringify(reading.problems));
  return reading.config;
}

/** A logger that keeps its messages. */
export function listeningLogger(): Logger & { messages: string[] } {
  const messages: string[] = [];
  const keep = (message: string): void => void messages.push(message);
  return { messages, debug: keep, info: keep, warning: keep, error: keep, critical: keep };
}
