import assert from "node:assert/strict";
import { test } from "node:test";
import { createApp } from "../../edge/app.ts";
import type { Deps } from "../../edge/deps.ts";
import { createVirtualTime } from "../../scripts/simulation/virtual-time.ts";
import type { Profile } from "../../shared/config.ts";
import { errorBodySchema, type SidecarCaption } from "../../shared/wire.ts";
import { startAuthorityKit, wallStartMs } from "../kit/authority.ts";
import { createCacheStores } from "../kit/cache-stores.ts";
import { events, failureBody, liveBody } from "../kit/edge.ts";
import { readBreakerLimits } from "../../shared/breaker-limits.ts";
import { readConfig } from "../../shared/config.ts";

/** What each of the guide's four configurations must do, to the number; waits and cooldowns as [least, most] seconds. */
const expected: Readonly<Record<Profile, Behaviour>> = {
  production: {
    waits: [
      [0.5, 1],
      [1, 2],
    ],
    opensAt: 5,
    cooldown: [60, 72],
    probesToClose: 2,
    timeout: 30,
    fresh: 3600,
    kept: 1000,
    logs: ["CRITICAL", "ERROR", "WARNING", "INFO"],
  },
  development: {
    waits: [],
    opensAt: null,
    cooldown: [60, 72],
    probesToClose: 2,
    timeout: 10,
    fresh: 3600,
    kept: 1000,
    logs: ["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"],
  },
  high_throughput: {
    waits: [
      [1, 2],
      [2, 4],
      [4, 8],
      [8, 16],
    ],
    opensAt: 10,
    cooldown: [30, 36],
    probesToClose: 2,
    timeout: 120,
    fresh: 7200,
    kept: 1000,
    logs: ["CRITICAL", "ERROR", "WARNING"],
  },
  low_latency: {
    waits: [],
    opensAt: 3,
    cooldown: [10, 12],
    probesToClose: 1,
    timeout: 5,
    fresh: 3600,
    kept: 100,
    logs: ["CRITICAL", "ERROR"],
  },
};

type Behaviour = {
  waits: readonly (readonly [number, number])[];
  /** Failed calls in a row after which nobody is called; null = the breaker never refuses. */
  opensAt: number | null;
  cooldown: readonly [number, number];
  probesToClose: number;
  timeout: number;
  fresh: number;
  kept: number;
  logs: readonly string[];
};

type Box = "fails" | "answers" | "hangs";

/** An edge of one profile on virtual time, alone in front of a box that does as it is told. */
function open(profile: Profile) {
  const time = createVirtualTime();
  const env = { PIXEL_LLM_PROFILE: profile, PIXEL_LLM_SIDECAR_SECRET: "kit-secret-".repeat(4) };
  const reading = readConfig(env);
  assert.ok(reading.ok);
  const stores = createCacheStores();
  const authority = startAuthorityKit(time, readBreakerLimits(reading.config), () => 0.5);
  const calls: number[] = [];
  const levels = new Set<string>();
  const box: { mode: Box } = { mode: "fails" };
  const live = (sha256: string): SidecarCaption => ({ ...liveBody, image: { ...liveBody.image, sha256 } });
  const deps: Deps = {
    now: () => wallStartMs + time.now(),
    startTimer: time.startTimer,
    random: (count) => crypto.getRandomValues(new Uint8Array(count)),
    write: (line) => void levels.add((JSON.parse(line) as { level: string }).level),
    decodeBase64: () => new Uint8Array(0),
    openObjects: () => ({
      authority: authority.port,
      shards: (at) => stores.shards(at),
      similar: (t) => stores.similar(t),
    }),
    version: "test",
    fetch: async (_, init) => {
      calls.push(time.now() / 1000);
      const sha256 = new Headers(init.headers).get("x-pixel-llm-content-sha256") ?? "";
      switch (box.mode) {
        case "fails": {
          const failure = failureBody("ERR_CONN_REFUSED");
          const error = { ...failure.error, details: { service: "lm_studio", kind: "refused" } };
          return events(result(503, { ...failure, error }));
        }
        case "answers":
          return events(result(200, live(sha256)));
        case "hangs":
          return new Promise((_resolve, reject) => {
            init.signal?.addEventListener("abort", () => reject(init.signal?.reason as Error), { once: true });
          });
      }
    },
  };
  const app = createApp(deps);
  const behind: Promise<unknown>[] = [];
  const context = {
    waitUntil: (work: Promise<unknown>) => void behind.push(work),
    passThroughOnException: () => undefined,
    props: {},
  };

  /** Asks for a caption of picture `mark`; virtual time passes until it is answered. */
  const ask = async (mark: number): Promise<Response> => {
    const body = Buffer.concat([
      Buffer.from("89504e470d0a1a0a0000000d4948445200000004000000040802000000", "hex"),
      Buffer.from(String(mark)),
    ]);
    const init = { method: "POST", headers: { "content-type": "image/png" }, body };
    const answered = new AbortController();
    const asking = Promise.resolve(app.request("http://localhost/v1/captions?fallback=none", init, env, context));
    void asking.finally(() => answered.abort());
    for (;;) {
      await settled();
      if (answered.signal.aborted) return asking;
      await time.run(time.now() + 20);
    }
  };
  const codeOf = async (response: Response): Promise<string> =>
    errorBodySchema.parse(((await response.json()) as { error: unknown }).error).code;
  return { time, calls, levels, box, ask, codeOf, config: reading.config, authority };
}

/** Hashing and signing run on threads of their own: whoever asks last there is served last. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 6; turn += 1) {
    await Promise.all(Array.from({ length: 8 }, () => crypto.subtle.digest("SHA-256", new Uint8Array(1))));
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}

const result = (status: number, body: unknown): string =>
  `event: accepted\ndata: {}\n\nevent: result\ndata: ${JSON.stringify({ status, body })}\n\n`;

/** A measured number of seconds inside its bounds, a step of virtual time aside. */
const isWithin = (seconds: number, [least, most]: readonly [number, number]): boolean =>
  seconds >= least - 0.001 && seconds <= most + 0.25;

for (const [profile, wanted] of Object.entries(expected) as [Profile, Behaviour][]) {
  test(`profile ${profile} calls, waits, opens, cools down, closes, keeps and logs as the guide says`, async () => {
    const it = open(profile);

    // One request while the box fails: so many calls, so far apart.
    const code = await it.codeOf(await it.ask(0));
    const waits = it.calls.slice(1).map((at, index) => at - (it.calls[index] ?? 0));
    assert.equal(code, wanted.waits.length === 0 ? "ERR_CONN_REFUSED" : "ERR_RETRY_EXHAUSTED");
    assert.equal(waits.length, wanted.waits.length);
    for (const [index, bounds] of wanted.waits.entries()) {
      assert.ok(isWithin(waits[index] ?? 0, bounds), `wait ${index + 1} was ${waits[index]} s`);
    }

    // It goes on failing: nobody is called after the threshold, or everybody is.
    let refused: Response | null = null;
    for (let mark = 1; mark < 20 && refused === null; mark += 1) {
      const before = it.calls.length;
      const response = await it.ask(mark);
      if (it.calls.length === before) refused = response;
    }
    if (wanted.opensAt === null) {
      assert.equal(refused, null);
    } else {
      assert.ok(refused !== null);
      assert.equal(it.calls.length, wanted.opensAt);
      const seconds = Number(refused.headers.get("retry-after"));
      assert.ok(isWithin(seconds, [0, wanted.cooldown[1]]) && seconds > wanted.cooldown[0] - 5, `${seconds} s`);
    }

    // It is well again: after the cooldown so many good probes close the circuit.
    it.box.mode = "answers";
    await it.time.run(it.time.now() + wanted.cooldown[1] * 1000);
    let probes = 0;
    while (it.authority.core().read().reading.breakers.lm_studio_api.state !== "CLOSED") {
      probes += 1;
      assert.equal((await it.ask(100 + probes)).status, 200);
      await it.time.run(it.time.now() + 600);
    }
    assert.equal(probes, wanted.opensAt === null ? 0 : wanted.probesToClose);

    // What was answered is fresh for so long.
    await it.time.run(it.time.now() + 20_000);
    await it.ask(200);
    await settled();
    const kept = await it.ask(200);
    const ttl = Number(/ttl=(\d+)/.exec(kept.headers.get("cache-status") ?? "")?.[1]);
    assert.ok(ttl > wanted.fresh - 5 && ttl <= wanted.fresh, `ttl ${ttl}`);
    assert.equal(it.config.fallback_cache_max_size, wanted.kept);

    // A box that says nothing at all holds nobody longer than the whole time.
    it.box.mode = "hangs";
    const startedAt = it.time.now();
    await it.ask(300);
    assert.ok((it.time.now() - startedAt) / 1000 <= wanted.timeout + 0.3);
    for (const level of it.levels) assert.ok(wanted.logs.includes(level), level);
  });
}
