import type { ErrorCode } from "./errors.ts";

/** Why a request was sent on (RFC 9211, 2.2), of the reasons we can have. */
export type Forwarded = "miss" | "request" | "stale" | "bypass";

/** What the cache did for one answer: it answered itself, or the request went on. Never both (RFC 9211, 2.1). */
export type CacheStatus =
  | {
      kind: "hit";
      /** Whole seconds of freshness left, negative when stale. */
      ttlSeconds: number;
      /** Why a stale one was served. */
      detail?: ErrorCode;
      fwd?: never;
      stored?: never;
      collapsed?: never;
    }
  | {
      kind: "forward";
      fwd: Forwarded;
      /** HTTP status of the call, or the contract's of its failure; given where the answer's own differs from it. */
      fwdStatus?: number;
      /** The answer is kept. */
      stored?: boolean;
      /** The answer was made for another request that was under way. */
      collapsed?: boolean;
      /** Of the entry that was served after all. */
      ttlSeconds?: number;
      detail?: ErrorCode;
      hit?: never;
    };

/** The value of `Cache-Status`. `key` is never part of it: it would help to probe other tenants' entries. */
export function renderCacheStatus(status: CacheStatus): string {
  const parts = ["pixel-llm"];
  if (status.kind === "hit") parts.push("hit");
  else {
    parts.push(`fwd=${status.fwd}`);
    if (status.fwdStatus !== undefined) parts.push(`fwd-status=${status.fwdStatus}`);
    if (status.stored === true) parts.push("stored");
    if (status.collapsed === true) parts.push("collapsed");
  }
  if (status.ttlSeconds !== undefined) parts.push(`ttl=${Math.trunc(status.ttlSeconds)}`);
  if (status.detail !== undefined) parts.push(`detail=${status.detail}`);
  return parts.join("; ");
}
