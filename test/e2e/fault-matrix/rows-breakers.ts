import { breakerNames } from "../../../shared/breaker-state.ts";
import { ask, freshPicture, type Reply } from "../../kit/ask.ts";
import type { ChatMode } from "../../kit/lm-studio/modes.ts";
import type { WorldEdge } from "../../kit/whole.ts";
import { secret } from "../../kit/stack.ts";
import { within } from "../../kit/within.ts";
import { upstreamCanary } from "./complaints.ts";
import {
  closeBreakers,
  errorOf,
  poll,
  quickSettings,
  readBreakers,
  readingOf,
  refill,
  tell,
  tellDifference,
  type BreakerCounts,
  type BreakerFacts,
  type MatrixWorld,
} from "./observe.ts";
import { count, inLanes, openLoop } from "./load.ts";
import type { Row, RowElsewhere } from "./row.ts";
import { startNodeEdge } from "./rows-31-60-node-edge.ts";

/** `brisk` probes after a second, three at once; `single` after three tenths, one at a time, for half a second. */
type BreakersWorld = MatrixWorld & { edges: { brisk: WorldEdge; single: WorldEdge } };

const failing: ChatMode = { kind: "reply", status: 500, body: JSON.stringify({ error: upstreamCanary }) };
/** Half a second until the first probe, without a second call. */
const worldless = { retry_max_attempts: 1, circuit_breaker_cooldown_seconds: 0.3 };
const bare = { query: { fallback: "none" } };

/** Rows of the breaker for LM Studio that run in real time here; the simulation runs the long ones. */
export function breakerRows(world: BreakersWorld): Row[] {
  const { studio, p2 } = world;
  const { thrice, brisk, single } = world.edges;

  const recover = async (): Promise<void> => {
    await world.reset();
    await world.settled("once", "thrice");
  };
  const lmStudio = async (edge: WorldEdge): Promise<BreakerFacts> => (await readBreakers(edge)).breakers.lm_studio_api;
  /** Fails until the breaker is open. */
  const trip = async (edge: WorldEdge): Promise<void> => {
    await closeBreakers(edge);
    studio.answer(failing);
    for (let asked = 0; asked < 10 && (await lmStudio(edge)).state !== "OPEN"; asked += 1) await ask(edge, bare);
  };
  const cooldownOver = (edge: WorldEdge): Promise<BreakerFacts> =>
    poll(
      () => lmStudio(edge),
      // The object looks by itself first; its look must be over, or it holds the one lease there is.
      ({ state, leases }) => state === "HALF_OPEN" && leases === 0,
    );

  return [
    {
      id: "F25",
      fault: "20 % random 500s, 300 requests, 3 attempts, seed 1 of the proxy",
      expected: [
        "at least 95 % captions",
        "calls per request at most 1.25",
        "at most 5 % refused",
        "lm_studio_api CLOSED, 0 opens",
      ],
      async run() {
        await refill(thrice, 9);
        await closeBreakers(thrice);
        const body = JSON.stringify({ error: upstreamCanary });
        await p2.set({
          kind: "answer",
          status: 500,
          share: 0.2,
          headers: [["Content-Type", "application/json"]],
          body,
        });
        const before = p2.counts().exchanges;
        const listings = studio.requests.length - studio.chats().length;
        const replies = await inLanes(6, 300, () => ask(thrice, bare));
        const calls = p2.counts().exchanges - before - (studio.requests.length - studio.chats().length - listings);
        const { state, counts } = await lmStudio(thrice);
        await recover();
        const captions = replies.filter(({ status }) => status === 200).length / replies.length;
        const refused = replies.filter((reply) => tell(reply).includes("ERR_CB_")).length / replies.length;
        const perRequest = calls / replies.length;
        return [
          captions >= 0.95 ? "at least 95 % captions" : `${(captions * 100).toFixed(1)} % captions`,
          `calls per request ${perRequest <= 1.25 ? "at most 1.25" : perRequest.toFixed(3)}`,
          refused <= 0.05 ? "at most 5 % refused" : `${(refused * 100).toFixed(1)} % refused`,
          `lm_studio_api ${state}, ${counts["opens"]} opens`,
        ];
      },
    },
    {
      id: "F27",
      fault: "outage of 3 s at 50 requests a second, open loop, 3 attempts",
      expected: [
        "calls at most threshold + leases",
        "calls per request at most 1.1",
        "refused: 503 ERR_CB_OPEN",
        "lm_studio_api opens, never closes",
      ],
      async run() {
        // Encoder and isolate are warm, as they are when an outage begins.
        await inLanes(4, 24, () => ask(brisk, bare));
        await closeBreakers(brisk);
        const early = (await lmStudio(brisk)).counts["late"] ?? 0;
        const before = studio.chats().length;
        studio.answer(failing);
        const replies = await openLoop(150, 20, () => ask(brisk, bare));
        const calls = studio.chats().length - before;
        const { counts } = await lmStudio(brisk);
        await recover();
        const [opens, halfOpens] = [counts["opens"] ?? 0, counts["half_opens"] ?? 0];
        // Calls that were under way when it opened have not been let through by it since.
        const beyond = calls - ((counts["late"] ?? 0) - early);
        const leases = halfOpens * 3;
        const codes = count(replies.map(tell));
        const [common] = [...codes].sort(([, left], [, right]) => right - left)[0] ?? [];
        return [
          beyond <= 5 + leases ? "calls at most threshold + leases" : `${beyond} of ${calls} calls, ${leases} leases`,
          `calls per request ${calls / replies.length <= 1.1 ? "at most 1.1" : calls / replies.length}`,
          `refused: ${common}`,
          `lm_studio_api ${opens > 0 ? "opens" : "does not open"}, ${counts["closes"] === 0 ? "never closes" : "closes"}`,
        ];
      },
    },
    {
      id: "F28",
      fault: "recovery with 40 callers at once",
      expected: [
        "probes at once: 1 to 3",
        "others: 503 ERR_CB_HALF_OPEN",
        "lm_studio_api CLOSED, by 1 close",
        'two seconds after: 3 to 21 captions, others 503 ERR_CB_HALF_OPEN of "ramp"',
      ],
      async run() {
        await refill(brisk, 5);
        await trip(brisk);
        studio.answer({ kind: "stream", pauses: [{ at: "head", gate: "probe" }] });
        await cooldownOver(brisk);
        const gate = studio.gates("probe");
        const known = gate.reached;
        let answered = 0;
        // No more than are all refused or under way before a probe's first token is due.
        const asking = Array.from({ length: 40 }, async () => {
          const reply = await ask(brisk, bare);
          answered += 1;
          return reply;
        });
        await poll(
          async () => answered + gate.waiting,
          (sum) => sum === 40,
          1500,
        );
        const probes = gate.reached - known;
        gate.open();
        const replies = await Promise.all(asking);
        // Two good probes close; where the burst gave but one, a later call is the other.
        const state = await poll(
          async () => {
            await ask(brisk, bare);
            return lmStudio(brisk);
          },
          (seen) => seen.state === "CLOSED",
        );
        const after = await openLoop(100, 20, () => ask(brisk, bare));
        studio.gates("probe").shut();
        await recover();
        const refused = (seen: readonly Reply[]): string =>
          [...count(seen.filter(({ status }) => status !== 200).map(tellCause)).keys()].join(", ");
        const captions = after.filter(({ status }) => status === 200).length;
        const phases = new Set(
          after.filter(({ status }) => status !== 200).map((reply) => JSON.stringify(errorOf(reply)?.details["phase"])),
        );
        const many = captions >= 3 && captions <= 21 ? "3 to 21" : `${captions}`;
        return [
          `probes at once: ${probes >= 1 && probes <= 3 ? "1 to 3" : probes}`,
          `others: ${refused(replies)}`,
          `lm_studio_api ${state.state}, by ${state.counts["closes"]} close`,
          `two seconds after: ${many} captions, others ${refused(after)} of ${[...phases].join(", ")}`,
        ];
      },
    },
    {
      id: "F29",
      fault: "probe hangs",
      expected: [
        "others: 503 ERR_CB_HALF_OPEN, none waits",
        "the probe: 504 ERR_TIMEOUT_REQUEST after its own half second",
        "then: OPEN, attempt 1, 0 leases",
      ],
      async run() {
        await trip(single);
        studio.answer({ kind: "stream", pauses: [{ at: "head", gate: "hung" }] });
        await cooldownOver(single);
        const gate = studio.gates("hung");
        const known = gate.reached;
        const probing = ask(single, bare);
        await within(3000, () => "no probe came to LM Studio", gate.arrived(known + 1));
        const others = await Promise.all(Array.from({ length: 10 }, () => ask(single, bare)));
        const probe = await probing;
        const facts = await poll(
          () => lmStudio(single),
          ({ state }) => state === "OPEN",
          1500,
        );
        gate.step(gate.waiting);
        await recover();
        const slowest = Math.max(...others.map(({ elapsedMs }) => elapsedMs));
        const waits = slowest < 250 ? "none waits" : `one waits ${Math.round(slowest)} ms`;
        const own = probe.elapsedMs >= 400 && probe.elapsedMs < 900;
        return [
          `others: ${[...count(others.map(tell)).keys()].join(", ")}, ${waits}`,
          `the probe: ${tell(probe)} after ${own ? "its own half second" : `${Math.round(probe.elapsedMs)} ms`}`,
          `then: ${facts.state}, attempt ${facts.attempt}, ${facts.leases} leases`,
        ];
      },
    },
    {
      id: "F30",
      // The local workerd does not tell its Worker that a caller left: this edge runs on Node, its breakers on their own.
      fault: "probe cancelled by its caller",
      expected: [
        "while it runs: HALF_OPEN, 1 lease",
        "in the tick in which it is over: HALF_OPEN, 0 leases",
        "samples of it: sidecar ignored, lm_studio_api ignored",
        "the next caller is let through: 200 caption",
        "in the log: cancelled, 0 warnings",
      ],
      async run() {
        const settings = { ...quickSettings, ...worldless, sidecar_url: world.p1.url, sidecar_secret: secret };
        using edge = startNodeEdge({ settings });
        const facts = async (): Promise<BreakerCounts & { line: string }> => {
          const { breakers } = readingOf((await edge.ask({ method: "GET", path: "/v1/circuit-breakers" })).body);
          const { state, leases } = breakers.lm_studio_api;
          const line = `${state}, ${leases} ${leases === 1 ? "lease" : "leases"}`;
          return { sidecar: breakers.sidecar.counts, lm_studio_api: breakers.lm_studio_api.counts, line };
        };
        studio.answer(failing);
        for (let asked = 0; asked < 5; asked += 1) await edge.ask(bare);
        studio.answer({ kind: "stream", pauses: [{ at: "head", gate: "left" }] });
        await poll(
          async () => readingOf((await edge.ask({ method: "GET", path: "/v1/circuit-breakers" })).body),
          ({ breakers }) => breakers.lm_studio_api.retry_after_seconds === 0,
        );
        const before = await facts();
        const gate = studio.gates("left");
        const known = gate.reached;
        const caller = new AbortController();
        const id = "matrix-cancelled-1";
        const probing = edge.send("/v1/captions?fallback=none", {
          method: "POST",
          headers: { "content-type": "image/png", "x-request-id": id },
          body: new Uint8Array(freshPicture()),
          signal: caller.signal,
        });
        await within(3000, () => "no probe came to LM Studio", gate.arrived(known + 1));
        const during = await facts();
        caller.abort();
        await probing.catch(() => null);
        const after = await facts();
        const own = edge.lines.filter((line) => line.includes(id));
        const warnings = own.filter((line) => /"level":"(WARNING|ERROR|CRITICAL)"/.test(line)).length;
        const cancelled = own.some((line) => line.includes("cancelled")) ? "cancelled" : "not told";
        studio.answer({ kind: "stream" });
        gate.step(gate.waiting);
        const next = await edge.ask(bare);
        await recover();
        const samples = breakerNames.map((name) => `${name} ${tellDifference(before, after, name)}`).join(", ");
        return [
          `while it runs: ${during.line}`,
          `in the tick in which it is over: ${after.line}`,
          `samples of it: ${samples}`,
          `the next caller is let through: ${tell(next)}`,
          `in the log: ${cancelled}, ${warnings} warnings`,
        ];
      },
    },
  ];
}

/** Status and code, with the details of what is not a plain refusal. */
function tellCause(reply: Reply): string {
  const error = errorOf(reply);
  return error?.category === "circuit_breaker" ? tell(reply) : `${tell(reply)} ${JSON.stringify(error?.details)}`;
}

/** What takes minutes, or a clock of its own. */
export const breakerRowsElsewhere: readonly RowElsewhere[] = [
  {
    id: "F25",
    fault: "20 % random failures, 10,000 requests",
    why: "a quarter of an hour on a virtual clock: test/scripts/simulation.test.ts",
  },
  {
    id: "F26",
    fault: "5 s up, 5 s down, 10 minutes",
    why: "ten minutes on a virtual clock: test/scripts/simulation.test.ts",
  },
  {
    id: "F27",
    fault: "outage of 60 s at 50 requests a second",
    why: "a minute on a virtual clock: test/scripts/simulation.test.ts",
  },
  {
    id: "F28",
    fault: "recovery with 1,000 callers over several isolates",
    why: "isolates on a virtual clock: test/scripts/simulation.test.ts",
  },
  {
    id: "F29",
    fault: "the isolate of a probe dies",
    why: "an isolate of workerd cannot be ended alone: a lease nobody ends is test/edge/authority-core.test.ts",
  },
];
