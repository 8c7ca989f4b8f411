import { ask, freshPicture } from "../../kit/ask.ts";
import type { World, WorldEdge } from "../../kit/whole.ts";
import { promptCanary, upstreamCanary } from "./complaints.ts";
import type { Expectation } from "./expectation.ts";
import { closeBreakers, standard, tell, together, type Fault } from "./observe.ts";
import type { Row } from "./row.ts";

/** Edges that look for the sidecar where it cannot be found, each without a retry and with three attempts. */
type Names = "once" | "thrice" | "namelessOnce" | "namelessThrice" | "tlsOnce" | "tlsThrice";

const boxGone = { samples: { sidecar: "failure", lm_studio_api: "none" }, ladder: "C" } as const;
const studioFailed = { samples: { sidecar: "success", lm_studio_api: "failure" }, ladder: "C D" } as const;
const unavailable: Expectation = { ...boxGone, status: 503, code: "ERR_CONN_UNAVAILABLE", retry: "yes" };
const timedOut: Expectation = { ...boxGone, status: 504, code: "ERR_CONN_TIMEOUT", retry: "yes" };

/** A page as a tunnel or a proxy shows it in the sidecar's place. */
const page = `<html><body><script>alert("${upstreamCanary}")</script></body></html>`;

/** Faults of the way between the halves, and between the sidecar and LM Studio. */
export function networkRows(world: World<Names>): Row[] {
  const { once } = world.edges;
  const row = (fault: Fault): Row => standard(world, fault);
  /** The answer of somebody else in the sidecar's place. */
  const foreign = (status: number, headers: readonly (readonly [string, string])[] = []): Promise<void> =>
    world.p1.set({ kind: "answer", status, headers: [["Content-Type", "text/html"], ...headers], body: page });
  /** Whether any of the page stands in a log line, or in the answers seen. */
  const pageLeak = (faults: readonly string[]): string => {
    const seen = world.log().includes("<script>") || faults.some((fault) => fault.includes(upstreamCanary));
    return `the page ${seen ? "leaks" : "stands in no body and no log"}`;
  };
  const noPage: Fault["more"] = {
    expected: ["the page stands in no body and no log"],
    run: async ({ faults }) => [pageLeak(faults)],
  };
  const misconfigured = async (): Promise<string> => {
    const id = `matrix-access-${Math.random().toString(36).slice(2)}`;
    await ask(once, { query: { fallback: "none" }, headers: { "x-request-id": id } });
    const line = await once.logged(id);
    return line.includes("misconfiguration") ? "logged as misconfiguration" : `logged: ${line}`;
  };
  const locked = (status: number, headers: readonly (readonly [string, string])[] = []): Row =>
    row({
      id: "F24",
      fault: `Access ${status}`,
      inject: () => foreign(status, headers),
      expect: { ...unavailable, retry: "no" },
      more: { expected: ["logged as misconfiguration"], run: async () => [await misconfigured()] },
    });

  return [
    together("F1", "not running", [
      row({
        id: "F1",
        fault: "sidecar not running",
        inject: () => world.p1.set({ kind: "refuse" }),
        expect: unavailable,
        more: {
          expected: ["opens at the 5th", "then 503 ERR_CB_OPEN in less than 10 ms, 0 connections opened"],
          run: () => openingAtTheFifth(once, world.p1),
        },
      }),
      row({
        id: "F1",
        fault: "LM Studio not running",
        inject: () => world.p2.set({ kind: "refuse" }),
        expect: { ...studioFailed, status: 503, code: "ERR_CONN_REFUSED", retry: "yes" },
        more: {
          expected: ["opens at the 5th", "then 503 ERR_CB_OPEN in less than 10 ms, 0 connections opened"],
          run: () => openingAtTheFifth(once, world.p2),
        },
      }),
    ]),
    row({
      id: "F2",
      fault: "black hole: accepted, never answered",
      inject: () => world.p1.set({ kind: "black_hole" }),
      expect: timedOut,
      more: {
        expected: ["answered within the head limit + 0.2 s"],
        run: async ({ once: { elapsedMs } }) => [
          elapsedMs <= 700 ? "answered within the head limit + 0.2 s" : `answered after ${Math.round(elapsedMs)} ms`,
        ],
      },
    }),
    together("F3", "the sidecar's name", [
      row({
        id: "F3",
        fault: "unknown",
        edges: { once: world.edges.namelessOnce, thrice: world.edges.namelessThrice },
        inject: () => undefined,
        expect: { ...unavailable, ladder: "-" },
      }),
      row({ id: "F3", fault: "tunnel down, 530", inject: () => foreign(530), expect: unavailable, more: noPage }),
    ]),
    row({
      id: "F4",
      fault: "TLS handshake fails",
      edges: { once: world.edges.tlsOnce, thrice: world.edges.tlsThrice },
      inject: () => world.p1.set({ kind: "no_tls" }),
      expect: { ...unavailable, ladder: "-" },
      more: {
        expected: ["logged with WARNING as ERR_CONN_UNAVAILABLE"],
        run: async () => {
          const id = "matrix-tls-1";
          await ask(world.edges.tlsOnce, { query: { fallback: "none" }, headers: { "x-request-id": id } });
          const line = JSON.parse(await world.edges.tlsOnce.logged(id)) as { level: string; error_code: string };
          return [`logged with ${line.level} as ${line.error_code}`];
        },
      },
    }),
    row({
      id: "F5",
      fault: "reset before the head",
      inject: () => world.p1.set({ kind: "reset" }),
      expect: unavailable,
    }),
    row({
      id: "F6",
      fault: "reset in the middle of the sidecar's answer",
      inject: () => world.p1.set({ kind: "reset_after", bytes: 600 }),
      expect: { ...boxGone, status: 502, code: "ERR_API_INVALID_RESPONSE", retry: "yes" },
      more: {
        expected: ["asked again: 502 ERR_API_INVALID_RESPONSE, nothing was kept"],
        run: async () => {
          const image = freshPicture();
          await ask(once, { image, query: { fallback: "none" } });
          return [`asked again: ${tell(await ask(once, { image }))}, nothing was kept`];
        },
      },
    }),
    together("F7", "empty reply", [
      row({ id: "F7", fault: "of the sidecar", inject: () => world.p1.set({ kind: "empty" }), expect: unavailable }),
      row({
        id: "F7",
        fault: "of LM Studio",
        inject: () => world.p2.set({ kind: "empty" }),
        expect: { ...studioFailed, status: 503, code: "ERR_CONN_UNAVAILABLE", retry: "yes" },
      }),
    ]),
    together("F8", "garbage, then close", [
      row({
        id: "F8",
        fault: "from the sidecar",
        inject: () => world.p1.set({ kind: "garbage" }),
        expect: unavailable,
        more: { expected: ["logs: escaped and cut"], run: async () => [garbageInLogs(world.log())] },
      }),
      row({
        id: "F8",
        fault: "from LM Studio",
        inject: () => world.p2.set({ kind: "garbage" }),
        expect: { ...studioFailed, status: 502, code: "ERR_API_INVALID_RESPONSE", retry: "yes" },
        more: { expected: ["logs: escaped and cut"], run: async () => [garbageInLogs(world.log())] },
      }),
    ]),
    together("F12", "10 KB/s on the way up", [
      row({
        id: "F12",
        fault: "large picture",
        picture: largePicture,
        inject: () => world.p1.set({ kind: "bandwidth", bytesPerSecond: 10_000, direction: "up" }),
        expect: timedOut,
      }),
      row({
        id: "F12",
        fault: "small picture",
        inject: () => world.p1.set({ kind: "bandwidth", bytesPerSecond: 10_000, direction: "up" }),
        expect: {
          status: 200,
          code: null,
          samples: { sidecar: "success", lm_studio_api: "success" },
          retry: "-",
          ladder: "-",
        },
      }),
    ]),
    together("F24", "an answer without the sidecar's mark", [
      row({ id: "F24", fault: "503 with HTML", inject: () => foreign(503), expect: unavailable, more: noPage }),
      row({ id: "F24", fault: "522", inject: () => foreign(522), expect: timedOut, more: noPage }),
      row({ id: "F24", fault: "524", inject: () => foreign(524), expect: timedOut, more: noPage }),
      locked(302, [["Location", "https://login.example/"]]),
      locked(401),
      locked(403),
    ]),
  ];
}

/** A picture of 30 KB: what stands behind its end is read and dropped. */
function largePicture(): Uint8Array {
  return Buffer.concat([freshPicture(), Buffer.alloc(30_000, 7)]);
}

/** Five failures one after the other, then what is refused, how fast, and whether anybody was called. */
async function openingAtTheFifth(edge: WorldEdge, proxy: World<Names>["p1"]): Promise<string[]> {
  await closeBreakers(edge);
  const codes: string[] = [];
  for (let asked = 0; asked < 6; asked += 1) {
    codes.push(tell(await ask(edge, { query: { fallback: "none", prompt: promptCanary } })));
  }
  const first = codes.findIndex((code) => code.includes("ERR_CB_OPEN"));
  // The way is free again: what is not tried now is not tried because of the breaker.
  await proxy.set({ kind: "pass" });
  const opened = proxy.counts().opened;
  const times: number[] = [];
  const refusals = new Set<string>();
  for (let asked = 0; asked < 15; asked += 1) {
    const reply = await ask(edge, { query: { fallback: "none" } });
    refusals.add(tell(reply));
    times.push(reply.elapsedMs);
  }
  const median = times.sort((left, right) => left - right)[7] ?? Infinity;
  const fast = median < 10 ? "less than 10 ms" : `${median.toFixed(1)} ms`;
  const calls = proxy.counts().opened - opened;
  return [`opens at the ${first}th`, `then ${[...refusals].join(", ")} in ${fast}, ${calls} connections opened`];
}

/** Bytes of no protocol may stand in a log as JSON spells them, and never at length. */
function garbageInLogs(log: string): string {
  // oxlint has no quarrel with a text: the raw controls of the proxy's garbage, none of which JSON leaves as it is.
  const raw = ["\u001b", "\u0000", "\u0007"].filter((letter) => log.includes(letter));
  const longest = Math.max(0, ...[...log.matchAll(/(?:\u0080?noise )+/g)].map(([found]) => found.length));
  return raw.length === 0 && longest <= 500 ? "logs: escaped and cut" : `logs: ${raw.length} raw, ${longest} long`;
}
