import assert from "node:assert/strict";
import { execFileSync, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { isPixelLLMError } from "../../shared/errors.ts";
import { readCheckpoint } from "../../sidecar/checkpoint.ts";
import { startEncoder, type Encoder } from "../../sidecar/encoder.ts";
import { childrenOf, gone } from "../kit/processes.ts";
import { listeningLogger } from "../kit/settings.ts";

const never = new AbortController().signal;
const open = async (): Promise<Encoder> =>
  startEncoder({ model: await readCheckpoint(null), logger: listeningLogger() });
const pixels = (value: number): Uint8Array => new Uint8Array(224 * 224 * 3).fill(value);

test("concurrent pictures each get their own vector, the one they get alone", async () => {
  const encoder = await open();
  const colours = Array.from({ length: 24 }, (_, index) => {
    const picture = pixels(0);
    for (let at = 0; at < picture.length; at += 3)
      picture.set([(index * 37) % 256, (index * 91) % 256, (index * 151) % 256], at);
    return picture;
  });
  const alone: Float32Array[] = [];
  for (const picture of colours) alone.push((await encoder.encode(picture, never)).embedding);
  const together = await Promise.all(colours.map((picture) => encoder.encode(picture, never)));
  assert.deepEqual(
    together.map(({ embedding }) => embedding),
    alone,
  );
  await encoder.close();
});

test("a host that is killed fails the run in flight, keeps the queue, and comes back", async () => {
  const encoder = await open();
  const [host] = childrenOf(process.pid, "encoder-host");
  assert.ok(host !== undefined);
  const inFlight = encoder.encode(pixels(1), never).catch((error: unknown) => error);
  const queued = encoder.encode(pixels(2), never);
  process.kill(host, "SIGKILL");
  const lost = await inFlight;
  assert.ok(isPixelLLMError(lost));
  assert.equal(lost.code, "ERR_ENC_FORWARD_FAILED");
  assert.equal((await queued).embedding.length, 128);
  assert.equal(encoder.state(), "ready");
  await encoder.close();
  await encoder.close();
});

test("an aborted call that has not begun is never run, and a closed encoder refuses", async () => {
  const encoder = await open();
  const leave = new AbortController();
  const first = encoder.encode(pixels(1), never);
  const second = encoder.encode(pixels(2), leave.signal);
  const reason = new Error("left");
  leave.abort(reason);
  await assert.rejects(second, reason);
  await first;
  await encoder.close();
  await assert.rejects(encoder.encode(pixels(1), never), { code: "ERR_ENC_FORWARD_FAILED" });
});

test("a host dies with its parent, also when the parent is killed by force", async () => {
  const parent = fork(new URL("../kit/encoder-parent.ts", import.meta.url), {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const [host] = (await once(parent, "message")) as [number];
  parent.kill("SIGKILL");
  await gone(host);
});

test("a host sees no variable of ours that could hold a secret", async () => {
  process.env["PIXEL_LLM_SIDECAR_SECRET"] = "canary-canary-canary-canary-canary";
  const encoder = await open();
  const [host] = childrenOf(process.pid, "encoder-host");
  delete process.env["PIXEL_LLM_SIDECAR_SECRET"];
  const seen =
    process.platform === "linux"
      ? readFileSync(`/proc/${host}/environ`, "utf8")
      : execFileSync("ps", ["eww", String(host)]).toString();
  assert.ok(!seen.includes("canary"));
  await encoder.close();
});
