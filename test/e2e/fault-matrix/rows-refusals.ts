import { ask, freshPicture } from "../../kit/ask.ts";
import { CATALOGS } from "../../kit/lm-studio/catalog.ts";
import type { ChatMode } from "../../kit/lm-studio/modes.ts";
import { objectError, PAYLOADS, TEXTS } from "../../kit/lm-studio/payloads.ts";
import type { WorldEdge } from "../../kit/whole.ts";
import { promptCanary, upstreamCanary } from "./complaints.ts";
import type { Expectation } from "./expectation.ts";
import {
  callsOf,
  closeBreakers,
  errorOf,
  poll,
  readBreakers,
  readCounts,
  readSamples,
  refill,
  standard,
  tell,
  together,
  type Fault,
  type MatrixWorld,
} from "./observe.ts";
import type { Row } from "./row.ts";

/** Edges besides the usual two: `patient` has eight seconds and three attempts. */
type RefusalsWorld = MatrixWorld & { edges: { patient: WorldEdge } };

const studioFailed = { samples: { sidecar: "success", lm_studio_api: "failure" }, ladder: "C D" } as const;
const invalid: Expectation = { ...studioFailed, status: 502, code: "ERR_API_INVALID_RESPONSE", retry: "yes" };
const overload: Expectation = { ...studioFailed, status: 503, code: "ERR_API_OVERLOAD", retry: "yes" };

/** What LM Studio answers when it refuses: its words, and headers of its own. */
const refusal = (status: number, message: string, headers: readonly (readonly [string, string])[] = []): ChatMode => ({
  kind: "reply",
  status,
  body: objectError(message),
  headers,
});

/** Refusals and errors of LM Studio. */
export function refusalRows(world: RefusalsWorld): Row[] {
  const { studio } = world;
  const { once, thrice, patient } = world.edges;
  const row = (fault: Fault): Row => standard(world, fault);
  const says = (id: string, fault: string, mode: ChatMode, expect: Expectation, more?: Fault["more"]): Row =>
    row({ id, fault, inject: () => studio.answer(mode), expect, ...(more === undefined ? {} : { more }) });

  return [
    together("F18", "context exceeded", [
      says(
        "F18",
        "caller's prompt",
        { kind: "reply", status: 400, body: PAYLOADS.aKeepTokens },
        {
          status: 400,
          code: "ERR_VAL_INVALID_RANGE",
          samples: { sidecar: "success", lm_studio_api: "ignored" },
          retry: "no",
          ladder: "-",
        },
        {
          expected: ["100 of them: 400 ERR_VAL_INVALID_RANGE; lm_studio_api CLOSED with 0 failures and 100 ignored"],
          async run() {
            const told = new Set<string>();
            for (let batch = 0; batch < 10; batch += 1) {
              const question = { query: { prompt: promptCanary } };
              const replies = await Promise.all(Array.from({ length: 10 }, () => ask(once, question)));
              for (const reply of replies) told.add(tell(reply));
            }
            const { breakers } = await poll(
              () => readBreakers(once),
              (at) => at.breakers.lm_studio_api.counts["ignored"] === 100,
            );
            const { state, counts } = breakers.lm_studio_api;
            return [
              `100 of them: ${[...told].join(", ")}; lm_studio_api ${state} with ${counts["failure"]} failures and ${counts["ignored"]} ignored`,
            ];
          },
        },
      ),
      row({
        id: "F18",
        fault: "prompt all ours",
        question: { query: {} },
        inject: () => studio.answer({ kind: "reply", status: 400, body: PAYLOADS.aKeepTokens }),
        expect: { ...invalid, retry: "no" },
      }),
    ]),
    together("F19", "LM Studio refuses our token", [
      says("F19", "401", { kind: "reply", status: 401, body: PAYLOADS.bNoToken }, unauthorized),
      says("F19", "403", refusal(403, `${TEXTS.badToken} ${upstreamCanary}`), unauthorized),
    ]),
    together("F20", "the model is not loaded", [
      row({
        id: "F20",
        fault: "the configured one",
        inject: () => unload(world, "load"),
        expect: { ...overload, samples: { sidecar: "success", lm_studio_api: "failure" }, retry: "-", ladder: "C D" },
        more: {
          expected: [
            "Retry-After: from 1 to 20",
            "20 callers: 503 ERR_API_OVERLOAD, one load call",
            "after the load: 200 caption",
          ],
          async run({ once: alone }) {
            const seconds = Number(alone.headers.get("retry-after"));
            const replies = await Promise.all(
              Array.from({ length: 20 }, () => ask(thrice, { query: { fallback: "none" } })),
            );
            const told = [...new Set(replies.map(tell))].join(", ");
            const { loads } = studio.counts();
            studio.gates("load").open();
            const then = await poll(
              () => ask(thrice, { query: { fallback: "none" } }),
              ({ status }) => status === 200,
            );
            const calls = loads - loadsBefore === 1 ? "one load call" : `${loads - loadsBefore} load calls`;
            return [
              `Retry-After: ${seconds >= 1 && seconds <= 20 ? "from 1 to 20" : seconds}`,
              `20 callers: ${told}, ${calls}`,
              `after the load: ${tell(then)}`,
            ];
          },
        },
      }),
      row({
        id: "F20",
        fault: "one the caller names",
        question: { query: {} },
        inject: () => undefined,
        expect: {
          status: 200,
          code: null,
          samples: { sidecar: "success", lm_studio_api: "success" },
          retry: "-",
          ladder: "-",
        },
        more: {
          expected: [
            "names test/text-8b: 400 ERR_VAL_INVALID_RANGE, param model, after 1 call; not loaded for it",
            "samples of it: sidecar none, lm_studio_api none",
          ],
          async run() {
            const before = studio.counts().loads;
            const counts = await readCounts(thrice);
            studio.have([...CATALOGS.vision, ...CATALOGS.nothingLoaded.slice(1)]);
            const reply = await ask(thrice, { query: { model: "test/text-8b" } });
            const calls = callsOf(reply);
            const loaded = studio.counts().loads === before ? "not loaded for it" : "loaded for it";
            const none = { sidecar: "none", lm_studio_api: "none" } as const;
            return [
              `names test/text-8b: ${tell(reply)}, param ${errorOf(reply)?.param}, after ${calls} call; ${loaded}`,
              `samples of it: ${await readSamples(thrice, counts, none)}`,
            ];
          },
        },
      }),
    ]),
    says(
      "F21",
      "429, Retry-After 2",
      refusal(429, upstreamCanary, [["Retry-After", "2"]]),
      // Two seconds are all the time there is: no second call is begun.
      { ...studioFailed, status: 503, code: "ERR_API_RATE_LIMIT", retry: "no" },
      {
        expected: [
          "Retry-After >= 2",
          "with eight seconds: 200 caption after at least 2.000 s, 2 chats",
          "five in a row with Retry-After 100: OPEN for at least 100 s",
        ],
        async run({ once: alone }) {
          const seconds = Number(alone.headers.get("retry-after"));
          const wait = await patientGap(world, patient);
          studio.answer(refusal(429, upstreamCanary, [["Retry-After", "100"]]));
          await closeBreakers(once);
          for (let asked = 0; asked < 5; asked += 1) await ask(once, { query: { fallback: "none" } });
          const { breakers } = await poll(
            () => readBreakers(once),
            (at) => at.breakers.lm_studio_api.state === "OPEN",
          );
          const { state, retry_after_seconds: rest } = breakers.lm_studio_api;
          const length = (rest ?? 0) >= 99 ? "at least 100 s" : `${rest} s`;
          return [
            `Retry-After ${seconds >= 2 ? ">= 2" : seconds}`,
            wait,
            `five in a row with Retry-After 100: ${state} for ${length}`,
          ];
        },
      },
    ),
    {
      id: "F22",
      fault: "Retry-After in every form",
      expected: retryAfterForms.map(({ form, seen }) => `${form}: ${seen}`),
      async run() {
        const lines: string[] = [];
        for (const { form, headers } of retryAfterForms) {
          await refill(thrice, 3);
          await closeBreakers(thrice);
          studio.answer(refusal(429, upstreamCanary, headers()));
          const before = studio.chats().length;
          const reply = await ask(thrice, { query: { fallback: "none" } });
          const chats = studio.chats().length - before;
          const told = errorOf(reply)?.code === "ERR_RETRY_EXHAUSTED" ? "normal delay" : "gives up";
          lines.push(`${form}: ${told}, ${chats} ${chats === 1 ? "call" : "calls"}`);
          studio.answer({ kind: "stream" });
        }
        await world.reset();
        await world.settled("once", "thrice");
        return lines;
      },
    },
    says("F23", "500s", refusal(500, upstreamCanary), overload, {
      expected: ["five at once: exactly one transition, to open by run"],
      async run() {
        const { epoch } = (await readBreakers(once)).breakers.lm_studio_api;
        await Promise.all(Array.from({ length: 5 }, () => ask(once, { query: { fallback: "none" } })));
        const { breakers, events } = await poll(
          () => readBreakers(once),
          (at) => at.breakers.lm_studio_api.state === "OPEN",
        );
        const since = events.filter(
          ({ name, event, ...facts }) =>
            name === "lm_studio_api" && event === "transition" && Number(facts["epoch"]) > epoch,
        );
        const one =
          since.length === 1 && breakers.lm_studio_api.epoch === epoch + 1
            ? "exactly one transition"
            : `${since.length} transitions`;
        return [`five at once: ${one}, to ${String(since[0]?.["to"])} by ${String(since[0]?.["reason"])}`];
      },
    }),
  ];
}

const unauthorized: Expectation = { ...studioFailed, status: 502, code: "ERR_API_UNAUTHORIZED", retry: "no" };

let loadsBefore = 0;

/** Nothing is loaded any more, and a load stands still until its gate opens. */
async function unload(world: MatrixWorld, gate: string): Promise<void> {
  const { studio } = world;
  studio.gates(gate).shut();
  studio.loadBy({ kind: "load", gate });
  studio.have(CATALOGS.nothingLoaded);
  loadsBefore = studio.counts().loads;
  // A sidecar that found nobody at the port asks anew what there is.
  await world.p2.set({ kind: "refuse" });
  await world.sidecar.call({ method: "POST", target: "/v1/caption", type: "image/png", body: freshPicture() });
  await world.p2.set({ kind: "pass" });
}

/** One 429 with Retry-After 2, then a caption: how long the second call waited. */
async function patientGap({ studio }: MatrixWorld, patient: WorldEdge): Promise<string> {
  const before = studio.chats().length;
  studio.answer({ kind: "stream" });
  studio.enqueue(refusal(429, upstreamCanary, [["Retry-After", "2"]]));
  const arrivals: number[] = [];
  const asking = ask(patient, { query: { fallback: "none" } });
  for (const count of [1, 2]) {
    await studio.until(() => studio.chats().length >= before + count);
    arrivals.push(performance.now());
  }
  const reply = await asking;
  const gapMs = (arrivals[1] ?? 0) - (arrivals[0] ?? 0);
  const gap = gapMs >= 2000 ? "at least 2.000 s" : `${Math.round(gapMs)} ms`;
  return `with eight seconds: ${tell(reply)} after ${gap}, ${studio.chats().length - before} chats`;
}

/** Every form of the header, and what three attempts within two seconds come to. */
const retryAfterForms: readonly {
  form: string;
  headers: () => readonly (readonly [string, string])[];
  seen: string;
}[] = [
  { form: "date ahead", headers: () => [["Retry-After", dateIn(30_000)]], seen: "gives up, 1 call" },
  { form: "date past", headers: () => [["Retry-After", dateIn(-30_000)]], seen: "normal delay, 3 calls" },
  { form: "0", headers: () => [["Retry-After", "0"]], seen: "normal delay, 3 calls" },
  { form: "negative", headers: () => [["Retry-After", "-1"]], seen: "normal delay, 3 calls" },
  { form: "float 1.5", headers: () => [["Retry-After", "1.5"]], seen: "gives up, 1 call" },
  { form: "1e9", headers: () => [["Retry-After", "1e9"]], seen: "normal delay, 3 calls" },
  { form: "86400, past the time left", headers: () => [["Retry-After", "86400"]], seen: "gives up, 1 call" },
  { form: "3000000, more than a week", headers: () => [["Retry-After", "3000000"]], seen: "normal delay, 3 calls" },
  { form: "text", headers: () => [["Retry-After", "soon"]], seen: "normal delay, 3 calls" },
  { form: "empty", headers: () => [["Retry-After", ""]], seen: "normal delay, 3 calls" },
  {
    form: "two",
    headers: () => [
      ["Retry-After", "1"],
      ["Retry-After", "20"],
    ],
    seen: "gives up, 1 call",
  },
  { form: "retry-after-ms", headers: () => [["retry-after-ms", "60000"]], seen: "gives up, 1 call" },
];

function dateIn(ms: number): string {
  return new Date(Date.now() + ms).toUTCString();
}
