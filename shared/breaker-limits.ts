import type { Config } from "./config.ts";
import type { Random } from "./random.ts";

/** What a breaker is held to; times in ms. `readBreakerLimits` makes it, the rules between the values hold. */
export type BreakerLimits = {
  /** False = everything is counted, nothing refused, the phase never changes. */
  enabled: boolean;
  /** Failures in a row that open a breaker whose dependency is otherwise quiet or healthy. */
  failureThreshold: number;
  /** Successful probes that close it. */
  successThreshold: number;
  cooldownMs: number;
  maxCooldownMs: number;
  /** Probes out at once, not in all. */
  halfOpenMaxCalls: number;
  windowMs: number;
  /** Share of failures in the window that opens; null = the rule is off. */
  failureRatio: number | null;
  /** Calls the window must hold before shares and noise count. */
  minimumCalls: number;
  /** Null = no answer is slow. */
  slowCallMs: number | null;
  slowRatio: number;
  probeTimeoutMs: number;
  maxHalfOpenMs: number;
  /** 0 = all calls at once after closing. */
  rampMs: number;
};

/** The limits a configuration means: unset ones follow the timeout. */
export function readBreakerLimits(config: Config): BreakerLimits {
  const timeout = config.timeout_seconds;
  const probe = config.circuit_breaker_probe_timeout_seconds ?? timeout;
  const slow = config.circuit_breaker_slow_call_seconds;
  return {
    enabled: config.circuit_breaker_enabled,
    failureThreshold: config.circuit_breaker_failure_threshold,
    successThreshold: config.circuit_breaker_success_threshold,
    cooldownMs: toMs(config.circuit_breaker_cooldown_seconds),
    maxCooldownMs: toMs(config.circuit_breaker_max_cooldown_seconds),
    halfOpenMaxCalls: config.circuit_breaker_half_open_max_calls,
    windowMs: toMs(config.circuit_breaker_window_seconds ?? Math.max(60, 2 * timeout)),
    failureRatio: config.circuit_breaker_failure_ratio,
    minimumCalls: config.circuit_breaker_minimum_calls,
    slowCallMs: slow === null ? null : toMs(slow),
    slowRatio: config.circuit_breaker_slow_ratio,
    probeTimeoutMs: toMs(probe),
    maxHalfOpenMs: toMs(config.circuit_breaker_max_half_open_seconds ?? 2 * probe),
    rampMs: toMs(config.circuit_breaker_ramp_seconds),
  };
}

/**
 * Length of a cooldown in ms: the base doubled per attempt and spread upwards by a fifth, never under the base, never
 * over the cap. `floorMs` is what the dependency itself asked for; it raises the length, up to the cap.
 */
export function cooldownMs(attempt: number, floorMs: number | null, limits: BreakerLimits, random: Random): number {
  const { cooldownMs: base, maxCooldownMs: cap } = limits;
  const lowest = Math.max(base, Math.min(cap / 1.2, base * 2 ** attempt));
  return Math.min(cap, Math.max(lowest * (1 + 0.2 * random()), floorMs ?? 0));
}

/** How long a lease lives: the probe's own deadline ends it first, so only a probe that never ends outlives it. */
export function leaseMs(limits: BreakerLimits): number {
  return limits.probeTimeoutMs + 1000;
}

/** Calls of all isolates together in second `second` (from 0) after closing: k, 2k, 4k …; `share` isolates split it. */
export function rampAllowance(second: number, share: number, limits: BreakerLimits): number {
  return Math.max(1, Math.floor((limits.halfOpenMaxCalls * 2 ** second) / share));
}

/** A wait as `Retry-After` tells it: whole seconds, rounded up, at least 1. */
export function wholeSeconds(ms: number): number {
  return Math.max(1, Math.ceil(ms / 1000));
}

function toMs(seconds: number): number {
  return Math.round(seconds * 1000);
}
