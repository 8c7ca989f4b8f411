import { mkdir, writeFile } from "node:fs/promises";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { measureEndpoint } from "./bench/endpoint-suite.ts";
import { unmeasured, type Figure, type Measured, type Progress } from "./bench/figure.ts";
import { measureResilience } from "./bench/resilience-suite.ts";
import { measureSidecar } from "./bench/sidecar-suite.ts";
import { readSettings } from "./settings.ts";

/** What can be measured, by name; `npm run bench -- NAME …`, without a name all of it. */
const suites: Readonly<Record<string, (progress: Progress) => Promise<Measured>>> = {
  sidecar: measureSidecar,
  endpoint: measureEndpoint,
  resilience: measureResilience,
};

/** Exit code for arguments that name nothing (EX_USAGE of BSD's sysexits). */
const usageExit = 64;

/** Measures this machine's figures: a table on stdout, and `bench.json` in the state folder. */
async function main(): Promise<void> {
  const { config, rest } = readSettings(process.argv.slice(2));
  const unknown = rest.filter((name) => !Object.hasOwn(suites, name));
  if (unknown.length > 0) {
    console.error(`pixel-llm: no suite is named ${unknown.join(", ")}. Suites: ${Object.keys(suites).join(", ")}.`);
    process.exitCode = usageExit;
    return;
  }
  const about = { node: process.version, platform: `${process.platform} ${process.arch}`, ...readLoad() };
  const figures: Figure[] = [];
  const tables: Record<string, readonly object[]> = {};
  for (const [name, measure] of Object.entries(suites)) {
    if (rest.length > 0 && !rest.includes(name)) continue;
    try {
      const measured = await measure((line) => console.error(`${name}: ${line}`));
      figures.push(...measured.figures);
      Object.assign(tables, measured.tables);
    } catch (error) {
      figures.push(unmeasured(name, error));
    }
  }
  console.table(figures);
  for (const [name, rows] of Object.entries(tables)) {
    console.log(`\n${name}`);
    console.table(rows);
  }
  await mkdir(config.state_dir, { recursive: true });
  const file = join(config.state_dir, "bench.json");
  await writeFile(file, `${JSON.stringify({ ...about, figures, ...tables }, null, 2)}\n`);
  console.log(`written to ${file}`);
}

/** How busy the machine already is; who measures beside other work is told. */
function readLoad(): { cores: number; load: number } {
  const cores = availableParallelism();
  const [load = 0] = loadavg();
  if (load > cores / 2)
    console.error(`the machine is busy (load ${load.toFixed(1)} on ${cores} cores): times come out too long`);
  return { cores, load };
}

await main();
