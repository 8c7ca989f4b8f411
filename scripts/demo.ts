import { openSync, closeSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Config } from "../shared/config.ts";
import { errorTable, type ErrorBody } from "../shared/errors.ts";
import { sniffImage } from "../shared/image-header.ts";
import type { Caption } from "../shared/wire.ts";
import { renderPicture } from "./rendered-picture.ts";
import { readSettings, settleSecret } from "./settings.ts";
import { startStack } from "./stack.ts";
import { HalfEnded } from "./supervised-half.ts";

/** One picture through the public endpoint of a stack that lives just for it: `npm run demo -- photo.jpg`. */
async function main(): Promise<void> {
  const { config, environment, rest } = readSettings(process.argv.slice(2));
  const picture = await readPicture(rest[0]);
  if (picture === null) return;
  await mkdir(config.state_dir, { recursive: true });
  const logFile = join(config.state_dir, "demo.log");
  const output = openSync(logFile, "a");
  const ending = new AbortController();
  process.on("SIGINT", () => ending.abort());
  process.on("SIGTERM", () => ending.abort());
  console.log(`picture: ${picture.name} (${Math.round(picture.bytes.length / 1024)} KiB)`);
  console.log("starting sidecar and edge …");
  try {
    // Any free ports: the demo must not disturb, or be disturbed by, a stack that is already running.
    const stack = await startStack({
      environment,
      secret: settleSecret(config),
      edgePort: 0,
      sidecarPort: 0,
      output,
      notice: (line) => console.log(line),
      onGivenUp: () => ending.abort(),
      signal: ending.signal,
    });
    try {
      await showCaption(stack.edgeUrl, picture.bytes, config, ending.signal);
    } finally {
      await stack.stop();
    }
  } catch (error) {
    if (ending.signal.aborted) return;
    console.error(`demo failed: ${error instanceof Error ? error.message : String(error)}. Its log: ${logFile}`);
    process.exitCode = error instanceof HalfEnded ? (error.exitCode ?? 1) : 1;
  } finally {
    closeSync(output);
  }
}

async function showCaption(url: string, bytes: Uint8Array, config: Config, signal: AbortSignal): Promise<void> {
  const header = sniffImage(bytes);
  const format = header.kind === "image" ? header.format : header.kind === "foreign" ? header.name : "jpeg";
  const [key] = config.api_keys;
  const response = await fetch(`${url}/v1/captions`, {
    method: "POST",
    headers: { "content-type": `image/${format}`, ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) },
    body: new Uint8Array(bytes),
    signal,
  });
  if (!response.ok) {
    const { error } = (await response.json()) as { error: ErrorBody };
    console.error(`refused: ${response.status} ${error.code}: ${error.message}`);
    process.exitCode = 1;
    return;
  }
  const caption = (await response.json()) as Caption;
  const { decode, encode, generate, total } = caption.timings_ms;
  console.log(`\ncaption: ${caption.caption}\n`);
  console.log(`source:  ${sourceLine(caption)}`);
  console.log(`tags:    ${caption.tags.map(({ label, score }) => `${label} ${score}`).join(", ")}`);
  console.log(`time:    decode ${decode} ms, encode ${encode} ms, generate ${generate} ms, whole request ${total} ms`);
  console.log(`next:    ${nextStep(caption, config)}`);
}

/** The failure behind a cause: where calls were repeated in vain, that of the last one. */
function rootOf(cause: ErrorBody): Pick<ErrorBody, "code" | "category"> {
  const last = cause.details["last_cause"] as Pick<ErrorBody, "code" | "category"> | undefined;
  return last ?? cause;
}

function sourceLine({ source, route, model, attempts, cause }: Caption): string {
  if (cause !== null) {
    const { code } = rootOf(cause);
    const calls = attempts > 1 ? ` in each of ${attempts} calls` : "";
    return `${source}, degraded, because of ${code}${calls} (${errorTable[code].message})`;
  }
  if (source === "cache") return `${source}, made before by model ${model}`;
  return `${source}, model ${model}, route ${route}`;
}

function nextStep({ cause }: Caption, { lm_studio_host: host, lm_studio_port: port }: Config): string {
  if (cause === null) return "`npm start`, then send pictures to http://127.0.0.1:8787/v1/captions (see README).";
  const { code, category } = rootOf(cause);
  if (category === "connection") {
    return `start LM Studio's server on ${host}:${port} with a model that sees, then run this again: the caption becomes its own.`;
  }
  return `look at LM Studio on ${host}:${port} (${code}), then run this again.`;
}

async function readPicture(path: string | undefined): Promise<{ name: string; bytes: Uint8Array } | null> {
  if (path === undefined) return { name: "a rendered landscape", bytes: renderPicture() };
  try {
    return { name: path, bytes: await readFile(resolve(path)) };
  } catch (error) {
    console.error(`cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 66;
    return null;
  }
}

await main();
