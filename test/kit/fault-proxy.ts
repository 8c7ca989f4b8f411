import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { createChunkBreaker, createMessageReader, type MessageReader } from "./fault-proxy/message.ts";
import { ownAnswer, type Direction, type ExchangeMode, type Fault, type ProxyMode } from "./fault-proxy/modes.ts";
import { pause, piecesOf, resetSocket, seededRandom, settle } from "./fault-proxy/sockets.ts";
import { stepsFor, type Step } from "./fault-proxy/steps.ts";
import { createGates, type Gates } from "./lm-studio/gates.ts";
import { createWatch } from "./watch.ts";

/** One connection as the proxy saw it. */
export type ProxyConnection = {
  /** 1 for the first. */
  readonly number: number;
  /** Bytes passed on to the target, and given to the client. */
  up: number;
  down: number;
  /** Requests that began on it, and how many of them met a fault. */
  exchanges: number;
  affected: number;
  /** Who ended it: the client or the target by going, a fault, or the proxy by `refuse`, `sever` or `close`. */
  end: "open" | "client" | "target" | "fault" | "proxy";
};

/**
 * A proxy in front of a loopback port. A mode holds from the next request on, also on a connection that is kept alive;
 * a request under way keeps the one it began with.
 */
export type FaultProxy = AsyncDisposable & {
  readonly port: number;
  readonly url: string;
  /** For a client that is to speak TLS, which only `no_tls` answers. */
  readonly tlsUrl: string;
  readonly gates: Gates;
  /** Every connection so far, first one first. */
  readonly connections: readonly ProxyConnection[];
  /** Connections accepted so far and open now, requests so far, and how many of those met a fault. */
  counts(): { opened: number; open: number; exchanges: number; affected: number };
  /** What requests that find the queue empty meet; resolves once it holds: a refused port is closed, or open again. */
  set(mode: ProxyMode): Promise<void>;
  /** What the next requests meet, one each. */
  enqueue(...modes: ExchangeMode[]): void;
  /** Where connections that open from now on go. */
  aim(port: number): void;
  /** Ends every connection now, by RST. */
  sever(): void;
  /** Resolves once `test` holds; looked at after every event of the proxy. */
  until(test: () => boolean): Promise<void>;
  close(): Promise<void>;
};

/** Where a proxy leads, and what it starts with; `seed` decides shares and jitter (default 1). */
export type FaultProxyOptions = { target: number; mode?: ProxyMode; seed?: number; gates?: Gates };

type Exchange = {
  fault: Fault;
  request: MessageReader;
  sent: Record<Direction, number>;
  answered: boolean;
  /** Stands between the bytes and the wire for `bad_chunk`. */
  distort: Record<Direction, (bytes: Uint8Array) => Uint8Array>;
};

type Line = {
  client: Socket;
  target: Socket | null;
  record: ProxyConnection;
  exchange: Exchange | null;
  muted: Record<Direction, boolean>;
  gone: AbortController;
};

const loopback = "127.0.0.1";

/** Starts a proxy on a free port; with no mode it passes everything on. */
export async function startFaultProxy(options: FaultProxyOptions): Promise<FaultProxy> {
  const gates = options.gates ?? createGates();
  const random = seededRandom(options.seed ?? 1);
  const queue: ExchangeMode[] = [];
  const connections: ProxyConnection[] = [];
  const lines = new Set<Line>();
  const { changed, until } = createWatch();
  let mode: ExchangeMode = { kind: "pass" };
  let { target: targetPort } = options;

  const server = createServer({ allowHalfOpen: true, noDelay: true }, accept);

  function accept(client: Socket): void {
    const record: ProxyConnection = {
      number: connections.length + 1,
      up: 0,
      down: 0,
      exchanges: 0,
      affected: 0,
      end: "open",
    };
    const muted = { up: false, down: false };
    const line: Line = { client, target: null, record, exchange: null, muted, gone: new AbortController() };
    connections.push(record);
    lines.add(line);
    // How a connection went is read from its close; without a listener the error would end the test.
    client.on("error", () => undefined);
    client.once("close", (failed) => {
      end(line, "client");
      line.gone.abort(new Error("the connection is closed"));
      if (failed) resetSocket(line.target);
      else line.target?.destroy();
      lines.delete(line);
      changed();
    });
    const next = queue[0] ?? mode;
    if ((next.kind === "reset" || next.kind === "empty") && next.at === "accept") begin(line);
    settle(carryUp(line), () => [client, line.target]);
    changed();
  }

  function begin(line: Line): Exchange {
    const drawn = queue.shift() ?? mode;
    const struck = drawn.kind !== "pass" && (drawn.share === undefined || random() < drawn.share);
    const fault: Fault = struck ? drawn : { kind: "pass" };
    const same = (bytes: Uint8Array): Uint8Array => bytes;
    const distort = { up: same, down: same };
    if (fault.kind === "bad_chunk") distort[fault.direction ?? "down"] = createChunkBreaker(fault.goodChunks ?? 0);
    const exchange = { fault, request: createMessageReader(), sent: { up: 0, down: 0 }, answered: false, distort };
    line.exchange = exchange;
    line.record.exchanges += 1;
    if (struck) line.record.affected += 1;
    strike(line, fault);
    changed();
    return exchange;
  }

  /** What some faults do before anything is passed on. */
  function strike(line: Line, fault: Fault): void {
    switch (fault.kind) {
      case "reset":
        return reset(line, "fault");
      case "empty":
        return finish(line);
      case "garbage":
      case "no_tls":
      case "answer": {
        const own = ownAnswer(fault) ?? Buffer.alloc(0);
        line.client.write(own);
        line.record.down += own.length;
        return finish(line);
      }
      case "black_hole":
        line.muted = { up: true, down: true };
        return;
      case "pass":
      case "reset_after":
      case "cut":
      case "silence":
      case "bandwidth":
      case "latency":
      case "slice":
      case "bad_chunk":
        return;
    }
  }

  async function carryUp(line: Line): Promise<void> {
    for await (const bytes of piecesOf(line.client)) {
      const known = line.exchange;
      const over = known === null || (known.answered && (known.request.owed() ?? 0) === 0);
      const exchange = over ? begin(line) : known;
      exchange.request.read(bytes);
      if (!line.muted.up && !line.client.destroyed) await carry(line, exchange, "up", bytes, openTarget(line));
    }
    end(line, "client");
    // Who goes while a fault holds the answer back must find the door open: nothing would come down to close it.
    if (line.target === null || line.exchange?.fault.kind !== "pass") line.client.end();
    line.target?.end();
  }

  async function carryDown(line: Line, target: Socket): Promise<void> {
    for await (const bytes of piecesOf(target)) {
      const { exchange } = line;
      if (exchange === null) continue;
      exchange.answered = true;
      if (!line.muted.down) await carry(line, exchange, "down", bytes, line.client);
    }
    // Silence is kept also when the target gives up.
    if (line.muted.down) return;
    end(line, "target");
    line.client.end();
  }

  function openTarget(line: Line): Socket {
    if (line.target !== null) return line.target;
    const target = connect({ host: loopback, port: targetPort, allowHalfOpen: true, noDelay: true });
    line.target = target;
    target.on("error", () => undefined);
    target.once("close", (failed) => {
      if (failed && !line.muted.down) reset(line, "target");
    });
    settle(carryDown(line, target), () => [target, line.client]);
    return target;
  }

  async function carry(
    line: Line,
    exchange: Exchange,
    direction: Direction,
    bytes: Uint8Array,
    to: Socket,
  ): Promise<void> {
    const given = exchange.distort[direction](bytes);
    for (const step of stepsFor(exchange.fault, direction, exchange.sent[direction], given, random)) {
      await perform(line, exchange, direction, step, to);
      if (line.muted[direction] || to.destroyed || to.writableEnded) return;
    }
  }

  async function perform(line: Line, exchange: Exchange, direction: Direction, step: Step, to: Socket): Promise<void> {
    const { signal } = line.gone;
    switch (step.kind) {
      case "wait":
        return pause(step.ms, signal);
      case "gate":
        return gates(step.gate).pass(signal);
      case "end":
        return endBy(line, direction, step.how, to);
      case "send": {
        const roomy = to.write(step.bytes);
        exchange.sent[direction] += step.bytes.length;
        line.record[direction] += step.bytes.length;
        changed();
        if (!roomy) await once(to, "drain", { signal });
      }
    }
  }

  function endBy(line: Line, direction: Direction, how: "fin" | "rst" | "silence", to: Socket): void {
    if (how === "rst") return reset(line, "fault");
    line.muted[direction] = true;
    if (how === "silence") return;
    if (direction === "down") finish(line);
    else to.end();
  }

  /** Ends the client's connection in an orderly way; what it still sends is read and dropped. */
  function finish(line: Line): void {
    end(line, "fault");
    line.muted = { up: true, down: true };
    line.target?.destroy();
    line.client.end();
  }

  function reset(line: Line, by: ProxyConnection["end"]): void {
    end(line, by);
    resetSocket(line.target);
    resetSocket(line.client);
  }

  function sever(): void {
    for (const line of lines) reset(line, "proxy");
  }

  async function refuse(): Promise<void> {
    const closed = server.listening ? once(server, "close") : null;
    server.close();
    sever();
    await closed;
  }

  const listen = async (port: number): Promise<void> => {
    server.listen(port, loopback);
    await once(server, "listening");
  };
  await listen(0);
  const { port } = server.address() as AddressInfo;

  const set = async (next: ProxyMode): Promise<void> => {
    if (next.kind === "refuse") return refuse();
    mode = next;
    if (!server.listening) await listen(port);
  };
  if (options.mode !== undefined) await set(options.mode);

  return {
    port,
    url: `http://${loopback}:${port}`,
    tlsUrl: `https://${loopback}:${port}`,
    gates,
    connections,
    counts: () => ({
      opened: connections.length,
      open: lines.size,
      exchanges: connections.reduce((sum, { exchanges }) => sum + exchanges, 0),
      affected: connections.reduce((sum, { affected }) => sum + affected, 0),
    }),
    set,
    enqueue: (...modes) => void queue.push(...modes),
    aim: (next) => {
      targetPort = next;
    },
    sever,
    until,
    close: refuse,
    [Symbol.asyncDispose]: refuse,
  };
}

function end(line: Line, by: ProxyConnection["end"]): void {
  if (line.record.end === "open") line.record.end = by;
}
