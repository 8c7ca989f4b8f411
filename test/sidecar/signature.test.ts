import assert from "node:assert/strict";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { signCall } from "../../edge/crypto.ts";
import { openReplayGuard, type ReplayGuard } from "../../sidecar/replay-guard.ts";
import { temporaryFolder } from "../kit/folders.ts";
import { createSignatureCheck, keyIdOf, type SignedRequest } from "../../sidecar/signature.ts";

const [oldSecret, newSecret] = ["o".repeat(40), "n".repeat(40)];
const now = 1_790_000_000;
const call = { method: "POST", path: "/v1/caption", query: "a=1", bodySha256: "0".repeat(64) };
const guardIn = async (folder?: string): Promise<ReplayGuard> =>
  openReplayGuard(join(folder ?? temporaryFolder(), "nonces"), now);

async function signed(secret = newSecret, at = now): Promise<SignedRequest & { headers: Record<string, string> }> {
  const headers = await signCall(secret, call, at * 1000, (count) => crypto.getRandomValues(new Uint8Array(count)));
  return { ...call, headers, header: (name) => headers[name] };
}

test("what the edge signs, the sidecar takes, with either of two active secrets", async () => {
  const check = createSignatureCheck([newSecret, oldSecret], await guardIn());
  for (const secret of [newSecret, oldSecret]) assert.equal(check(await signed(secret), now).ok, true);
  assert.deepEqual(check(await signed("x".repeat(40)), now), { ok: false, fault: "unknown_key" });
  assert.notEqual(keyIdOf(oldSecret), keyIdOf(newSecret));
});

test("F53: sixty seconds off still pass, sixty-one do not, in both directions", async () => {
  const check = createSignatureCheck([newSecret], await guardIn());
  const verdicts = await Promise.all(
    [-61, -60, 0, 60, 61].map(async (off) => check(await signed(newSecret, now + off), now).ok),
  );
  assert.deepEqual(verdicts, [false, true, true, true, false]);
});

test("any change of a covered part is refused, and leaves the nonce unused", async () => {
  const check = createSignatureCheck([newSecret], await guardIn());
  const request = await signed();
  for (const change of [{ method: "GET" }, { path: "/v1/embed" }, { query: "a=2" }, { query: "" }]) {
    assert.deepEqual(check({ ...request, ...change }, now), { ok: false, fault: "wrong_signature" });
  }
  for (const [name, value] of Object.entries(request.headers)) {
    const flipped = value.slice(0, -1) + (value.endsWith("0") ? "1" : "0");
    assert.equal(
      check({ ...request, header: (asked) => (asked === name ? flipped : request.headers[asked]) }, now).ok,
      false,
      name,
    );
    assert.deepEqual(
      check({ ...request, header: (asked) => (asked === name ? undefined : request.headers[asked]) }, now),
      { ok: false, fault: "malformed" },
    );
  }
  assert.equal(check(request, now).ok, true);
});

test("F54: a call passes once, also after a restart", async () => {
  const folder = temporaryFolder();
  const request = await signed();
  const first = createSignatureCheck([newSecret], await guardIn(folder));
  assert.deepEqual([first(request, now).ok, first(request, now)], [true, { ok: false, fault: "replayed" }]);
  const restarted = createSignatureCheck([newSecret], await guardIn(folder));
  assert.deepEqual(restarted(request, now), { ok: false, fault: "replayed" });
});

test("F56: a disk that is full later costs no call, and the next start refuses what was signed before it", () => {
  const file = join(temporaryFolder(), "nonces");
  const problems: Error[] = [];
  const guard = openReplayGuard(file, now, (problem) => problems.push(problem));
  assert.equal(guard.admit("a", now, now), true);
  // A folder in its place takes no line, like a disk without room.
  rmSync(file);
  mkdirSync(file);
  assert.deepEqual([guard.admit("b", now, now), guard.admit("b", now, now), problems.length], [true, false, 1]);
  rmSync(file, { recursive: true });
  writeFileSync(file, "");
  const next = openReplayGuard(file, now + 5);
  assert.deepEqual([next.admit("b", now, now + 5), next.admit("c", now + 5, now + 5)], [false, true]);
});

test("without its file the guard refuses what was signed before it started", () => {
  const guard = openReplayGuard("/dev/null/no/nonces", now);
  assert.notEqual(guard.problem, null);
  assert.deepEqual(
    [guard.admit("a", now - 1, now), guard.admit("b", now, now), guard.admit("b", now, now)],
    [false, true, false],
  );
});
