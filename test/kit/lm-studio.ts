import { createServer, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { plainAnswer, replyAnswer, streamAnswer, type Answer, type Asked } from "./lm-studio/answers.ts";
import { CATALOGS, listOpenAi, listV0, listV1, type Model } from "./lm-studio/catalog.ts";
import { createGates, type Gates } from "./lm-studio/gates.ts";
import type { ChatMode, DiscoveryMode, Interruptions, LoadMode, ReplyMode, Script } from "./lm-studio/modes.ts";
import { PAYLOADS, TEXTS, wrongPath } from "./lm-studio/payloads.ts";
import { end, sendAnswer } from "./lm-studio/wire.ts";

/** One request as it came. */
export type Recorded = {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  /** 1 for the first connection. */
  readonly connection: number;
  /** The client went away before the answer was out. */
  aborted: boolean;
};

/** A stand-in for LM Studio: a real server that speaks its protocol with all its known faults, as scripted. */
export type LmStudio = AsyncDisposable & {
  readonly port: number;
  readonly url: string;
  readonly gates: Gates;
  readonly requests: Recorded[];
  /** Requests to `POST /v1/chat/completions`. */
  chats(): Recorded[];
  /** Chats under way now, the most at once so far, load calls so far, open sockets now. */
  counts(): { working: number; most: number; loads: number; sockets: number };
  /** The answer to every chat that finds the queue empty. */
  answer(mode: ChatMode): void;
  /** The answers to the next chats. */
  enqueue(...modes: ChatMode[]): void;
  have(models: readonly Model[]): void;
  listBy(mode: DiscoveryMode): void;
  loadBy(mode: LoadMode): void;
  /** Resolves once `test` holds; looked at after every event of the server. */
  until(test: () => boolean): Promise<void>;
  /** Refuses connections until `accept`; open ones are cut. */
  refuse(): Promise<void>;
  accept(): Promise<void>;
  close(): Promise<void>;
};

/** Starts a stand-in; with no script it has one loaded model that sees and says "A lighthouse on a cliff." */
export async function startLmStudio(script: Script = {}): Promise<LmStudio> {
  const gates = createGates();
  const requests: Recorded[] = [];
  const queue: ChatMode[] = [...(script.queue ?? [])];
  const sockets = new Set<Socket>();
  const watchers = new Set<() => void>();
  const working = new Set<AbortController>();
  let models: readonly Model[] = script.models ?? CATALOGS.vision;
  let chat: ChatMode = script.chat ?? { kind: "stream" };
  let discovery: DiscoveryMode = script.discovery ?? { kind: "v1" };
  let load: LoadMode = script.load ?? { kind: "load" };
  let most = 0;
  let loads = 0;
  let connections = 0;
  const numbers = new WeakMap<Socket, number>();

  const changed = (): void => {
    for (const watcher of watchers) watcher();
  };
  const until = (test: () => boolean): Promise<void> =>
    new Promise((resolve) => {
      const look = (): void => {
        if (!test()) return;
        watchers.delete(look);
        resolve();
      };
      watchers.add(look);
      look();
    });

  const server = createServer((request, response) => {
    // The raw socket is written to: cuts in the middle of a head or a chunk are not HTTP a server library would send.
    response.on("error", () => undefined);
    serve(request).catch((error: unknown) => request.socket.destroy(error instanceof Error ? error : undefined));
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    connections += 1;
    numbers.set(socket, connections);
    changed();
    socket.on("error", changed);
    socket.once("close", () => {
      sockets.delete(socket);
      changed();
    });
    if (script.connection?.kind === "end") void end(socket, script.connection.how);
  });

  async function serve(request: IncomingMessage): Promise<void> {
    const { socket } = request;
    const gone = new AbortController();
    const parts: Buffer[] = [];
    for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
    const record: Recorded = {
      method: request.method ?? "",
      path: request.url ?? "",
      headers: request.headers,
      body: Buffer.concat(parts).toString("utf8"),
      connection: numbers.get(socket) ?? 0,
      aborted: false,
    };
    requests.push(record);
    let done = false;
    socket.once("close", () => {
      record.aborted = !done;
      gone.abort(new Error("the client left"));
      changed();
    });
    // A peer that only half-closes has not left; one that is gone shows it by closing.
    changed();
    await route(record, socket, gone.signal, () => {
      done = true;
    });
    changed();
  }

  async function route(record: Recorded, socket: Socket, signal: AbortSignal, done: () => void): Promise<void> {
    const reply = async (status: number, body: string): Promise<void> => {
      done();
      await sendAnswer(socket, replyAnswer({ kind: "reply", status, body }), {}, gates, signal);
    };
    if (script.token !== undefined && record.headers.authorization !== `Bearer ${script.token}`) {
      return reply(401, PAYLOADS.bNoToken);
    }
    const listing = listingFor(record);
    if (listing !== null) {
      await sendAnswer(socket, listing, discovery.kind === "reply" ? discovery : {}, gates, signal);
      if (!signal.aborted) done();
      return;
    }
    if (record.method === "POST" && record.path === "/api/v1/models/load")
      return loadModel(record, socket, signal, done);
    if (record.method === "POST" && record.path === "/v1/chat/completions")
      return converse(record, socket, signal, done);
    return reply(200, wrongPath(record.method, record.path));
  }

  function listingFor({ method, path }: Recorded): Answer | null {
    const bodies: Record<string, () => string> = {
      "/api/v1/models": () => listV1(models),
      "/api/v0/models": () => listV0(models),
      "/v1/models": () => listOpenAi(models),
    };
    const body = method === "GET" && Object.hasOwn(bodies, path) ? bodies[path] : undefined;
    if (body === undefined) return null;
    if (discovery.kind === "reply") return replyAnswer(discovery);
    const offered = {
      v1: ["/api/v1/models", "/api/v0/models", "/v1/models"],
      v0: ["/api/v0/models", "/v1/models"],
      openai: ["/v1/models"],
    };
    const known = offered[discovery.kind].includes(path);
    return replyAnswer({ kind: "reply", status: 200, body: known ? body() : wrongPath(method, path) });
  }

  async function loadModel(record: Recorded, socket: Socket, signal: AbortSignal, done: () => void): Promise<void> {
    loads += 1;
    changed();
    const mode = load;
    const { model: key = "" } = JSON.parse(record.body) as { model?: string };
    if (mode.gate !== undefined) await gates(mode.gate).pass(signal);
    done();
    if (mode.kind === "reply") return sendAnswer(socket, replyAnswer(mode), mode, gates, signal);
    const id = mode.id ?? key;
    const instance = { id, parallel: mode.parallel ?? 4, contextLength: mode.contextLength ?? 4096 };
    models = models.map((model) => (model.key === key ? { ...model, instances: [instance] } : model));
    const body = JSON.stringify({ type: "llm", instance_id: id, load_time_seconds: 9.1, status: "loaded" });
    return sendAnswer(socket, replyAnswer({ kind: "reply", status: 200, body }), {}, gates, signal);
  }

  async function converse(record: Recorded, socket: Socket, signal: AbortSignal, done: () => void): Promise<void> {
    const asked = readAsked(record.body);
    const refusal = judge(asked);
    if (refusal !== null) {
      done();
      return sendAnswer(socket, replyAnswer(refusal), {}, gates, signal);
    }
    const mode = queue.shift() ?? chat;
    const work = new AbortController();
    working.add(work);
    most = Math.max(most, working.size);
    changed();
    try {
      if (script.slots !== undefined && working.size > script.slots) {
        const { slots } = script;
        await until(() => signal.aborted || [...working].indexOf(work) < slots);
      }
      if (script.collide === true && working.size > 1) for (const each of working) each.abort(new Error(TEXTS.crashed));
      await Promise.race([speak(mode, asked, socket, signal, done), crash(work.signal)]);
    } catch (error) {
      if (!work.signal.aborted) throw error;
      done();
      await sendAnswer(socket, replyAnswer({ kind: "reply", status: 400, body: PAYLOADS.aCrashed }), {}, gates, signal);
    } finally {
      if (mode.kind !== "noise" && mode.holdAfterAbort !== undefined && signal.aborted)
        await gates(mode.holdAfterAbort).pass();
      working.delete(work);
      changed();
    }
  }

  async function speak(
    mode: ChatMode,
    asked: Asked,
    socket: Socket,
    signal: AbortSignal,
    done: () => void,
  ): Promise<void> {
    if (mode.kind === "noise") {
      done();
      socket.write(Buffer.from(mode.base64, "base64"));
      return end(socket, mode.how);
    }
    if (mode.kind === "comments") {
      const steps = (function* endless() {
        for (;;) yield { bytes: ": working\n\n", at: "role" } as const;
      })();
      const paused: Interruptions = { ...mode, pauses: [{ at: "role", gate: mode.gate }] };
      return sendAnswer(socket, { ...streamAnswer({ kind: "stream" }, asked), steps }, paused, gates, signal);
    }
    if (mode.refuseUntil !== undefined) {
      server.close();
      void gates(mode.refuseUntil)
        .pass()
        .then(() => listen(port));
    }
    const tokenPauses = mode.kind === "stream" && mode.tokenGate !== undefined ? gatePerToken(mode.tokenGate) : [];
    const interruptions = { ...mode, pauses: [...(mode.pauses ?? []), ...tokenPauses] };
    await sendAnswer(socket, answerFor(mode, asked), interruptions, gates, signal);
    if (!signal.aborted) done();
  }

  function judge({ model: wanted, hasImage, imageUrl }: ReturnType<typeof readAsked>): ReplyMode | null {
    const refuse = (body: string): ReplyMode => ({ kind: "reply", status: 400, body });
    let found = models.find(({ key, instances }) => instances.some(({ id }) => id === wanted || key === wanted));
    if (found === undefined) {
      found = models.find(({ key }) => key === wanted);
      if (found === undefined)
        return refuse(
          models.some(({ instances }) => instances.length > 0) ? PAYLOADS.bModelNotFound : PAYLOADS.bNoModels,
        );
      if (script.jit === false) return refuse(PAYLOADS.bNoModels);
      // Loading just in time evicts what was loaded before.
      const loaded = { ...found, instances: [{ id: found.key, parallel: 4, contextLength: 4096 }] };
      models = models.map((model) => (model.key === wanted ? loaded : Object.assign({}, model, { instances: [] })));
      found = loaded;
    }
    if (hasImage && !/^data:image\/(jpeg|png);base64,/.test(imageUrl)) return refuse(PAYLOADS.aBadImage);
    return hasImage && !found.seesImages ? refuse(PAYLOADS.aNoImages) : null;
  }

  const listen = (on: number): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(on, script.host ?? "127.0.0.1", resolve);
    });
  await listen(script.port ?? 0);
  const { port } = server.address() as AddressInfo;

  const refuse = async (): Promise<void> => {
    const closed = new Promise((resolve) => {
      server.close(resolve);
    });
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  const close = async (): Promise<void> => {
    if (server.listening) await refuse();
    else for (const socket of sockets) socket.destroy();
  };

  return {
    port,
    url: `http://127.0.0.1:${port}`,
    gates,
    requests,
    chats: () => requests.filter(({ path }) => path === "/v1/chat/completions"),
    counts: () => ({ working: working.size, most, loads, sockets: sockets.size }),
    answer: (mode) => {
      chat = mode;
    },
    enqueue: (...modes) => void queue.push(...modes),
    have: (next) => {
      models = next;
    },
    listBy: (mode) => {
      discovery = mode;
    },
    loadBy: (mode) => {
      load = mode;
    },
    until,
    refuse,
    accept: () => listen(port),
    close,
    [Symbol.asyncDispose]: close,
  };
}

function answerFor(mode: Exclude<ChatMode, { kind: "noise" } | { kind: "comments" }>, asked: Asked): Answer {
  switch (mode.kind) {
    case "stream":
      return streamAnswer(mode, asked);
    case "plain":
      return plainAnswer(mode, asked);
    case "reply":
      return replyAnswer(mode);
  }
}

/** A pause at every token that a scripted answer is likely to have. */
function gatePerToken(gate: string): { at: { tokens: number }; gate: string }[] {
  return Array.from({ length: 64 }, (_, index) => ({ at: { tokens: index + 1 }, gate }));
}

function crash(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
}

function readAsked(body: string): Asked & { hasImage: boolean; imageUrl: string } {
  const request = JSON.parse(body) as {
    model?: string;
    stream_options?: { include_usage?: boolean };
    messages?: { content?: unknown }[];
  };
  const parts = (request.messages ?? []).flatMap(({ content }): unknown[] => (Array.isArray(content) ? content : []));
  const image = parts.find(
    (part): part is { image_url: { url: string } } => typeof part === "object" && part !== null && "image_url" in part,
  );
  return {
    model: request.model ?? "",
    usage: request.stream_options?.include_usage === true,
    hasImage: image !== undefined,
    imageUrl: image?.image_url.url ?? "",
  };
}
