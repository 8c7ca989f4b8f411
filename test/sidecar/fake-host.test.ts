import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { after, test } from "node:test";
import { readCheckpoint } from "../../sidecar/checkpoint.ts";
import { canaryPictures } from "../../sidecar/encoder-canary.ts";
import { startEncoder, type Encoder } from "../../sidecar/encoder.ts";
import type { HostOrder, HostReport } from "../../sidecar/encoder-protocol.ts";
import { createImageDoor } from "../../sidecar/image.ts";
import { healthyPicture, markedPicture, markedPixels, marks, readMark, type Mark } from "../kit/marked-pictures.ts";
import { childrenOf } from "../kit/processes.ts";
import { listeningLogger } from "../kit/settings.ts";
import { fakeEncoderHost, startSidecarInProcess } from "../kit/sidecar-in-process.ts";

const never = new AbortController().signal;
const logger = listeningLogger();
const start = async (): Promise<Encoder> =>
  startEncoder({ model: await readCheckpoint(null), logger, hostModule: fakeEncoderHost });
const encoder = await start();
after(() => encoder.close());

const door = createImageDoor({ maxPixels: 2 ** 20 });
const pixelsOf = async (picture: Buffer): Promise<Uint8Array> => {
  const request = { format: "png", recipes: [encoder.recipe], jpeg: false, signal: never, timeoutMs: 5000 } as const;
  const { tensors } = await door.decode(picture, request);
  return tensors[0] ?? new Uint8Array();
};
const healthy = async (variant: number): Promise<number> =>
  (await encoder.encode(await pixelsOf(healthyPicture(variant)), never)).embedding.length;
/** The mark as type and title. */
const all = Object.keys(marks) as Mark[];

test("a marked picture keeps its mark through the decoder, a healthy one and the canary have none", async () => {
  for (const mark of all) {
    assert.equal(readMark(await pixelsOf(markedPicture(mark))), mark);
    assert.equal(readMark(await pixelsOf(markedPicture(mark, 3))), mark);
    assert.notDeepEqual(markedPicture(mark), markedPicture(mark, 3));
  }
  for (const pixels of canaryPictures(224, 224)) assert.equal(readMark(pixels), null);
  const others = await Promise.all([0, 1, 2].map((variant) => pixelsOf(healthyPicture(variant))));
  assert.deepEqual(
    others.map((pixels) => readMark(pixels)),
    [null, null, null],
  );
});

test("healthy pictures come out as from the real host, each with a vector of its own", async () => {
  const real = await startEncoder({ model: await readCheckpoint(null), logger });
  const vectors: string[] = [];
  for (let variant = 0; variant < 8; variant += 1) {
    const pixels = await pixelsOf(healthyPicture(variant));
    const { embedding, outputs } = await encoder.encode(pixels, never);
    const expected = await real.encode(pixels, never);
    assert.deepEqual([embedding, outputs], [expected.embedding, expected.outputs]);
    vectors.push(embedding.join());
  }
  assert.equal(new Set(vectors).size, 8);
  await real.close();
});

for (const mark of all) {
  test(`${mark}: the run fails with ERR_ENC_FORWARD_FAILED, and the encoder works again by itself`, async () => {
    await assert.rejects(encoder.encode(markedPixels(mark), never), { code: "ERR_ENC_FORWARD_FAILED" });
    assert.equal(await healthy(100), 128);
  });
}

test("out of memory poisons the session: no later run of that process works", async () => {
  const host = fork(fakeEncoderHost, { serialization: "advanced", execArgv: [] });
  const order = async (given: HostOrder): Promise<HostReport> => {
    host.send(given);
    const [report] = (await once(host, "message")) as [HostReport];
    return report;
  };
  const { file } = await readCheckpoint(null);
  assert.equal((await order({ kind: "load", file, threads: 1 })).kind, "loaded");
  const kinds: string[] = [];
  for (const pixels of [markedPixels("out_of_memory"), new Uint8Array(224 * 224 * 3)]) {
    const report = await order({ kind: "run", id: kinds.length, pixels });
    kinds.push(report.kind);
    assert.match(report.kind === "run_failed" ? report.text : "", /out of memory/);
  }
  assert.deepEqual(kinds, ["run_failed", "run_failed"]);
  const ended = once(host, "exit");
  host.disconnect();
  await ended;
});

test("the sidecar inside the test's process: the real routes over the fake host, signed, and gone with its close", async () => {
  const inside = await startSidecarInProcess({ hostModule: fakeEncoderHost });
  const embed = async (picture: Buffer): Promise<string> => {
    const answer = await inside.call({ method: "POST", target: "/v1/embed", body: picture, type: "image/png" });
    const { error } = (await answer.json()) as { error?: { code: string } };
    return `${answer.status} ${error?.code ?? "embedding"}`;
  };
  assert.equal((await fetch(`${inside.url}/info`)).status, 401);
  assert.equal(await embed(markedPicture("not_a_number")), "503 ERR_ENC_FORWARD_FAILED");
  assert.equal(await embed(healthyPicture(200)), "200 embedding");
  assert.ok(inside.lines.some((line) => line.includes("ERR_ENC_FORWARD_FAILED")));
  const hosts = childrenOf(process.pid, "encoder-host").length;
  await inside.close();
  assert.equal(childrenOf(process.pid, "encoder-host").length, hosts - 1);
  await assert.rejects(fetch(`${inside.url}/livez`));
});
