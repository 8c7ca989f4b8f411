import assert from "node:assert/strict";
import { writeFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { isPixelLLMError } from "../../shared/errors.ts";
import { sidecarFailureSchema, sidecarReadinessSchema } from "../../shared/wire.ts";
import { readCheckpoint } from "../../sidecar/checkpoint.ts";
import { startEncoder, type Encoder } from "../../sidecar/encoder.ts";
import { startLmStudio } from "../kit/lm-studio.ts";
import { healthyPicture, markedPixels } from "../kit/marked-pictures.ts";
import { makeEncoder, makeFolder, preprocessorConfig } from "../kit/onnx-fixtures.ts";
import { childrenOf } from "../kit/processes.ts";
import { listeningLogger } from "../kit/settings.ts";
import { fakeEncoderHost, startSidecarInProcess } from "../kit/sidecar-in-process.ts";

/** A law that is broken may wait for ever. */
const patience = { timeout: 20_000 };

const never = new AbortController().signal;
const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
});

const open = async (): Promise<Encoder> => {
  const model = await readCheckpoint(null);
  const encoder = await startEncoder({ model, logger: listeningLogger(), hostModule: fakeEncoderHost });
  opened.push(encoder);
  return encoder;
};
const healthy = new Uint8Array(224 * 224 * 3).fill(90);

/** How an encoding ended: fine, or the failure's code and kind. */
async function endOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "fine";
  } catch (error) {
    if (!isPixelLLMError(error)) throw error;
    const { kind } = error.details;
    return typeof kind === "string" ? `${error.code} ${kind}` : error.code;
  }
}

test(
  "who waits keeps the place when the process is lost once, and is told when it is lost twice",
  patience,
  async () => {
    const encoder = await open();
    const deadly = markedPixels("crash");
    const ends = [deadly, healthy, deadly, healthy].map((pixels) => endOf(encoder.encode(pixels, never)));
    assert.deepEqual(await Promise.all(ends), [
      "ERR_ENC_FORWARD_FAILED host_died",
      "fine",
      "ERR_ENC_FORWARD_FAILED host_died",
      "ERR_ENC_FORWARD_FAILED",
    ]);
    assert.deepEqual([await endOf(encoder.encode(healthy, never)), encoder.restarts().died], ["fine", 2]);
  },
);

test(
  "while the process is away, who has no time for its return is refused with a wait, who has is served",
  patience,
  async () => {
    const encoder = await open();
    const deadly = endOf(encoder.encode(markedPixels("crash"), never));
    // In line already when the process is lost: it has as little time as one who comes after.
    const inLine = endOf(encoder.encode(healthy, never, 20));
    await deadly;
    assert.equal(encoder.state(), "rebuilding");
    assert.equal(await inLine, "ERR_API_OVERLOAD queue");
    const refused = await encoder.encode(healthy, never, 20).catch((error: unknown) => error);
    assert.ok(isPixelLLMError(refused));
    assert.deepEqual(
      [refused.code, refused.details["kind"], refused.details["reason"], (refused.retryAfterSeconds ?? 0) >= 1],
      ["ERR_API_OVERLOAD", "queue", "late", true],
    );
    assert.ok(encoder.backlogMs() > 0);
    assert.equal(await endOf(encoder.encode(healthy, never, 60_000)), "fine");
  },
);

const changes: readonly [string, (file: string) => Promise<void>, RegExp][] = [
  ["gone", (file) => rm(file), /cannot be read/],
  ["another", (file) => writeFile(file, makeEncoder({ output: "features" })), /another than at the start/],
];

for (const [name, change, words] of changes) {
  test(
    `F39 a checkpoint that is ${name} when its process is started again: no vectors, captions go on, readiness names it`,
    patience,
    async () => {
      const studio = await startLmStudio();
      const folder = await makeFolder({
        "onnx/vision_model.onnx": makeEncoder(),
        "preprocessor_config.json": JSON.stringify(preprocessorConfig),
      });
      const before = childrenOf(process.pid, "encoder-host");
      const sidecar = await startSidecarInProcess({
        signed: null,
        settings: {
          checkpoint_path: folder,
          lm_studio_host: "127.0.0.1",
          lm_studio_port: studio.port,
          log_level: "CRITICAL",
        },
      });
      opened.push(sidecar, studio);
      const post = (route: string): Promise<Response> =>
        sidecar.call({ method: "POST", target: `/v1/${route}`, body: healthyPicture(7), type: "image/png" });
      assert.equal((await post("embed")).status, 200);
      await change(join(folder, "onnx/vision_model.onnx"));
      for (const host of childrenOf(process.pid, "encoder-host"))
        if (!before.includes(host)) process.kill(host, "SIGKILL");
      const readiness = async () => {
        const response = await sidecar.call({ target: "/readyz" });
        return { status: response.status, body: sidecarReadinessSchema.parse(await response.json()) };
      };
      for (const startedAt = performance.now(); !words.test((await readiness()).body.dependencies.encoder.detail);) {
        assert.ok(performance.now() - startedAt < 15_000, (await readiness()).body.dependencies.encoder.detail);
      }
      const { status, body } = await readiness();
      assert.deepEqual(
        [status, body.ready, body.dependencies.encoder.status, body.dependencies.encoder.code],
        [200, true, "degraded", "ERR_ENC_LOAD_FAILED"],
      );
      const refused = await post("embed");
      const { error } = sidecarFailureSchema.parse(await refused.json());
      assert.deepEqual(
        [refused.status, error.code, error.retry_after_seconds, refused.headers.get("retry-after")],
        [503, "ERR_ENC_LOAD_FAILED", null, null],
      );
      const caption = await post("caption");
      const { vector, tags } = (await caption.json()) as { vector: unknown; tags: unknown[] };
      assert.deepEqual([caption.status, vector, tags.length > 0], [200, null, true]);
      await sidecar.close();
      await studio.close();
    },
  );
}
