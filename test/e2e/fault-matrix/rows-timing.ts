import { ask } from "../../kit/ask.ts";
import type { ChatMode } from "../../kit/lm-studio/modes.ts";
import { readMetrics, type WorldEdge } from "../../kit/whole.ts";
import type { Expectation } from "./expectation.ts";
import {
  closeBreakers,
  poll,
  readBreakers,
  standard,
  tell,
  together,
  type Fault,
  type MatrixWorld,
} from "./observe.ts";
import type { Row } from "./row.ts";

/** `slow` has the slow rule on. */
type TimingWorld = MatrixWorld & { edges: { slow: WorldEdge } };

const studioFailed = { samples: { sidecar: "success", lm_studio_api: "failure" }, ladder: "C D" } as const;
const idle: Expectation = { ...studioFailed, status: 504, code: "ERR_TIMEOUT_IDLE", retry: "yes" };

/** A stream that says something, then nothing but comments, each let through by the gate. */
const comments = (gate: string): ChatMode => {
  const chunk = (delta: object): string =>
    `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index: 0, delta, finish_reason: null }] })}\n\n`;
  const start = chunk({ role: "assistant", content: "" }) + chunk({ content: "A " });
  const comment = ": working\n\n";
  const pauses = Array.from({ length: 60 }, (_, at) => ({ at: { byte: start.length + at * comment.length }, gate }));
  return { kind: "stream", raw: start + comment.repeat(60), pauses };
};

/** Faults in when LM Studio says something. */
export function timingRows(world: TimingWorld): Row[] {
  const { studio } = world;
  const { once, slow } = world.edges;
  const row = (fault: Fault): Row => standard(world, fault);
  /** Lets who waits at a gate through every so often, as long as the work takes. */
  const ticking = async <T>(gate: string, everyMs: number, work: () => Promise<T>): Promise<T> => {
    tick(gate, everyMs);
    try {
      return await work();
    } finally {
      stopTimers();
    }
  };
  const tick = (gate: string, everyMs: number): void => {
    // Exactly who waits now: a step that nobody takes would let a later one through.
    const step = (): void => studio.gates(gate).step(studio.gates(gate).waiting);
    timers.push(setInterval(step, everyMs).unref());
  };

  return [
    row({
      id: "F9",
      fault: "first token later than its limit",
      inject: () =>
        studio.answer({
          kind: "stream",
          pauses: [
            { at: "head", gate: "late" },
            { at: { tokens: 1 }, gate: "never" },
          ],
        }),
      // LM Studio goes on when the caller has its answer: later than the limit, whenever that is.
      release: () => studio.gates("late").step(studio.gates("late").waiting),
      expect: { ...studioFailed, status: 504, code: "ERR_TIMEOUT_RESPONSE", retry: "no" },
      more: {
        expected: [
          "permits meanwhile: 1 draining",
          "permits then: 0 draining",
          "the stand-in sees its client leave: true",
        ],
        async run() {
          await ask(once, { query: { fallback: "none" } });
          const meanwhile = await permits(world, "draining");
          studio.gates("late").step(studio.gates("late").waiting);
          const then = await poll(
            () => permits(world, "draining"),
            (count) => count === 0,
          );
          const aborted = await poll(
            async () => studio.chats().at(-1)?.aborted,
            (left) => left === true,
          );
          return [
            `permits meanwhile: ${meanwhile} draining`,
            `permits then: ${then} draining`,
            `the stand-in sees its client leave: ${aborted}`,
          ];
        },
      },
    }),
    {
      id: "F10",
      fault: "slow but good",
      expected: [
        "rule on: 200 caption, 200 caption; lm_studio_api 2 slow; OPEN by slow",
        "rule off: 200 caption, 200 caption; lm_studio_api 2 success; CLOSED",
      ],
      async run() {
        for (const edge of [once, slow]) await closeBreakers(edge);
        studio.answer({ kind: "stream", tokenGate: "slow" });
        // Five tokens, 0.28 s each: seven tenths of the time there is, and no wait as long as the idle limit.
        const asked = await ticking("slow", 280, () =>
          Promise.all([slow, slow, once, once].map((edge) => ask(edge, { query: { fallback: "none" } }))),
        );
        const told = asked.map(tell);
        const seen = async (edge: WorldEdge): Promise<string> => {
          const enough = (counts: Readonly<Record<string, number>>): boolean =>
            (counts["slow"] ?? 0) + (counts["success"] ?? 0) >= 2;
          const { breakers, events } = await poll(
            () => readBreakers(edge),
            (at) => enough(at.breakers.lm_studio_api.counts),
          );
          const { counts, state } = breakers.lm_studio_api;
          const kinds = ["slow", "success"].filter((kind) => (counts[kind] ?? 0) > 0);
          const last = events.findLast(({ name, event }) => name === "lm_studio_api" && event === "transition");
          const by = state === "OPEN" ? ` by ${String(last?.["reason"])}` : "";
          return `lm_studio_api ${kinds.map((kind) => `${counts[kind]} ${kind}`).join(", ")}; ${state}${by}`;
        };
        const lines = [
          `rule on: ${told.slice(0, 2).join(", ")}; ${await seen(slow)}`,
          `rule off: ${told.slice(2).join(", ")}; ${await seen(once)}`,
        ];
        await world.reset();
        await world.settled("once", "thrice");
        return lines;
      },
    },
    together("F11", "no progress between tokens", [
      row({
        id: "F11",
        fault: "dribble",
        // Every byte of the body comes alone; after the second token one each 50 ms, a whole token would take ten seconds.
        inject: () => {
          tick("drip", 50);
          studio.answer({ kind: "stream", pauses: manyPauses("drip", 400) });
        },
        expect: idle,
        more: { expected: [], run: async () => stopTimers() },
      }),
      row({
        id: "F11",
        fault: "comments only",
        inject: () => {
          tick("comment", 100);
          studio.answer(comments("comment"));
        },
        expect: idle,
        more: { expected: [], run: async () => stopTimers() },
      }),
    ]),
  ];
}

/** Timers of faults that last, until `stopTimers`. */
const timers: NodeJS.Timeout[] = [];

function stopTimers(): string[] {
  for (const timer of timers.splice(0)) clearInterval(timer);
  return [];
}

/** Every byte from the second token on waits at the gate. */
function manyPauses(gate: string, count: number): { at: { byte: number }; gate: string }[] {
  return Array.from({ length: count }, (_, at) => ({ at: { byte: 600 + at }, gate }));
}

async function permits(world: MatrixWorld, state: string): Promise<number> {
  const metrics = readMetrics(await (await world.sidecar.call({ target: "/metrics" })).text());
  const of = [...metrics].filter(([name]) => name.startsWith("pixel_permits{") && name.includes(`state="${state}"`));
  return of.reduce((sum, [, value]) => sum + value, 0);
}
