import assert from "node:assert/strict";
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { afterEach, test } from "node:test";
import { temporaryFolder } from "../kit/folders.ts";
import { startLmStudio, type LmStudio } from "../kit/lm-studio.ts";
import { CATALOGS } from "../kit/lm-studio/catalog.ts";
import { healthyPicture } from "../kit/marked-pictures.ts";
import { signedCall } from "../kit/signed-call.ts";

/** A law that is broken may wait for ever. */
const patience = { timeout: 20_000 };

const opened: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of opened.splice(0)) await end();
});

type Running = {
  child: ChildProcess;
  /** Sends a picture for a caption. */
  caption: (variant: number) => Promise<Response>;
  get: (target: string) => Promise<Response>;
  exited: Promise<[number | null, NodeJS.Signals | null]>;
};

/** The sidecar's own process, without a secret. */
async function start(studio: LmStudio, timeoutSeconds: number): Promise<Running> {
  const child = fork(new URL("../../sidecar/main.ts", import.meta.url), {
    env: {
      PATH: process.env["PATH"],
      PIXEL_LLM_STATE_DIR: temporaryFolder(),
      PIXEL_LLM_SIDECAR_PORT: "0",
      PIXEL_LLM_LM_STUDIO_HOST: "127.0.0.1",
      PIXEL_LLM_LM_STUDIO_PORT: String(studio.port),
      PIXEL_LLM_TIMEOUT_SECONDS: String(timeoutSeconds),
      PIXEL_LLM_LOG_LEVEL: "CRITICAL",
    },
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  opened.push(
    () => child.kill("SIGKILL"),
    () => studio.close(),
  );
  const exited = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
  const [{ port }] = (await once(child, "message")) as [{ port: number }];
  const url = `http://127.0.0.1:${port}`;
  return {
    child,
    exited,
    caption: (variant) =>
      signedCall(url, null, {
        method: "POST",
        target: "/v1/caption",
        body: healthyPicture(variant),
        type: "image/png",
      }),
    get: (target) => signedCall(url, null, { target }),
  };
}

test(
  "F36 SIGTERM: not ready, new calls are answered 503 with a wait, what is inside is finished, exit 0",
  patience,
  async () => {
    const studio = await startLmStudio({
      models: CATALOGS.vision,
      chat: { kind: "stream", pauses: [{ at: "role", gate: "go" }] },
    });
    const { child, caption, get, exited } = await start(studio, 30);
    const inside = [caption(1), caption(2)];
    await studio.gates("go").arrived(2);
    child.kill("SIGTERM");
    // The signal arrives in its own time: readiness is what tells.
    let readiness = await get("/readyz");
    while (readiness.status === 200) readiness = await get("/readyz");
    assert.deepEqual([readiness.status, ((await readiness.json()) as { ready: boolean }).ready], [503, false]);
    const refused = await caption(3);
    const { error } = (await refused.json()) as { error: { code: string; details: object } };
    assert.deepEqual(
      [refused.status, refused.headers.get("retry-after"), error.code, error.details],
      [503, "5", "ERR_API_OVERLOAD", { kind: "queue", reason: "draining", lm_studio_ms: 0 }],
    );
    const open = Promise.all(inside);
    studio.gates("go").open();
    assert.deepEqual(
      (await open).map(({ status }) => status),
      [200, 200],
    );
    assert.deepEqual(await exited, [0, null]);
  },
);

test(
  "F36 SIGTERM with work that never ends: it is answered by its deadline, exit 0 within timeout_seconds + 1 s",
  patience,
  async () => {
    const studio = await startLmStudio({ chat: { kind: "stream", pauses: [{ at: "role", gate: "never" }] } });
    const { child, caption, exited } = await start(studio, 1.5);
    const inside = caption(1);
    await studio.gates("never").arrived();
    const startedAt = performance.now();
    child.kill("SIGTERM");
    assert.equal((await inside).status, 504);
    assert.deepEqual(await exited, [0, null]);
    const took = performance.now() - startedAt;
    assert.ok(took < 2500, `${took} ms`);
  },
);

test("SIGTERM with nothing inside ends at once", patience, async () => {
  const studio = await startLmStudio();
  const { child, exited } = await start(studio, 30);
  child.kill("SIGTERM");
  assert.deepEqual(await exited, [0, null]);
});
