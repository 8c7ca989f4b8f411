import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { objectClasses, startLocalEdge } from "../local-edge.ts";
import { boundedFigure, ms, type Figure, type Progress } from "./figure.ts";

const entries = 10_000;
const searches = 20;
const rounds = 25;

/**
 * A Worker around the real search function, which stands on nothing: `?dimensions=` says which set, `?searches=` how
 * often. Every vector but the last is turned away, so that no search is cut short by a lucky first.
 */
const handler = `
import { findNearest, unitVector } from "./shared/vector-search.ts";
const sets = new Map();
function setOf(dimensions) {
  const known = sets.get(dimensions);
  if (known !== undefined) return known;
  const vectors = new Float32Array(${entries} * dimensions);
  let seed = 1;
  for (let at = 0; at < vectors.length; at += 1) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    vectors[at] = seed / 2 ** 32 - 0.5;
  }
  for (let at = 0; at < vectors.length; at += dimensions) {
    vectors.set(unitVector(vectors.subarray(at, at + dimensions)), at);
  }
  sets.set(dimensions, vectors);
  return vectors;
}
${Object.values(objectClasses)
  .map((name) => `export class ${name} {}`)
  .join("\n")}
export default {
  fetch(request) {
    const { searchParams } = new URL(request.url);
    const dimensions = Number(searchParams.get("dimensions"));
    const vectors = setOf(dimensions);
    const query = vectors.slice(-dimensions);
    const accepts = (index) => index === ${entries - 1};
    let index = null;
    for (let search = Number(searchParams.get("searches")); search > 0; search -= 1) {
      index = findNearest({ vectors, count: ${entries}, query, floor: 0, accepts })?.index ?? null;
    }
    return Response.json({ index });
  },
};`;

/**
 * One search among 10,000 vectors in workerd. Its clock stands still while code runs, so many searches of one request
 * are timed from outside, and a request without any is taken off.
 */
export async function measureVectorCost(progress: Progress): Promise<Figure[]> {
  progress("vectors: searching among 10,000 in workerd");
  const source = await bundle();
  const stateDir = await mkdtemp(join(tmpdir(), "pixel-llm-bench-"));
  const edge = await startLocalEdge({ source, port: 0, environment: {}, stateDir });
  try {
    const figures: Figure[] = [];
    for (const dimensions of [128, 512]) {
      const ask = async (count: number): Promise<number> => {
        const startedAt = performance.now();
        const response = await fetch(`${edge.url}/?dimensions=${dimensions}&searches=${count}`);
        const { index } = (await response.json()) as { index: number | null };
        const took = performance.now() - startedAt;
        if (count > 0 && index !== entries - 1) throw new Error(`the search found ${index}`);
        return took;
      };
      await ask(searches);
      const idle: number[] = [];
      const busy: number[] = [];
      for (let round = 0; round < rounds; round += 1) {
        idle.push(await ask(0));
        busy.push(await ask(searches));
      }
      // Whatever else runs here only ever adds: the best round is the cost.
      const each = (Math.min(...busy) - Math.min(...idle)) / searches;
      const name = `similar search, 10,000 vectors of ${dimensions} in workerd`;
      figures.push(boundedFigure(name, each, { under: 5 }, ms, `best of ${rounds} × ${searches} searches`));
    }
    return figures;
  } finally {
    await edge.close();
    await rm(stateDir, { recursive: true, force: true });
  }
}

async function bundle(): Promise<string> {
  const { outputFiles } = await build({
    stdin: { contents: handler, resolveDir: fileURLToPath(new URL("../..", import.meta.url)) },
    bundle: true,
    format: "esm",
    write: false,
  });
  return outputFiles[0]?.text ?? "";
}
