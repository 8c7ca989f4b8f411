import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once as onceEvent } from "node:events";
import { join } from "node:path";
import { writeFile } from "node:fs/promises";
import { ask, freshPicture, type Reply } from "../../kit/ask.ts";
import { environmentOf } from "../../kit/environment.ts";
import { temporaryFolder } from "../../kit/folders.ts";
import { makeEncoder, makeFolder, preprocessorConfig } from "../../kit/onnx-fixtures.ts";
import { childrenOf } from "../../kit/processes.ts";
import { startEdgeWorld } from "../../kit/whole.ts";
import { within } from "../../kit/within.ts";
import { startOutside } from "../../kit/world-sidecar.ts";
import {
  closeBreakers,
  errorOf,
  quickSettings,
  readBreakers,
  readCounts,
  tell,
  tellCalls,
  tellSource,
} from "./observe.ts";
import type { Row } from "./row.ts";
import { isKept, keepPicture, metricOf, tellAll, tellSamples, untilTrue } from "./rows-31-60-sight.ts";
import { keepWorld } from "./rows-31-60-worlds.ts";

/** Captions stay fresh here: an entry that must not be there would answer. */
const settings = { ...quickSettings, timeout_seconds: 3, timeout_first_token_seconds: 1.5, fallback_cache_ttl: 3600 };

const boundMs = 3300;

/** Rows whose fault happens to the sidecar's process, which is brought back as `npm start` does it. */
export async function processRows(): Promise<Row[]> {
  const world = await keepWorld(startEdgeWorld({ sidecar: "outside", settings }));
  const { studio, p1, sidecar } = world;
  const { once, thrice } = world.edges;
  const bare = { query: { fallback: "none" } };
  const old = { "cache-control": "no-cache" };

  const back = async (): Promise<void> => {
    const alive = async (): Promise<boolean> => {
      try {
        return (await sidecar.call({ target: "/livez" })).status === 200;
      } catch {
        // Nobody listens between two runs.
        return false;
      }
    };
    await untilTrue("the sidecar is not back", alive, 15_000);
  };

  const killed: Row = {
    id: "F35",
    fault: "sidecar killed with 20 in flight",
    expected: [
      "head seen: 10 x 502 ERR_API_INVALID_RESPONSE; not: 10 x 503 ERR_CONN_UNAVAILABLE",
      "samples: sidecar failure, lm_studio_api ignored",
      "three attempts, it stays away: 503 ERR_RETRY_EXHAUSTED of ERR_CONN_UNAVAILABLE after 3 calls",
      "ladder: with an entry cache, without 503 ERR_CONN_UNAVAILABLE",
      "kept of the twenty: 0",
      "ready: within load + 1 s",
      "then: 200 caption",
    ],
    async run() {
      const loadMs = await measureLoad();
      await world.reset();
      const kept = await keepPicture(once);
      const gate = studio.gates("twenty");
      studio.answer({ kind: "stream", pauses: [{ at: "head", gate: gate.name }] });
      const ask20 = (count: number): { pictures: Uint8Array[]; replies: Promise<Reply>[] } => {
        const pictures = Array.from({ length: count }, () => freshPicture());
        return { pictures, replies: pictures.map((image) => ask(once, { image, ...bare })) };
      };
      const heads = ask20(10);
      // Four stand at LM Studio, the others in line behind them; all have their head.
      await gate.arrived(4);
      await p1.until(() => p1.connections.filter(({ down }) => down > 0).length >= 10);
      p1.enqueue(...Array.from({ length: 10 }, () => ({ kind: "silence", bytes: 64, direction: "up" }) as const));
      const affected = p1.counts().affected;
      const bodies = ask20(10);
      await p1.until(() => p1.counts().affected >= affected + 10);
      const pid = sidecar.pid();
      assert.ok(pid !== undefined);
      const at = performance.now();
      process.kill(pid, "SIGKILL");
      const [seen, unseen] = await within(
        boundMs,
        () => "callers hang",
        Promise.all([Promise.all(heads.replies), Promise.all(bodies.replies)]),
      );
      // The way stays closed for those who come now, whenever the process is back.
      await p1.set({ kind: "refuse" });
      await closeBreakers(once);
      const before = await readCounts(once);
      const alone = await ask(once, bare);
      assert.equal(tell(alone), "503 ERR_CONN_UNAVAILABLE");
      const samples = await tellSamples(once, before, { sidecar: "failure", lm_studio_api: "ignored" });
      const several = await ask(thrice, bare);
      const withEntry = await ask(once, { image: kept, headers: old, query: { fallback: "cache,describe" } });
      const without = await ask(once);
      await p1.set({ kind: "pass" });
      gate.open();
      await sidecar.noticed("the sidecar is back");
      const awayMs = performance.now() - at;
      await back();
      await world.reset();
      const partial = await Promise.all([...heads.pictures, ...bodies.pictures].map((image) => isKept(once, image)));
      const next = await ask(once, bare);
      await world.settled();
      return [
        `head seen: ${tellAll(seen)}; not: ${tellAll(unseen)}`,
        samples,
        `three attempts, it stays away: ${tellCalls(several)}`,
        `ladder: with an entry ${tellSource(withEntry)}, without ${tellSource(without)}`,
        `kept of the twenty: ${partial.filter((one) => one).length}`,
        `ready: ${awayMs <= loadMs + 1000 ? "within load + 1 s" : `${awayMs} ms, load ${loadMs} ms`}`,
        `then: ${tell(next)}`,
      ];
    },
  };

  const stopped: Row = {
    id: "F36",
    fault: "sidecar SIGTERM",
    expected: [
      "new: 503 ERR_API_OVERLOAD after 1 call, Retry-After",
      "three attempts: 503 ERR_API_OVERLOAD after 1 call",
      "ladder: with an entry cache, without 503 ERR_API_OVERLOAD",
      // Three captions, and the question of rung `describe`, which is for the encoder alone.
      "samples: sidecar 4 ignored, lm_studio_api 3 ignored",
      "readyz: 503",
      "in flight: 2 x 200 caption",
      "ended: exit code 0, within timeout_seconds + 1 s",
    ],
    async run() {
      await world.reset();
      const kept = await keepPicture(once);
      const empty = { sidecar: {}, lm_studio_api: {} };
      await tellSamples(once, empty, { sidecar: "success", lm_studio_api: "success" });
      const before = await readCounts(once);
      const gate = studio.gates("drain");
      studio.answer({ kind: "stream", pauses: [{ at: { tokens: 1 }, gate: gate.name }] });
      const inFlight = [ask(thrice, bare), ask(thrice, bare)];
      await gate.arrived(2);
      const pid = sidecar.pid();
      assert.ok(pid !== undefined);
      const at = performance.now();
      process.kill(pid, "SIGTERM");
      const notReady = async (): Promise<boolean> => (await sidecar.call({ target: "/readyz" })).status === 503;
      await untilTrue("it stays ready", notReady);
      const fresh = await ask(once, bare);
      const ready = await ask(once, { method: "GET", path: "/readyz" });
      const several = await ask(thrice, bare);
      const withEntry = await ask(once, { image: kept, headers: old, query: { fallback: "cache,describe" } });
      const without = await ask(once);
      gate.open();
      const done = await Promise.all(inFlight);
      await sidecar.noticed("the sidecar ended (exit code 0)");
      const endedMs = performance.now() - at;
      await back();
      const samples = await tellSamples(once, before, { sidecar: "4 ignored", lm_studio_api: "3 ignored" });
      await world.reset();
      await world.settled();
      return [
        `new: ${tellCalls(fresh)}, ${fresh.headers.get("retry-after") === null ? "no Retry-After" : "Retry-After"}`,
        `three attempts: ${tellCalls(several)}`,
        `ladder: with an entry ${tellSource(withEntry)}, without ${tellSource(without)}`,
        samples,
        `readyz: ${ready.status}`,
        `in flight: ${tellAll(done)}`,
        `ended: exit code 0, ${endedMs <= 4000 ? "within timeout_seconds + 1 s" : `after ${endedMs} ms`}`,
      ];
    },
  };

  const full: Row = {
    id: "F56",
    fault: "disk full, log sink blocked (the sidecar's files; a sink that throws is F59)",
    expected: [
      "disk full: 20 x 200 caption",
      "lost log lines: counted",
      "the process: goes on",
      "breakers: CLOSED CLOSED",
    ],
    async run() {
      await world.reset();
      const pid = sidecar.pid();
      assert.ok(pid !== undefined);
      execFileSync("prlimit", ["--pid", String(pid), "--fsize=0"]);
      const replies = [];
      for (let n = 0; n < 20; n += 1) replies.push(await ask(once, bare));
      const drops = await metricOf(sidecar, "pixel_log_dropped_total");
      const same = sidecar.pid() === pid;
      const { breakers } = await readBreakers(once);
      if (same) process.kill(pid, "SIGKILL");
      await sidecar.noticed("the sidecar is back");
      await back();
      await world.reset();
      await world.settled("once");
      return [
        `disk full: ${tellAll(replies)}`,
        `lost log lines: ${drops > 0 ? "counted" : drops}`,
        `the process: ${same ? "goes on" : "has ended"}`,
        `breakers: ${breakers.sidecar.state} ${breakers.lm_studio_api.state}`,
      ];
    },
  };
  return [killed, stopped, full, checkpoints];
}

/** Time from the start of a sidecar's process to its port, in ms. */
async function measureLoad(): Promise<number> {
  const startedAt = performance.now();
  const trial = await startOutside({ lm_studio_host: "127.0.0.1" });
  const loadMs = performance.now() - startedAt;
  await trial.close();
  return loadMs;
}

/** What the sidecar says and how it ends when started with this checkpoint. */
async function startWith(path: string): Promise<string> {
  const main = new URL("../../../sidecar/main.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, [main], {
    env: {
      PATH: process.env["PATH"] ?? "",
      ...environmentOf({ checkpoint_path: path, state_dir: temporaryFolder(), sidecar_port: 0, log_level: "CRITICAL" }),
    },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (part: string) => void (said += part));
  const [code] = (await onceEvent(child, "close")) as [number | null];
  return `exit ${code}, ${/ERR_ENC_LOAD_FAILED/.test(said) ? "ERR_ENC_LOAD_FAILED" : said}, ${said.includes(path) ? "named" : said}`;
}

const checkpoints: Row = {
  id: "F39",
  fault: "checkpoint missing, wrong hash, wrong shape",
  expected: [
    "missing: exit 78, ERR_ENC_LOAD_FAILED, named",
    "broken: exit 78, ERR_ENC_LOAD_FAILED, named",
    "wrong shape: exit 78, ERR_ENC_LOAD_FAILED, named",
    "another file on rebuild, embeddings: 503 ERR_ENC_LOAD_FAILED after 1 call, no Retry-After",
    "three attempts: 503 ERR_ENC_LOAD_FAILED after 1 call",
    "samples: sidecar ignored, lm_studio_api none",
    "captions: 200 caption",
    "readyz: 503, encoder ERR_ENC_LOAD_FAILED",
  ],
  async run() {
    const preprocessor = { "preprocessor_config.json": JSON.stringify(preprocessorConfig) };
    const folderOf = (model: Uint8Array): Promise<string> =>
      makeFolder({ "onnx/vision_model.onnx": model, ...preprocessor });
    const [missing, broken, shaped, good] = [
      join(temporaryFolder(), "model.onnx"),
      await folderOf(Buffer.from("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")),
      await folderOf(makeEncoder({ shape: ["batch", 4, 32, 32] })),
      await folderOf(makeEncoder()),
    ];
    const starts = await Promise.all([missing, broken, shaped].map((path) => startWith(path)));
    // By the real host's file: a stand-in of another row may be started again meanwhile.
    const hosts = (): number[] => childrenOf(process.pid, "sidecar/encoder-host.ts");
    const before = hosts();
    await using world = await startEdgeWorld({ settings: { ...settings, checkpoint_path: good } });
    const { once, thrice } = world.edges;
    const embed = { path: "/v1/embeddings" };
    assert.equal((await ask(once, embed)).status, 200);
    const empty = { sidecar: {}, lm_studio_api: {} };
    await tellSamples(once, empty, { sidecar: "success", lm_studio_api: "none" });
    await writeFile(join(good, "onnx/vision_model.onnx"), makeEncoder({ output: "features" }));
    for (const host of hosts()) if (!before.includes(host)) process.kill(host, "SIGKILL");
    const encoder = async (): Promise<{ status: string; code: string | null }> => {
      const { body } = await ask(once, { method: "GET", path: "/readyz" });
      return (body as { dependencies: { encoder: { status: string; code: string | null } } }).dependencies.encoder;
    };
    const refused = async (): Promise<boolean> => errorOf(await ask(once, embed))?.code === "ERR_ENC_LOAD_FAILED";
    await untilTrue("the changed checkpoint is not found out", refused, 15_000);
    // The embedded encoder's process was ended with it and is back sooner or later.
    await untilTrue("the embedded encoder is not back", async () => (await encoder()).status === "degraded", 15_000);
    await closeBreakers(once);
    const counts = await readCounts(once);
    const alone = await ask(once, embed);
    const samples = await tellSamples(once, counts, { sidecar: "ignored", lm_studio_api: "none" });
    const several = await ask(thrice, embed);
    const caption = await ask(once, bareCaption);
    const ready = await ask(once, { method: "GET", path: "/readyz" });
    return [
      `missing: ${starts[0]}`,
      `broken: ${starts[1]}`,
      `wrong shape: ${starts[2]}`,
      `another file on rebuild, embeddings: ${tellCalls(alone)}, ${alone.headers.get("retry-after") ?? "no"} Retry-After`,
      `three attempts: ${tellCalls(several)}`,
      samples,
      `captions: ${tell(caption)}`,
      `readyz: ${ready.status}, encoder ${(await encoder()).code}`,
    ];
  },
};

const bareCaption = { query: { fallback: "none" } };
