import assert from "node:assert/strict";
import { test } from "node:test";
import { renderCacheStatus, type CacheStatus } from "../../shared/cache-status.ts";

const rows: readonly [string, CacheStatus, string][] = [
  ["a fresh entry", { kind: "hit", ttlSeconds: 3100 }, "pixel-llm; hit; ttl=3100"],
  ["a fresh entry in its last second", { kind: "hit", ttlSeconds: 0 }, "pixel-llm; hit; ttl=0"],
  ["made now, kept", { kind: "forward", fwd: "miss", stored: true }, "pixel-llm; fwd=miss; stored"],
  ["made now, not kept", { kind: "forward", fwd: "miss", stored: false }, "pixel-llm; fwd=miss"],
  ["no-store, or caching off", { kind: "forward", fwd: "bypass" }, "pixel-llm; fwd=bypass"],
  ["shared a call", { kind: "forward", fwd: "miss", collapsed: true }, "pixel-llm; fwd=miss; collapsed"],
  ["no-cache or max-age", { kind: "forward", fwd: "request", stored: true }, "pixel-llm; fwd=request; stored"],
  ["expired, made anew", { kind: "forward", fwd: "stale", stored: true }, "pixel-llm; fwd=stale; stored"],
  [
    "old, because the breaker refused",
    { kind: "hit", ttlSeconds: -30, detail: "ERR_CB_OPEN" },
    "pixel-llm; hit; ttl=-30; detail=ERR_CB_OPEN",
  ],
  [
    "old, because the call failed",
    { kind: "forward", fwd: "stale", fwdStatus: 503, ttlSeconds: -30, detail: "ERR_RETRY_EXHAUSTED" },
    "pixel-llm; fwd=stale; fwd-status=503; ttl=-30; detail=ERR_RETRY_EXHAUSTED",
  ],
  [
    "another rung after a failed call",
    { kind: "forward", fwd: "miss", fwdStatus: 504, detail: "ERR_TIMEOUT_REQUEST" },
    "pixel-llm; fwd=miss; fwd-status=504; detail=ERR_TIMEOUT_REQUEST",
  ],
];

for (const [name, status, expected] of rows) {
  test(`Cache-Status: ${name}`, () => {
    assert.equal(renderCacheStatus(status), expected);
  });
}

test("hit and fwd never stand together, in text and in type", () => {
  for (const [name, status] of rows) {
    const text = renderCacheStatus(status);
    assert.notEqual(/; hit\b/.test(text), /; fwd=/.test(text), name);
    assert.doesNotMatch(text, /\bkey\b/, name);
  }
  // These two lines stop compiling the day the type lets the two meet.
  const hitAlone: { kind: "hit"; ttlSeconds: 1; fwd: "miss" } extends CacheStatus ? never : true = true;
  const forwardAlone: { kind: "forward"; fwd: "miss"; hit: true } extends CacheStatus ? never : true = true;
  assert.ok(hitAlone && forwardAlone);
});
