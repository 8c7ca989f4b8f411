import { closeSync, openSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Logger } from "../shared/log.ts";
import { readCheckpoint } from "../sidecar/checkpoint.ts";
import { startEncoder } from "../sidecar/encoder.ts";
import { createImageDoor } from "../sidecar/image.ts";
import { renderPicture } from "./rendered-picture.ts";
import { readSettings } from "./settings.ts";
import { startStack } from "./stack.ts";

/** One measured figure beside what it should be; `ratio` = seen against its floor of the same run. */
type Figure = { figure: string; target: string; seen: string };

const never = new AbortController().signal;
const silent: Logger = { debug: drop, info: drop, warning: drop, error: drop, critical: drop };

/** Measures this machine's figures: a table on stdout, and `bench.json` in the state folder. */
async function main(): Promise<void> {
  const { config } = readSettings(process.argv.slice(2));
  const figures = [...(await measureParts()), ...(await measureWhole())];
  console.table(figures);
  await mkdir(config.state_dir, { recursive: true });
  const file = join(config.state_dir, "bench.json");
  await writeFile(
    file,
    `${JSON.stringify({ node: process.version, platform: `${process.platform} ${process.arch}`, figures }, null, 2)}\n`,
  );
  console.log(`written to ${file}`);
}

/** Decode and encode alone, without HTTP: the floor of what the endpoint can do. */
async function measureParts(): Promise<Figure[]> {
  const encoder = await startEncoder({ model: await readCheckpoint(null), logger: silent });
  const door = createImageDoor({ maxPixels: 24 * 2 ** 20 });
  const picture = renderPicture();
  const decode = async (): Promise<Uint8Array> => {
    const { tensors } = await door.decode(picture, {
      format: "png",
      recipes: [encoder.recipe],
      jpeg: false,
      signal: never,
      timeoutMs: 5000,
    });
    return tensors[0] ?? new Uint8Array();
  };
  const tensor = await decode();
  const decodes = await times(60, decode);
  const runs: number[] = [];
  const encodes = await times(60, async () => void runs.push((await encoder.encode(tensor, never)).milliseconds));
  await encoder.close();
  const overhead = middle(encodes) - middle(runs);
  return [
    { figure: "decode 960 × 640 PNG to 224, p50", target: "-", seen: ms(middle(decodes)) },
    { figure: "encoder run, p50", target: "20 ms", seen: ms(middle(runs)) },
    { figure: "encoder process round trip over the run, p50", target: "2 ms", seen: ms(overhead) },
  ];
}

/** The public endpoint, and what it does to others while it works. */
async function measureWhole(): Promise<Figure[]> {
  const folder = await mkdtemp(join(tmpdir(), "pixel-llm-bench-"));
  const output = openSync(join(folder, "bench.log"), "a");
  const stack = await startStack({
    // Nothing listens on the discard port: LM Studio is absent, and only our own work is measured.
    environment: {
      ...pathOnly(),
      PIXEL_LLM_STATE_DIR: folder,
      PIXEL_LLM_LM_STUDIO_HOST: "127.0.0.1",
      PIXEL_LLM_LM_STUDIO_PORT: "9",
      PIXEL_LLM_LOG_LEVEL: "ERROR",
    },
    secret: "b".repeat(64),
    edgePort: 0,
    sidecarPort: 0,
    output,
    notice: (line) => console.log(line),
    onGivenUp: () => undefined,
  });
  try {
    const picture = new Uint8Array(renderPicture());
    const caption = async (): Promise<void> => {
      const response = await fetch(`${stack.edgeUrl}/v1/captions`, {
        method: "POST",
        headers: { "content-type": "image/png" },
        body: picture,
      });
      if (!response.ok) throw new Error(`caption: ${response.status} ${await response.text()}`);
      await response.arrayBuffer();
    };
    const refuse = async (bytes: Uint8Array<ArrayBuffer>, status: number): Promise<void> => {
      const response = await fetch(`${stack.edgeUrl}/v1/captions`, {
        method: "POST",
        headers: { "content-type": "image/png" },
        body: bytes,
      });
      await response.arrayBuffer();
      if (response.status !== status) throw new Error(`expected ${status}, got ${response.status}`);
    };
    const live = async (): Promise<void> => void (await (await fetch(`${stack.sidecarUrl}/livez`)).arrayBuffer());
    await times(10, caption);
    const alone = await times(60, caption);
    const bomb = new Uint8Array(picture);
    // A header of 16000 × 16000 before the same bytes: refused by its size, before anything decodes.
    new DataView(bomb.buffer).setUint32(16, 16_000);
    new DataView(bomb.buffer).setUint32(20, 16_000);
    const bombs = await times(60, () => refuse(bomb, 413));
    const cuts = await times(60, () => refuse(picture.slice(0, picture.length / 2), 422));
    const idle = await times(200, live);
    const load = keepBusy(caption, 8);
    const during = await times(1000, live);
    const done = await load.stop();
    return [
      { figure: "describe answer through edge and sidecar, p50", target: "-", seen: ms(middle(alone)) },
      { figure: "refusal of a bomb's header, p99", target: "100 ms", seen: ms(rank(bombs, 0.99)) },
      { figure: "refusal of a cut picture, p99", target: "100 ms", seen: ms(rank(cuts, 0.99)) },
      { figure: "/livez idle, p99", target: "-", seen: ms(rank(idle, 0.99)) },
      { figure: "/livez while 8 callers keep the encoder busy, p99", target: "20 ms", seen: ms(rank(during, 0.99)) },
      { figure: "answers meanwhile", target: "-", seen: String(done) },
    ];
  } finally {
    await stack.stop();
    closeSync(output);
    await rm(folder, { recursive: true, force: true });
  }
}

/** Keeps `callers` loops of `work` running until told to stop; gives how often it was done. */
function keepBusy(work: () => Promise<void>, callers: number): { stop: () => Promise<number> } {
  const ending = new AbortController();
  let count = 0;
  const loops = Array.from({ length: callers }, async () => {
    while (!ending.signal.aborted) {
      await work();
      count += 1;
    }
  });
  return {
    stop: async () => {
      ending.abort();
      await Promise.all(loops);
      return count;
    },
  };
}

async function times(count: number, work: () => Promise<unknown>): Promise<number[]> {
  const taken: number[] = [];
  for (let round = 0; round < count; round += 1) {
    const startedAt = performance.now();
    await work();
    taken.push(performance.now() - startedAt);
  }
  return taken;
}

/** Nearest rank: the sorted sample number ceil(share × n). */
function rank(values: readonly number[], share: number): number {
  const sorted = [...values].sort((left, right) => left - right);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

function middle(values: readonly number[]): number {
  return rank(values, 0.5);
}

function ms(value: number): string {
  return `${value.toFixed(1)} ms`;
}

function pathOnly(): Record<string, string> {
  return { PATH: process.env["PATH"] ?? "" };
}

function drop(): void {
  // A benchmark's own parts have nothing to tell but their figures.
}

await main();
