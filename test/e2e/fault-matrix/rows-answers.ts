import { ask, freshPicture } from "../../kit/ask.ts";
import type { ChatMode } from "../../kit/lm-studio/modes.ts";
import { objectError, TEXTS } from "../../kit/lm-studio/payloads.ts";
import type { WorldEdge } from "../../kit/whole.ts";
import { promptCanary, upstreamCanary } from "./complaints.ts";
import type { Expectation } from "./expectation.ts";
import { poll, standard, tellSource, together, type Fault, type MatrixWorld } from "./observe.ts";
import type { Row } from "./row.ts";

const studioFailed = { samples: { sidecar: "success", lm_studio_api: "failure" }, ladder: "C D" } as const;
const invalid: Expectation = { ...studioFailed, status: 502, code: "ERR_API_INVALID_RESPONSE", retry: "yes" };
const overload: Expectation = { ...studioFailed, status: 503, code: "ERR_API_OVERLOAD", retry: "yes" };
const captioned: Expectation = {
  status: 200,
  code: null,
  samples: { sidecar: "success", lm_studio_api: "success" },
  retry: "-",
  ladder: "-",
};

/** Faults in what LM Studio says. */
export function answerRows(world: MatrixWorld): Row[] {
  const { studio } = world;
  const { once } = world.edges;
  const row = (fault: Fault): Row => standard(world, fault);
  const says = (id: string, fault: string, mode: ChatMode, expect: Expectation, more?: Fault["more"]): Row =>
    row({ id, fault, inject: () => studio.answer(mode), expect, ...(more === undefined ? {} : { more }) });
  const chat = (stream: boolean): Promise<string> =>
    world.sidecar
      .call({
        method: "POST",
        target: "/v1/chat/completions",
        body: JSON.stringify({ messages: [{ role: "user", content: promptCanary }], stream }),
      })
      .then((response) => response.text());

  return [
    says(
      "F13",
      "stream cut: no finish reason, no end marker",
      { kind: "stream", cut: { at: { tokens: 3 }, how: "eof" } },
      invalid,
      {
        expected: ["streaming caller: words, an error event ERR_API_INVALID_RESPONSE, no end marker"],
        async run() {
          const text = await chat(true);
          const events = text.split("\n\n").filter((line) => line !== "");
          const last = events.at(-1) ?? "";
          const code = /"code":"(\w+)"/.exec(last)?.[1];
          const words = events.some((event) => event.includes("lighthouse")) ? "words" : "no words";
          const error = last.startsWith('data: {"error":') ? `an error event ${code}` : `at last ${last}`;
          return [`streaming caller: ${words}, ${error}, ${text.includes("[DONE]") ? "an" : "no"} end marker`];
        },
      },
    ),
    together("F14", "200 with an error object", [
      says(
        "F14",
        "JSON",
        { kind: "reply", status: 200, body: objectError(`${TEXTS.channel} ${upstreamCanary}`) },
        overload,
      ),
      says(
        "F14",
        "event after two tokens",
        { kind: "stream", failAfter: { tokens: 2, payload: objectError(`${TEXTS.engineGone} ${upstreamCanary}`) } },
        overload,
      ),
      says(
        "F14",
        "event without a name",
        {
          kind: "stream",
          failAfter: { tokens: 2, payload: objectError(`${TEXTS.engineGone} ${upstreamCanary}`), event: false },
        },
        overload,
      ),
      says(
        "F14",
        "JSON that is neither",
        { kind: "reply", status: 200, body: `{"choices":"${upstreamCanary}"}` },
        invalid,
      ),
    ]),
    together(
      "F15",
      "no caption in the answer",
      (
        [
          ["empty", { kind: "stream", tokens: [] }],
          ["blank", { kind: "stream", tokens: [" ", "\n\t", " "] }],
          ["only reasoning text", { kind: "stream", tokens: [], reasoning: ["I see a lighthouse."] }],
        ] as const
      ).map(([fault, mode]) =>
        says(
          "F15",
          fault,
          mode,
          { ...invalid, retry: "once" },
          {
            expected: ["asked again: describe, nothing was kept"],
            run: () => askedAgain(once),
          },
        ),
      ),
    ),
    together(
      "F16",
      "an answer without end",
      (
        [
          ["endless stream", { kind: "stream", tokens: { repeat: `${upstreamCanary} `.repeat(40), count: "endless" } }],
          ["50 MB of text", { kind: "reply", status: 200, body: `{"choices":"${"word ".repeat(10 * 2 ** 20)}"}` }],
        ] as const
      ).map(([fault, mode]) =>
        row({
          id: "F16",
          fault,
          // The stand-in is in this process: two such answers at once would leave none of them its time.
          oneAtATime: true,
          inject: () => studio.answer(mode),
          expect: { ...invalid, retry: "no" },
          ...bounded(world),
        }),
      ),
    ),
    together("F17", "cut by its length", [
      says("F17", "finish reason length", { kind: "stream", finishReason: "length" }, captioned, {
        expected: ["5 tokens counted", "asked again while LM Studio fails: describe", "chat: length"],
        async run() {
          const image = freshPicture();
          const { body } = await ask(once, { image });
          const { usage } = body as { usage: { completion_tokens: number } };
          const told = (JSON.parse(await chat(false)) as { choices: { finish_reason: string }[] }).choices[0];
          studio.answer({ kind: "reply", status: 500, body: "{}" });
          const again = tellSource(await ask(once, { image }));
          return [
            `${usage.completion_tokens} tokens counted`,
            `asked again while LM Studio fails: ${again}`,
            `chat: ${told?.finish_reason}`,
          ];
        },
      }),
      says(
        "F17",
        "repetition loop",
        { kind: "stream", tokens: { repeat: "the ", count: 256 }, finishReason: "length" },
        captioned,
      ),
    ]),
  ];
}

/** The same picture twice, with the default chain: what the first call gave must not have been kept. */
async function askedAgain(edge: WorldEdge): Promise<string[]> {
  const image = freshPicture();
  await ask(edge, { image, query: { fallback: "none" } });
  return [`asked again: ${tellSource(await ask(edge, { image }))}, nothing was kept`];
}

/** Reading ends at its cap, and the socket is closed at once. */
function bounded(world: MatrixWorld): Pick<Fault, "more"> {
  const more = {
    expected: ["far less than 50 MB on their way, connection closed: true", "memory grew by less than 64 MiB"],
    async run() {
      const heap = process.memoryUsage().arrayBuffers;
      const known = world.p2.connections.length;
      await ask(world.edges.once, { query: { fallback: "none" } });
      const carried = (): number => Math.max(...world.p2.connections.slice(known).map(({ down }) => down));
      const closed = await poll(
        async () => world.p2.counts().open === 0,
        (over) => over,
      );
      // Beyond what is read, the kernel holds some megabytes of both connections.
      const read = carried() < 16 * 2 ** 20 ? "far less than 50 MB" : `${carried()} bytes`;
      // The stand-in is in this process too: its own 50 MB are text, no array buffers.
      const grown = process.memoryUsage().arrayBuffers - heap;
      const memory = grown < 64 * 2 ** 20 ? "less than 64 MiB" : `${grown} bytes`;
      return [`${read} on their way, connection closed: ${closed}`, `memory grew by ${memory}`];
    },
  };
  return { more };
}
