import assert from "node:assert/strict";
import { startLocalEdge } from "../../scripts/local-edge.ts";
import { buildWorkerBundle, type WorkerBundle } from "../../scripts/worker-bundle.ts";
import { breakerNames } from "../../shared/breaker-state.ts";
import { ask } from "./ask.ts";
import { environmentOf, type Settings } from "./environment.ts";
import { startFaultProxy, type FaultProxy, type FaultProxyOptions } from "./fault-proxy.ts";
import { temporaryFolder } from "./folders.ts";
import { startLmStudio, type LmStudio } from "./lm-studio.ts";
import { CATALOGS } from "./lm-studio/catalog.ts";
import type { Script } from "./lm-studio/modes.ts";
import type { SidecarInProcessOptions } from "./sidecar-in-process.ts";
import { secret } from "./stack.ts";
import { createWatch } from "./watch.ts";
import { within } from "./within.ts";
import { startInside, startOutside, type WorldSidecar } from "./world-sidecar.ts";

/** One running edge: the real Worker bundle in workerd. */
export type WorldEdge = {
  name: string;
  url: string;
  /** Log lines so far; a line may come after the answer it tells of. */
  lines: readonly string[];
  /** Resolves with the first line that holds this text, those so far included; rejects after five seconds. */
  logged(text: string): Promise<string>;
  /** Ends the isolate of one Durable Object; its storage stays. */
  evict: Awaited<ReturnType<typeof startLocalEdge>>["evict"];
};

/** LM Studio's stand-in behind proxy `p2`, a sidecar behind proxy `p1`, and edges in front. */
export type World<Name extends string> = AsyncDisposable & {
  studio: LmStudio;
  /** Between the edges and the sidecar. */
  p1: FaultProxy;
  /** Between the sidecar and LM Studio. */
  p2: FaultProxy;
  sidecar: WorldSidecar;
  edges: Readonly<Record<Name, WorldEdge>>;
  /** What all halves have logged so far. */
  log(): string;
  /** Heals proxies and stand-in, closes every breaker and empties every cache. */
  reset(): Promise<void>;
  /** Asserts that nothing is left of what went before, and that a healthy request succeeds at these edges, or at all. */
  settled(...at: Name[]): Promise<void>;
};

/** What a world starts with; everything has a default. */
export type WorldOptions<Name extends string> = {
  script?: Script;
  /** Configuration keys of every half. */
  settings?: Settings;
  /** Further keys of each edge, by name; left out: `once` without a retry and `thrice` with three attempts. */
  edges?: Readonly<Record<Name, Settings | ((p1: FaultProxy) => Settings)>>;
  /** `outside` = a process of its own, which can be killed and comes back; left out: `inside`. */
  sidecar?: "inside" | "outside";
  /** For a sidecar that runs inside. */
  inject?: Pick<SidecarInProcessOptions, "hostModule" | "memory" | "now" | "wallNow">;
  p1?: Omit<FaultProxyOptions, "target">;
  p2?: Omit<FaultProxyOptions, "target">;
  /** Key with admin scope, where `api_keys` are configured. */
  key?: string;
  /** How long what a request leaves behind may take to go, in ms; default 5000. */
  settleMs?: number;
};

/** The edges that each row of the fault matrix is asked at. */
export const matrixEdges = { once: { retry_max_attempts: 1 }, thrice: { retry_max_attempts: 3 } } as const;

let bundle: Promise<WorkerBundle> | undefined;

/** Starts a world; everything that runs is ended again when a part of it cannot start. */
export async function startEdgeWorld<Name extends string = keyof typeof matrixEdges>(
  options: WorldOptions<Name> = {},
): Promise<World<Name>> {
  const { script = {}, settings = {}, inject = {} } = options;
  const wanted = Object.entries<Settings | ((p1: FaultProxy) => Settings)>(options.edges ?? matrixEdges);
  const endings: (() => Promise<void>)[] = [];
  const keep = async <T>(starting: Promise<T>, close: (started: T) => Promise<void>): Promise<T> => {
    const started = await starting;
    endings.unshift(() => close(started));
    return started;
  };
  const end = async (): Promise<void> => {
    // Each is ended, also after one that fails: a process left behind would outlive the test.
    const failures: unknown[] = [];
    for (const ending of endings) await ending().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw new AggregateError(failures, "not everything could be ended");
  };
  try {
    bundle ??= buildWorkerBundle();
    const studio = await keep(startLmStudio(script), (started) => started.close());
    const p2 = await keep(startFaultProxy({ ...options.p2, target: studio.port }), (started) => started.close());
    const all = { lm_studio_host: "127.0.0.1", lm_studio_port: p2.port, ...settings };
    const starting = options.sidecar === "outside" ? startOutside(all) : startInside(all, inject);
    const sidecar = await keep(starting, (started) => started.close());
    const p1 = await keep(startFaultProxy({ ...options.p1, target: sidecar.port }), (started) => started.close());
    const { source } = await bundle;
    const edges: WorldEdge[] = [];
    for (const [name, more] of wanted) {
      const own = { sidecar_url: p1.url, ...settings, ...(typeof more === "function" ? more(p1) : more) };
      edges.push(await keepEdge(name, source, own));
    }
    return assemble<Name>({ options, studio, p1, p2, sidecar, edges, end });
  } catch (error) {
    await end();
    throw error;
  }

  async function keepEdge(name: string, source: string, own: Settings): Promise<WorldEdge> {
    const lines: string[] = [];
    const { changed, until } = createWatch();
    const started = {
      source,
      port: 0,
      environment: environmentOf({ sidecar_secret: secret, ...own }),
      stateDir: temporaryFolder(),
      write: (line: string): void => {
        lines.push(line);
        changed();
      },
    };
    const line = async (text: string): Promise<string> => {
      const find = (): string | undefined => lines.find((each) => each.includes(text));
      await until(() => find() !== undefined);
      return find() ?? "";
    };
    const edge = await keep(startLocalEdge(started), (running) => running.close());
    return {
      name,
      url: edge.url,
      lines,
      logged: (text) => within(5000, () => `${name} has logged nothing with ${text}`, line(text)),
      evict: (object, id) => edge.evict(object, id),
    };
  }
}

type Parts<Name extends string> = {
  options: WorldOptions<Name>;
  studio: LmStudio;
  p1: FaultProxy;
  p2: FaultProxy;
  sidecar: WorldSidecar;
  edges: readonly WorldEdge[];
  end: () => Promise<void>;
};

function assemble<Name extends string>(parts: Parts<Name>): World<Name> {
  const { options, studio, p1, p2, sidecar, edges, end } = parts;
  const { settleMs = 5000 } = options;
  const headers: Record<string, string> = options.key === undefined ? {} : { authorization: `Bearer ${options.key}` };
  const act = async (edge: WorldEdge, method: string, path: string): Promise<void> => {
    const { status, text } = await ask(edge, { method, path, headers, body: null });
    assert.ok(status >= 200 && status < 300, `${edge.name}: ${method} ${path} gives ${status} ${text}`);
  };
  return {
    studio,
    p1,
    p2,
    sidecar,
    edges: Object.fromEntries(edges.map((edge) => [edge.name, edge])) as Record<Name, WorldEdge>,
    log: () => [sidecar.log(), ...edges.flatMap(({ lines }) => lines)].join("\n"),
    async reset() {
      await p1.set({ kind: "pass" });
      await p2.set({ kind: "pass" });
      studio.answer(options.script?.chat ?? { kind: "stream" });
      studio.have(options.script?.models ?? CATALOGS.vision);
      studio.listBy(options.script?.discovery ?? { kind: "v1" });
      studio.loadBy(options.script?.load ?? { kind: "load" });
      for (const edge of edges) {
        for (const name of breakerNames) await act(edge, "POST", `/v1/circuit-breakers/${name}/reset`);
        await act(edge, "DELETE", "/v1/cache");
      }
    },
    async settled(...at) {
      const idle = (): boolean => studio.counts().working === 0 && studio.counts().sockets === 0;
      await within(settleMs, () => `LM Studio has ${JSON.stringify(studio.counts())}`, studio.until(idle));
      await within(
        settleMs,
        () => `${p2.counts().open} connections to LM Studio`,
        p2.until(() => p2.counts().open === 0),
      );
      await sidecarIdle(sidecar, settleMs);
      const named: readonly string[] = at;
      for (const edge of edges.filter(({ name }) => at.length === 0 || named.includes(name))) {
        const reply = await ask(edge, { query: { fallback: "none" }, headers });
        assert.equal(reply.status, 200, `${edge.name} does not answer a healthy request: ${reply.text}`);
      }
      await sidecarIdle(sidecar, settleMs);
    },
    [Symbol.asyncDispose]: end,
  };
}

/** Samples of a Prometheus text, by name and labels as they stand there. */
export function readMetrics(text: string): Map<string, number> {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]),
  );
}

/** Resolves once the sidecar's own figures show nobody inside, nobody waiting and no permit taken. */
async function sidecarIdle(sidecar: WorldSidecar, settleMs: number): Promise<void> {
  const busy = async (): Promise<string[]> => {
    const response = await sidecar.call({ target: "/metrics" });
    assert.equal(response.status, 200);
    const metrics = [...readMetrics(await response.text())];
    for (const [family, pattern] of Object.entries(mustBeZero)) {
      assert.ok(
        metrics.some(([name]) => pattern.test(name)),
        `the sidecar's metrics have no ${family}`,
      );
    }
    return metrics
      .filter(([name, value]) => value !== 0 && Object.values(mustBeZero).some((pattern) => pattern.test(name)))
      .map(([name, value]) => `${name} ${value}`);
  };
  const until = performance.now() + settleMs;
  // Its metrics have no event for a change: asking again is the wait.
  for (let left = await busy(); left.length > 0; left = await busy()) {
    if (performance.now() > until) throw new Error(`after ${settleMs} ms the sidecar has ${left.join(", ")}`);
  }
}

/** Gauges of the sidecar that are 0 when nothing is under way. */
const mustBeZero = {
  pixel_sidecar_pictures_inside: /^pixel_sidecar_pictures_inside$/,
  pixel_queue_depth: /^pixel_queue_depth\{/,
  pixel_permits: /^pixel_permits\{.*state="(in_use|draining|lost)"/,
};
