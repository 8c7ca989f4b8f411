import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { objectClasses } from "../../scripts/local-edge.ts";
import { buildWorkerBundle } from "../../scripts/worker-bundle.ts";
import { renderReadme } from "../../scripts/docs.ts";
import { configKeys } from "../../shared/config.ts";
import { errorCodes } from "../../shared/errors.ts";
import { version } from "../../shared/version.ts";
import { temporaryFolder } from "../kit/folders.ts";
import { scene } from "../kit/images.ts";
import { startLmStudio } from "../kit/lm-studio.ts";
import { captionSchema } from "../../shared/wire.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const read = (path: string): string => readFileSync(`${root}${path}`, "utf8");
const sources = (room: string): { path: string; text: string; imports: string[] }[] =>
  globSync(`${room}/**/*.ts`, { cwd: root }).map((path) => {
    const text = read(path);
    return {
      path,
      text,
      imports: [...text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)].map(([, name = ""]) => name),
    };
  });

const allowed: Readonly<Record<string, readonly RegExp[]>> = {
  shared: [/^\.\//, /^zod$/],
  edge: [/^\.\.?\/(?!.*(?:sidecar|scripts|test)\/)/, /^(hono|hono\/[\w-]+|zod|cloudflare:workers)$/],
  sidecar: [
    /^\.\.?\/(?!.*(?:edge|scripts|test)\/)/,
    /^node:/,
    /^(hono|zod|pino|sharp|onnxruntime-node|@hono\/node-server)$/,
  ],
};

for (const [room, rules] of Object.entries(allowed)) {
  test(`${room} imports only what its arrows allow`, () => {
    for (const { path, imports } of sources(room)) {
      for (const name of imports)
        assert.ok(
          rules.some((rule) => rule.test(name)),
          `${path} imports ${name}`,
        );
    }
  });
}

test("no room imports tests or scripts", () => {
  for (const room of Object.keys(allowed)) {
    for (const { path, imports } of sources(room))
      assert.ok(!imports.some((name) => /\/(test|scripts)\//.test(name)), path);
  }
});

test("only the objects know the platform's own module", () => {
  for (const { path, imports } of sources("edge"))
    if (imports.includes("cloudflare:workers")) assert.match(path, /^edge\/objects\//);
});

for (const [name, door] of [
  ["sharp", "sidecar/image.ts"],
  ["onnxruntime-node", "sidecar/encoder-host.ts"],
  ["pino", "sidecar/log.ts"],
  ["miniflare", "scripts/local-edge.ts"],
] as const) {
  test(`${name} comes in by one door`, () => {
    const users = ["shared", "edge", "sidecar", "scripts"]
      .flatMap(sources)
      .filter(({ imports }) => imports.includes(name));
    assert.deepEqual(
      users.map(({ path }) => path),
      [door],
    );
  });
}

test("every error code is raised somewhere", () => {
  const text = ["edge", "sidecar", "shared"]
    .flatMap(sources)
    .filter(({ path }) => !path.endsWith("errors.ts") && !path.endsWith("fallback.ts"))
    .map((source) => source.text)
    .join("\n");
  assert.deepEqual(
    errorCodes.filter((code) => !text.includes(`"${code}"`)),
    [],
  );
  for (const [code] of text.matchAll(/"ERR_[A-Z_]+"/g))
    assert.ok(
      errorCodes.some((known) => `"${known}"` === code),
      code,
    );
});

test("the README's tables are the code's tables, and its commands exist", () => {
  const text = read("README.md");
  assert.equal(renderReadme(text), text, "run npm run docs");
  const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
  for (const [, name = ""] of text.matchAll(/npm run (?:-s )?([a-z]+)/g)) assert.ok(Object.hasOwn(scripts, name), name);
});

test("the README's answer is an answer of ours", () => {
  const answer = /```json\n(\{\n[\s\S]*?\n\})\n```/.exec(read("README.md"))?.[1] ?? "";
  captionSchema.parse(JSON.parse(answer));
});

test("the README's program runs as it stands, with a picture and an LM Studio of ours", async () => {
  const program = /```ts\n([\s\S]*?)```/.exec(read("README.md"))?.[1] ?? "";
  await using studio = await startLmStudio();
  const photo = join(temporaryFolder(), "photo.png");
  writeFileSync(photo, await scene());
  const ours = program.replace("1234", String(studio.port)).replace("photo.jpg", photo);
  const flags = ["--input-type=module-typescript", "-e", ours];
  const { stdout } = await promisify(execFile)(process.execPath, flags, { cwd: root, timeout: 30_000 });
  assert.equal(stdout.trim(), "lm_studio: A lighthouse on a cliff.");
});

test("wrangler.toml names only keys of the configuration, and the local edge runs on its date and flags", () => {
  const toml = read("wrangler.toml");
  for (const [, name = ""] of toml.matchAll(/PIXEL_LLM_([A-Z_]+)/g)) {
    assert.ok(name === "PROFILE" || Object.hasOwn(configKeys, name.toLowerCase()), name);
  }
  const local = read("scripts/local-edge.ts");
  for (const [binding, className] of Object.entries(objectClasses)) {
    assert.ok(toml.includes(`{ name = "${binding}", class_name = "${className}" }`), binding);
    assert.ok(toml.includes(`${className} = { type = "durable-object", storage = "sqlite" }`), className);
  }
  assert.ok(local.includes(/compatibility_date = ("[^"]+")/.exec(toml)?.[1] ?? "none"));
  assert.ok(local.includes(/compatibility_flags = (\["[^"]+"\])/.exec(toml)?.[1] ?? "none"));
});

test("versions are exact, and both halves have the package's own", () => {
  const manifest = JSON.parse(read("package.json")) as {
    version: string;
    dependencies: Record<string, string>;
    devDependencies: Record<string, string>;
  };
  for (const [name, wanted] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })) {
    assert.match(wanted, /^\d+\.\d+\.\d+(-[\w.]+)?$/, name);
  }
  assert.equal(version, manifest.version);
});

test("CI runs the README's test command and nothing else", () => {
  assert.match(read(".ci/run"), /^exec npm cit$/m);
});

test("the Worker's bundle is under 122 KB gzip, and wrangler has nothing to complain of", async () => {
  const { report } = await buildWorkerBundle();
  const kibibytes = Number(/gzip: ([\d.]+) KiB/.exec(report)?.[1]);
  assert.ok(kibibytes * 1024 < 122_000, report);
  assert.ok(!/Unexpected fields/.test(report), report);
});

test("no leftover marks in the sources", () => {
  for (const room of ["shared", "edge", "sidecar", "scripts"]) {
    for (const { path, text } of sources(room))
      assert.doesNotMatch(text, /TODO|FIXME|XXX|@ts-ignore|@ts-expect-error|oxlint-disable|: any\b/, path);
  }
});
