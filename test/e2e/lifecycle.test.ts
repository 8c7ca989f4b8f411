import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createServer, type AddressInfo, type Server } from "node:net";
import { test } from "node:test";
import { temporaryFolder } from "../kit/folders.ts";
import { scene } from "../kit/images.ts";
import { descendantsOf, gone } from "../kit/processes.ts";
import type { Script } from "../kit/lm-studio/modes.ts";
import { startWhole } from "../kit/stack.ts";

const script = (name: string): string => new URL(`../../scripts/${name}.ts`, import.meta.url).pathname;

type Run = {
  child: ChildProcess;
  output: () => string;
  said: (text: string) => Promise<void>;
  ended: Promise<[number | null]>;
};

/** Runs one of our commands as a user would, on free ports, with no LM Studio. */
async function run(file: string, args: string[] = [], settings: Record<string, string> = {}): Promise<Run> {
  const child = spawn(process.execPath, [file, ...args], {
    env: {
      PATH: process.env["PATH"],
      PIXEL_LLM_STATE_DIR: temporaryFolder(),
      PIXEL_LLM_EDGE_PORT: "0",
      PIXEL_LLM_SIDECAR_PORT: "0",
      PIXEL_LLM_LM_STUDIO_HOST: "127.0.0.1",
      PIXEL_LLM_LM_STUDIO_PORT: String(await freePort()),
      ...settings,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let text = "";
  const watchers = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (part: string) => {
      text += part;
      for (const watcher of watchers) watcher();
    });
  }
  const ended = once(child, "close") as Promise<[number | null]>;
  const said = (wanted: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        if (!text.includes(wanted)) return;
        watchers.delete(look);
        resolve();
      };
      watchers.add(look);
      void ended.then(() => reject(new Error(`ended without saying ${wanted}:\n${text}`)));
      look();
    });
  return { child, output: () => text, said, ended };
}

async function freePort(): Promise<number> {
  const server = await occupy();
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

async function occupy(): Promise<Server> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

test("start says in one line that LM Studio is missing, then that it is ready; Ctrl-C ends all of it with 0", async () => {
  const started = await run(script("start"));
  await started.said("pixel-llm ready: http://127.0.0.1:");
  const lines = started.output().trim().split("\n");
  assert.match(lines.at(-1) ?? "", /^pixel-llm ready: http:\/\/127\.0\.0\.1:\d+$/);
  assert.equal(lines.filter((line) => line.startsWith("pixel-llm: ") && line.includes("LM Studio")).length, 1);
  const below = descendantsOf(started.child.pid ?? 0);
  assert.ok(below.length >= 4, "sidecar, encoder host, edge and workerd");
  started.child.kill("SIGINT");
  assert.deepEqual(await started.ended, [0, null]);
  await gone(below);
});

test("start that is killed by force leaves nobody behind", async () => {
  const started = await run(script("start"));
  await started.said("pixel-llm ready");
  const below = descendantsOf(started.child.pid ?? 0);
  started.child.kill("SIGKILL");
  await gone(below);
});

test("the sidecar killed at work: its caller gets a typed error, it comes back, and the next picture is served", async () => {
  const paused: Script = { chat: { kind: "stream", pauses: [{ at: "role", gate: "go" }] } };
  await using whole = await startWhole(paused, { retry_max_attempts: 1 });
  const png = new Uint8Array(await scene());
  const ask = (): Promise<Response> =>
    fetch(`${whole.stack.edgeUrl}/v1/captions`, {
      method: "POST",
      headers: { "content-type": "image/png" },
      body: png,
    });
  const waiting = ask();
  await whole.studio.gates("go").arrived();
  const killed = whole.stack.pids().sidecar;
  assert.ok(killed !== undefined);
  process.kill(killed, "SIGKILL");
  const lost = await waiting;
  const { error } = (await lost.json()) as { error: { code: string } };
  assert.deepEqual([lost.status, error.code], [502, "ERR_API_INVALID_RESPONSE"]);
  await whole.noticed("the sidecar is back");
  whole.studio.gates("go").open();
  assert.equal((await ask()).status, 200);
});

test("the edge killed by force takes workerd with it and comes back on its port", async () => {
  await using whole = await startWhole();
  const { edge } = whole.stack.pids();
  assert.ok(edge !== undefined);
  const below = descendantsOf(edge);
  assert.ok(below.length > 0);
  process.kill(edge, "SIGKILL");
  await whole.noticed("the edge is back");
  await gone(below);
  assert.equal((await fetch(`${whole.stack.edgeUrl}/healthz`)).status, 200);
});

for (const half of ["edge", "sidecar"] as const) {
  test(`a busy ${half} port is named with its setting, and nothing is left running`, async () => {
    const server = await occupy();
    const { port } = server.address() as AddressInfo;
    const started = await run(script("start"), [], { [`PIXEL_LLM_${half.toUpperCase()}_PORT`]: String(port) });
    assert.deepEqual(await started.ended, [69, null]);
    assert.match(started.output(), new RegExp(`port ${port} is already in use.*PIXEL_LLM_${half.toUpperCase()}_PORT`));
    server.close();
  });
}

test("a bad configuration lists every problem at once and ends with 78", async () => {
  const started = await run(script("start"), ["--top-p", "7", "--temprature=1"], { PIXEL_LLM_MAX_TOKENS: "many" });
  assert.deepEqual(await started.ended, [78, null]);
  for (const words of ["top_p = 7", "temprature: unknown key; did you mean temperature?", "max_tokens = many"]) {
    assert.ok(started.output().includes(words), started.output());
  }
});

test("a checkpoint that cannot run ends the start with 78 and its name", async () => {
  const started = await run(script("start"), ["--checkpoint-path", "/nowhere/model.onnx"]);
  assert.deepEqual(await started.ended, [78, null]);
  assert.match(started.output(), /ERR_ENC_LOAD_FAILED: .*no file at checkpoint_path.*\/nowhere\/model\.onnx/);
});

test("the demo prints a caption, where it came from, the time of each stage and what to do next", async () => {
  const demo = await run(script("demo"));
  assert.deepEqual(await demo.ended, [0, null]);
  for (const line of [
    /^caption: A .+ image.*\.$/m,
    /^source: {2}describe, degraded/m,
    /^time: .*decode \d.*encode \d.*generate \d/m,
    /^next: /m,
  ]) {
    assert.match(demo.output(), line);
  }
});

test("the demo refuses what is no picture, and says why", async () => {
  const demo = await run(script("demo"), [script("demo")]);
  assert.deepEqual(await demo.ended, [1, null]);
  assert.match(demo.output(), /refused: 415 ERR_ENC_INVALID_INPUT/);
  const missing = await run(script("demo"), ["/nowhere.jpg"]);
  assert.deepEqual(await missing.ended, [66, null]);
});

test("config prints one JSON object of every key, secrets masked, zero kept", async () => {
  const shown = await run(script("config"), ["--temperature", "0"], { PIXEL_LLM_API_KEYS: "a-secret-key" });
  assert.deepEqual(await shown.ended, [0, null]);
  const config = JSON.parse(shown.output()) as Record<string, unknown>;
  assert.deepEqual([config["temperature"], config["api_keys"], config["lm_studio_port"] !== 0], [0, "***", true]);
});
