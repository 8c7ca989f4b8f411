import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { endGroup } from "../../scripts/supervised-half.ts";
import { temporaryFolder } from "../kit/folders.ts";
import type { Patch } from "./patch.ts";
import { patches } from "./patches.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const rooms = ["shared", "edge", "sidecar", "scripts", "test", "package.json"];
/** A wrong implementation that makes the laws wait for ever is found out too. */
const patienceMs = 25_000;

/** Copies of the tree to break, so that as many can be broken at once as there are cores. */
const copies: string[] = [];

before(() => {
  for (let copy = 0; copy < availableParallelism(); copy += 1) {
    const folder = temporaryFolder();
    for (const room of rooms) cpSync(join(root, room), join(folder, room), { recursive: true });
    symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
    copies.push(folder);
  }
});
after(() => assert.equal(copies.length, availableParallelism()));

/** Runs law files in a copy, one after the other, no further than the first law that is broken; true = all hold. */
async function hold(folder: string, laws: readonly string[]): Promise<boolean> {
  for (const law of laws) {
    const child = spawn(process.execPath, ["--test-reporter=tap", law], {
      cwd: folder,
      stdio: ["ignore", "pipe", "ignore"],
      env: { PATH: process.env["PATH"] },
      // A group of its own: what a law has started must end with it.
      detached: process.platform !== "win32",
    });
    const end = (): void => endGroup(child.pid);
    const impatience = setTimeout(end, patienceMs);
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (/^\s*not ok /m.test(text)) end();
    });
    const [code] = (await once(child, "exit")) as [number | null];
    clearTimeout(impatience);
    end();
    if (code !== 0) return false;
  }
  return true;
}

async function inCopy<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = copies.pop();
  if (folder === undefined) throw new Error("more tests at once than copies");
  try {
    return await use(folder);
  } finally {
    copies.push(folder);
  }
}

/** The place a patch changes, as it is and as it would be. */
function applied({ file, from, to }: Patch): { whole: string; broken: string } {
  const whole = readFileSync(join(root, file), "utf8");
  const [head, ...tails] = whole.split(from);
  assert.equal(tails.length, 1, `${file} holds this ${tails.length} times, not once:\n${from}`);
  return { whole, broken: `${head ?? ""}${to}${tails[0] ?? ""}` };
}

describe("the laws hold in an unbroken copy", { concurrency: availableParallelism() }, () => {
  for (const law of new Set(patches.flatMap(({ laws }) => laws))) {
    test(law, async () => assert.ok(await inCopy((folder) => hold(folder, [law]))));
  }
});

describe("a wrong implementation does not survive", { concurrency: availableParallelism() }, () => {
  for (const patch of patches) {
    test(patch.wrong, async () => {
      const { whole, broken } = applied(patch);
      const survived = await inCopy(async (folder) => {
        writeFileSync(join(folder, patch.file), broken);
        try {
          return await hold(folder, patch.laws);
        } finally {
          writeFileSync(join(folder, patch.file), whole);
        }
      });
      assert.ok(!survived, `${patch.file}: nothing fails with\n${patch.to}`);
    });
  }
});
