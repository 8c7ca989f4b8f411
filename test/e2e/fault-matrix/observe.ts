import * as z from "zod";
import { breakerNames, type BreakerName } from "../../../shared/breaker-state.ts";
import { captionSchema } from "../../../shared/wire.ts";
import { ask, freshPicture, type Question, type Reply } from "../../kit/ask.ts";
import type { Settings } from "../../kit/environment.ts";
import type { World, WorldEdge } from "../../kit/whole.ts";
import { complaintsOf, degradedComplaints, envelope, leaks, promptCanary, tokenCanary } from "./complaints.ts";
import { expectedLines, type Expectation } from "./expectation.ts";
import type { Row } from "./row.ts";

/** What a row needs of its world; a world with more edges serves too. */
export type MatrixWorld = World<"once" | "thrice">;

/**
 * Limits of every half that make a fault show in tenths of a second. A caption is stale as soon as it is kept, so the
 * default chain is asked as it stands and no healthy request is answered from the cache.
 */
export const quickSettings = {
  timeout_seconds: 2,
  timeout_connect_seconds: 0.5,
  timeout_first_token_seconds: 0.6,
  timeout_idle_seconds: 0.4,
  retry_initial_delay: 0.05,
  fallback_cache_ttl: 0,
  lm_studio_model: "test/vision-4b",
  lm_studio_api_token: tokenCanary,
} as const satisfies Settings;

/** One fault of the matrix. */
export type Fault = {
  id: string;
  fault: string;
  /** Makes every call meet the fault from now on. */
  inject: () => Promise<void> | void;
  /** After each answer: lets go what the fault has held. */
  release?: () => Promise<void> | void;
  /** What is asked beside the picture; left out: a prompt with the canary. */
  question?: Omit<Question, "image">;
  /** A picture that was not sent before; left out: a small healthy one. */
  picture?: () => Uint8Array;
  /** The calls are made one after the other, as they are with `release`. */
  oneAtATime?: true;
  /** Other edges than the world's own two. */
  edges?: { once: WorldEdge; thrice: WorldEdge };
  expect: Expectation;
  /** Further facts, seen while the fault lasts and with closed breakers. */
  more?: { expected: readonly string[]; run: (seen: Seen) => Promise<readonly string[]> };
};

/** What was seen before the further facts. */
export type Seen = {
  once: Reply;
  thrice: Reply | null;
  /** Complaints that are no part of the row's own facts. */ faults: string[];
};

/** A fault as a row: asked once, with three attempts, and with the default chain, then everything must be well again. */
export function standard(world: MatrixWorld, fault: Fault): Row {
  const { id, expect, more } = fault;
  return {
    id,
    fault: fault.fault,
    expected: [...expectedLines(expect), ...(more?.expected ?? []), "also: all well"],
    run: () => observe(world, fault),
  };
}

/** Several faults of one number as one row; each line begins with its fault. */
export function together(id: string, fault: string, rows: readonly Row[]): Row {
  const named = (row: Row, lines: readonly string[]): string[] => lines.map((line) => `${row.fault}: ${line}`);
  return {
    id,
    fault,
    expected: rows.flatMap((row) => named(row, row.expected)),
    async run() {
      const seen: string[] = [];
      for (const row of rows) seen.push(...named(row, await row.run()));
      return seen;
    },
  };
}

async function observe(world: MatrixWorld, fault: Fault): Promise<string[]> {
  const { expect, release } = fault;
  const sideBySide = release === undefined && fault.oneAtATime !== true;
  const { once, thrice } = fault.edges ?? world.edges;
  const faults: string[] = [];
  const lines: string[] = [];
  const picture = fault.picture ?? freshPicture;
  const question: Question = { query: { prompt: promptCanary }, ...fault.question };
  const bare: Question = { ...question, query: { ...question.query, fallback: "none" } };
  const put = async (edge: WorldEdge, asked: Question): Promise<Reply> => {
    const reply = await ask(edge, { image: picture(), ...asked });
    faults.push(...complaintsOf(reply, quickSettings.timeout_seconds * 1000));
    await release?.();
    return reply;
  };
  try {
    await refill(world.edges.thrice, fault.edges === undefined ? 5 : 0);
    const stored = picture();
    const kept = await ask(fault.edges === undefined ? once : world.edges.once, { ...question, image: stored });
    if (kept.status !== 200) faults.push(`nothing could be stored: ${kept.text}`);
    // What healthy calls have to tell comes late to the object, and is no sample of this row.
    for (const edge of [once, thrice]) await closeBreakers(edge);

    const before = await readCounts(once);
    await fault.inject();
    const exchanges = world.p1.counts().exchanges;
    const alone = async (): Promise<Reply> => {
      const reply = await put(once, bare);
      lines.push(`once: ${tell(reply)}`, `samples: ${await readSamples(once, before, expect.samples)}`);
      return reply;
    };
    const threefold = async (): Promise<{ reply: Reply | null; told: string[]; calls: number }> => {
      if (expect.retry === "-") return { reply: null, told: [], calls: 0 };
      const replies = [await put(thrice, bare)];
      const opens = expect.retry === "yes" && Object.values(expect.samples).includes("failure");
      if (opens) replies.push(await put(thrice, bare));
      const told = replies.map((reply, at) => `${at === 0 ? "three attempts" : "next"}: ${tellCalls(reply)}`);
      return { reply: replies[0] ?? null, told, calls: replies.reduce((sum, reply) => sum + callsOf(reply), 0) };
    };
    // Side by side where neither takes anything from the other: time, or what it waits for.
    const single = alone();
    if (!sideBySide) await single;
    const [first, repeated] = await Promise.all([single, threefold()]);
    lines.push(...repeated.told);
    const carried = world.p1.counts().exchanges - exchanges;
    const told = repeated.calls + 1;
    if (carried > 0 && carried !== told) faults.push(`${carried} calls went out, the answers tell of ${told}`);
    if (expect.code !== null) {
      const [withEntry, without] = sideBySide
        ? await Promise.all([put(once, { ...question, image: stored }), put(once, question)])
        : [await put(once, { ...question, image: stored }), await put(once, question)];
      for (const reply of [withEntry, without]) faults.push(...degradedComplaints(reply, expect.code));
      lines.push(`ladder: with an entry ${tellSource(withEntry)}, without ${tellSource(without)}`);
    }
    if (fault.more !== undefined) {
      for (const edge of [once, thrice]) await closeBreakers(edge);
      lines.push(...(await fault.more.run({ once: first, thrice: repeated.reply, faults })));
    }
  } finally {
    await release?.();
    await world.reset();
  }
  await world.settled("once", "thrice");
  faults.push(...(await leaks(world)));
  lines.push(faults.length === 0 ? "also: all well" : `also: ${[...new Set(faults)].join("; ")}`);
  return lines;
}

/** The error of an answer; null = it is a caption, or no answer of ours. */
export function errorOf(reply: Reply): z.output<typeof envelope>["error"] | null {
  const parsed = envelope.safeParse(reply.body);
  return parsed.success ? parsed.data.error : null;
}

/** Status and code, or `200 caption`. */
export function tell(reply: Reply): string {
  return `${reply.status} ${errorOf(reply)?.code ?? (reply.status === 200 ? "caption" : reply.text.slice(0, 80))}`;
}

/** Where a caption came from, else status and code. */
export function tellSource(reply: Reply): string {
  const parsed = captionSchema.safeParse(reply.body);
  return parsed.success ? parsed.data.source : tell(reply);
}

/** Calls made for an answer: what it tells of, 1 where it tells nothing. */
export function callsOf(reply: Reply): number {
  return Number(errorOf(reply)?.details["attempts"] ?? 1);
}

/** Status, code, last cause where it is another, and the number of calls. */
export function tellCalls(reply: Reply): string {
  const calls = callsOf(reply);
  const error = errorOf(reply);
  const cause = error?.details["last_cause"];
  const code = typeof cause === "object" && cause !== null && "code" in cause ? String(cause.code) : error?.code;
  return `${tell(reply)}${code === error?.code ? "" : ` of ${code}`} after ${calls} ${calls === 1 ? "call" : "calls"}`;
}

/** What both breakers have counted, by the edge's route. */
export type BreakerCounts = Record<BreakerName, Readonly<Record<string, number>>>;

const readingSchema = z.object({
  data: z.array(
    z.object({
      name: z.enum(breakerNames),
      state: z.string(),
      epoch: z.number(),
      attempt: z.number(),
      leases: z.number(),
      retry_after_seconds: z.number().nullable(),
      counts: z.record(z.string(), z.number()),
    }),
  ),
  events: z.array(z.looseObject({ name: z.string(), event: z.string() })),
});

/** One breaker as the route shows it. */
export type BreakerFacts = z.output<typeof readingSchema>["data"][number];

/** Both breakers and the last changes, as the edge's route shows them. */
export async function readBreakers(
  edge: WorldEdge,
): Promise<{ breakers: Record<BreakerName, BreakerFacts>; events: z.output<typeof readingSchema>["events"] }> {
  const { body, status, text } = await ask(edge, { method: "GET", path: "/v1/circuit-breakers" });
  if (status !== 200) throw new Error(`the breakers cannot be read: ${status} ${text}`);
  return readingOf(body);
}

/** The body of that route. */
export function readingOf(body: unknown): {
  breakers: Record<BreakerName, BreakerFacts>;
  events: z.output<typeof readingSchema>["events"];
} {
  const { data, events } = readingSchema.parse(body);
  const of = (name: BreakerName): BreakerFacts => {
    const found = data.find((each) => each.name === name);
    if (found === undefined) throw new Error(`no breaker ${name}`);
    return found;
  };
  return { breakers: { sidecar: of("sidecar"), lm_studio_api: of("lm_studio_api") }, events };
}

/** The counters of both breakers. */
export async function readCounts(edge: WorldEdge): Promise<BreakerCounts> {
  const { breakers } = await readBreakers(edge);
  return { sidecar: breakers.sidecar.counts, lm_studio_api: breakers.lm_studio_api.counts };
}

/** Late ones are left out: they belong to calls from before the breaker was closed by hand. */
const kinds = ["success", "failure", "slow", "ignored"] as const;

/** What was counted since, as `failure`, `2 failure`, `success and failure`, or `none`. */
export function tellDifference(before: BreakerCounts, after: BreakerCounts, name: BreakerName): string {
  const since = (kind: string): number => (after[name][kind] ?? 0) - (before[name][kind] ?? 0);
  const counted = kinds.filter((kind) => since(kind) > 0);
  if (counted.length === 0) return "none";
  return counted.map((kind) => (since(kind) === 1 ? kind : `${since(kind)} ${kind}`)).join(" and ");
}

/**
 * The samples since `before`, asked for until they are what is expected or `boundMs` are over: an isolate tells the
 * object of a success half a second later.
 */
export async function readSamples(
  edge: WorldEdge,
  before: BreakerCounts,
  expected: Expectation["samples"],
  boundMs = 2000,
): Promise<string> {
  const look = async (): Promise<string> => {
    const after = await readCounts(edge);
    const of = (name: BreakerName): string => {
      const seen = tellDifference(before, after, name);
      // The route counts a token that was given back without a sample as ignored.
      return expected[name] === "none" && seen === "ignored" ? "none" : seen;
    };
    return breakerNames.map((name) => `${name} ${of(name)}`).join(", ");
  };
  const wanted = breakerNames.map((name) => `${name} ${expected[name]}`).join(", ");
  return poll(look, (seen) => seen === wanted, boundMs);
}

/** Asks until `test` holds or `boundMs` are over; gives the last answer. For what has no event to wait for. */
export async function poll<T>(look: () => Promise<T>, test: (seen: T) => boolean, boundMs = 3000): Promise<T> {
  const until = performance.now() + boundMs;
  let seen = await look();
  while (!test(seen) && performance.now() < until) {
    // Looking without a pause would take the processor from what is waited for.
    await new Promise((resolve) => {
      setTimeout(resolve, 15);
    });
    seen = await look();
  }
  return seen;
}

/** Closes both breakers of an edge and empties their windows; the fault goes on. */
export async function closeBreakers(edge: WorldEdge): Promise<void> {
  for (const name of breakerNames) {
    await ask(edge, { path: `/v1/circuit-breakers/${name}/reset`, body: null });
  }
}

const budgetSchema = z.object({ isolate: z.object({ retry_budget_tokens: z.number() }) });

/** Tokens of an edge's retry budget. */
export async function readBudget(edge: WorldEdge): Promise<number> {
  const { body } = await ask(edge, { method: "GET", path: "/v1/status" });
  return budgetSchema.parse(body).isolate.retry_budget_tokens;
}

/** Makes healthy calls until an edge's retry budget holds at least `tokens`: each pays in a quarter. */
export async function refill(edge: WorldEdge, tokens: number): Promise<void> {
  for (let had = await readBudget(edge); had < tokens; had = await readBudget(edge)) {
    const calls = Array.from({ length: Math.ceil((tokens - had) * 4) }, () => ask(edge));
    const statuses = (await Promise.all(calls)).map(({ status }) => status);
    if (!statuses.includes(200)) throw new Error(`no healthy call refills the retry budget: ${statuses.join(", ")}`);
  }
}
