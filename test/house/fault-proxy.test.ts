import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request, type IncomingMessage, type ServerResponse } from "node:http";
import { request as tlsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { startFaultProxy, type FaultProxy, type FaultProxyOptions } from "../kit/fault-proxy.ts";
import { garbage, type ExchangeMode } from "../kit/fault-proxy/modes.ts";
import { createGate } from "../kit/lm-studio/gates.ts";
import { openRaw, rawRequest, sendRaw } from "../kit/raw-client.ts";

/** Calls that have reached the target whole. */
let asked = 0;
/** A target that says how long the body was; `/chunks` answers in four chunks of a hundred bytes. */
const target = createServer((incoming, response) => answer(incoming, response));
function answer(incoming: IncomingMessage, response: ServerResponse): void {
  let length = 0;
  incoming.on("data", (part: Buffer) => {
    length += part.length;
  });
  incoming.once("end", () => {
    asked += 1;
    if (incoming.url !== "/chunks") {
      response.end(`read ${length} bytes`);
      return;
    }
    for (let chunk = 0; chunk < 4; chunk += 1) response.write(`chunk ${chunk}`.padEnd(100, "."));
    response.end();
  });
}
target.on("clientError", (_, socket) => socket.destroy());
target.listen(0, "127.0.0.1");
await once(target, "listening");
const { port } = target.address() as AddressInfo;
after(() => {
  target.closeAllConnections();
  target.close();
});

const start = (options: Partial<FaultProxyOptions> = {}): Promise<FaultProxy> =>
  startFaultProxy({ target: port, ...options });

/** One call as Node's client makes it: status and body, or the code of its error. */
function ask(proxy: FaultProxy, path = "/", body = "hello"): Promise<string> {
  return new Promise((resolve) => {
    const outgoing = request(`${proxy.url}${path}`, { method: "POST", agent: false }, (response) => {
      let text = "";
      // What breaks from here on breaks the body, and the response says so.
      outgoing.off("error", failed).on("error", () => undefined);
      response.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      response.once("end", () => resolve(`${response.statusCode} ${text}`));
      response.once("error", (error: NodeJS.ErrnoException) => resolve(`${text}|${error.code}`));
    });
    const failed = (error: NodeJS.ErrnoException): void => resolve(String(error.code));
    outgoing.once("error", failed);
    outgoing.end(body);
  });
}

const seen: readonly (readonly [title: string, ExchangeMode, path: string, answer: RegExp, reachesTarget: boolean])[] =
  [
    ["pass hands everything on", { kind: "pass" }, "/", /^200 read 5 bytes$/, true],
    ["reset before the head", { kind: "reset" }, "/", /^ECONNRESET$/, false],
    ["reset as the connection is accepted", { kind: "reset", at: "accept" }, "/", /^ECONNRESET$/, false],
    ["empty reply", { kind: "empty" }, "/", /^ECONNRESET$/, false],
    ["garbage is no HTTP", { kind: "garbage" }, "/", /^HPE_/, false],
    [
      "an answer of its own",
      { kind: "answer", status: 530, headers: [["Content-Type", "text/html"]], body: "<html>" },
      "/",
      /^530 <html>$/,
      false,
    ],
    [
      "reset in the middle of the body",
      { kind: "reset_after", bytes: 300 },
      "/chunks",
      /^chunk 0.*\|ECONNRESET$/,
      true,
    ],
    ["a cut by FIN", { kind: "cut", bytes: 300 }, "/chunks", /^chunk 0.*\|ECONNRESET$/, true],
    ["a cut on the way up", { kind: "cut", bytes: 20, direction: "up" }, "/", /^(400 .*|ECONNRESET)$/s, false],
    ["a reset on the way up", { kind: "reset_after", bytes: 20, direction: "up" }, "/", /^ECONNRESET$/, false],
    ["a bad chunk at once", { kind: "bad_chunk" }, "/chunks", /^\|ECONNRESET$/, true],
    [
      "a bad chunk after two good ones",
      { kind: "bad_chunk", goodChunks: 2 },
      "/chunks",
      /^chunk 0\.*chunk 1\.*\|ECONNRESET$/,
      true,
    ],
  ];

for (const [title, mode, path, pattern, reaches] of seen) {
  test(`${title}; the next request passes`, async () => {
    await using proxy = await start({ mode });
    const before = asked;
    assert.match(await ask(proxy, path), pattern);
    assert.equal(asked - before, reaches ? 1 : 0);
    await proxy.set({ kind: "pass" });
    assert.equal(await ask(proxy), "200 read 5 bytes");
    await proxy.until(() => proxy.counts().open === 0);
    assert.deepEqual(proxy.counts(), { opened: 2, open: 0, exchanges: 2, affected: mode.kind === "pass" ? 0 : 1 });
  });
}

test("who ended a connection, and the bytes each way, stand in its record", async () => {
  await using proxy = await start();
  proxy.enqueue({ kind: "pass" }, { kind: "cut", bytes: 17 });
  await ask(proxy);
  await ask(proxy);
  using client = await openRaw(proxy.url);
  await client.send("GET");
  await proxy.until(() => proxy.counts().exchanges === 3);
  client.leave();
  await proxy.until(() => proxy.counts().open === 0);
  assert.deepEqual(
    proxy.connections.map(({ end }) => end),
    ["target", "fault", "client"],
  );
  assert.deepEqual([proxy.connections[1]?.down, proxy.connections[2]?.up], [17, 3]);
});

test("refuse closes the port and ends what is open; the same port works again", async () => {
  await using proxy = await start();
  using client = await openRaw(proxy.url);
  await proxy.until(() => proxy.counts().open === 1);
  await proxy.set({ kind: "refuse" });
  await client.closed();
  assert.equal(await ask(proxy), "ECONNREFUSED");
  assert.equal(proxy.counts().opened, 1);
  await proxy.set({ kind: "pass" });
  assert.equal(await ask(proxy), "200 read 5 bytes");
});

test("a black hole takes the request and says nothing until the client gives up", async () => {
  await using proxy = await start({ mode: { kind: "black_hole" } });
  using client = await openRaw(proxy.url);
  await client.send(rawRequest({ target: "/" }).head);
  await proxy.until(() => proxy.counts().affected === 1);
  client.leave();
  await proxy.until(() => proxy.counts().open === 0);
  assert.deepEqual([client.received().length, proxy.connections[0]?.up, proxy.connections[0]?.end], [0, 0, "client"]);
});

test("silence gives the first bytes and no more, and closes nothing until the client goes", async () => {
  await using proxy = await start({ mode: { kind: "silence", bytes: 12 } });
  using client = await openRaw(proxy.url);
  await client.send(rawRequest({ target: "/", headers: [["Connection", "close"]] }).head);
  await proxy.until(() => proxy.connections[0]?.down === 12);
  // A whole exchange past it, which the target begins after this one: what was to come has come.
  assert.notEqual(await sendRaw(`http://127.0.0.1:${port}`, { target: "/" }), "closed");
  assert.deepEqual([client.received().toString(), proxy.counts().open], ["HTTP/1.1 200", 1]);
  client.leave("fin");
  await proxy.until(() => proxy.counts().open === 0);
  assert.equal(proxy.connections[0]?.end, "client");
});

test("a mode holds from the next request on, also on a connection that is kept alive", async () => {
  await using proxy = await start();
  using client = await openRaw(proxy.url);
  const { head, body } = rawRequest({ target: "/", body: "twelve bytes" });
  const once_ = async (): Promise<string> => {
    await client.send(head);
    await client.send(body);
    const answered = await client.answer();
    return answered === "closed" ? answered : `${answered.status} ${answered.body}`;
  };
  const got = [await once_(), await once_()];
  proxy.enqueue({ kind: "answer", status: 522 });
  got.push(await once_());
  assert.deepEqual(got, ["200 read 12 bytes", "200 read 12 bytes", "522 "]);
  assert.deepEqual(proxy.counts().opened, 1);
});

test("a chunked body is broken where it was told to be", async () => {
  await using proxy = await start({ mode: { kind: "bad_chunk", goodChunks: 2 } });
  using client = await openRaw(proxy.url);
  const { head } = rawRequest({ target: "/chunks", headers: [["Connection", "close"]] });
  await client.send(head);
  await client.closed();
  const [, body = ""] = client.received().toString().split("\r\n\r\n");
  assert.match(body, /^64\r\nchunk 0\.+\r\n64\r\nchunk 1\.+\r\nZ4\r\nchunk 2/);
});

test("the slicer lets a body through piece by piece, at its gate", async () => {
  await using proxy = await start({ mode: { kind: "slice", bytes: 50, gate: "piece" } });
  const asking = ask(proxy, "/chunks");
  const gate = proxy.gates("piece");
  await gate.arrived(1);
  assert.equal(proxy.connections[0]?.down, 0);
  gate.step(2);
  await gate.arrived(3);
  assert.equal(proxy.connections[0]?.down, 100);
  gate.open();
  assert.match(await asking, /^200 chunk 0/);
});

test("a client that goes while its answer stands before a gate is gone at both ends", async () => {
  await using proxy = await start({ mode: { kind: "slice", bytes: 50, gate: "piece" } });
  using client = await openRaw(proxy.url);
  await client.send(rawRequest({ target: "/chunks" }).head);
  await proxy.gates("piece").arrived();
  client.leave();
  await proxy.until(() => proxy.counts().open === 0);
  assert.deepEqual([proxy.connections[0]?.end, proxy.gates("piece").waiting], ["client", 0]);
});

test("bandwidth and latency take their time, each way of its own", async () => {
  await using proxy = await start();
  const timed = async (mode: ExchangeMode, body: string): Promise<number> => {
    proxy.enqueue(mode);
    const from = performance.now();
    assert.match(await ask(proxy, "/", body), /^200/);
    return performance.now() - from;
  };
  const body = "x".repeat(10_000);
  assert.ok((await timed({ kind: "bandwidth", bytesPerSecond: 50_000, direction: "up" }, body)) >= 195);
  assert.ok((await timed({ kind: "bandwidth", bytesPerSecond: 50_000, direction: "down" }, body)) < 195);
  assert.ok((await timed({ kind: "latency", ms: 120, jitterMs: 20 }, "")) >= 118);
});

test("a share strikes the same requests for the same seed, about that many of them", async () => {
  const struck = async (seed: number): Promise<string> => {
    await using proxy = await start({ mode: { kind: "answer", status: 500, share: 0.2 }, seed });
    const got: string[] = [];
    for (let call = 0; call < 60; call += 1) got.push((await ask(proxy)).slice(0, 3));
    assert.equal(got.filter((status) => status === "500").length, proxy.counts().affected);
    assert.ok(proxy.counts().affected >= 5 && proxy.counts().affected <= 20, `${proxy.counts().affected} of 60`);
    return got.join();
  };
  assert.equal(await struck(7), await struck(7));
  assert.notEqual(await struck(7), await struck(8));
});

test("a TLS client meets text that is no TLS", async () => {
  await using proxy = await start({ mode: { kind: "no_tls" } });
  const outgoing = tlsRequest(proxy.tlsUrl, { agent: false });
  outgoing.end();
  const [error] = (await once(outgoing, "error")) as [NodeJS.ErrnoException];
  assert.match(String(error.code), /^(EPROTO|ERR_SSL_)/);
});

test("an unreachable target looks like a connection that breaks, and close leaves no socket behind", async () => {
  const proxy = await start({ target: 1 });
  assert.equal(await ask(proxy), "ECONNRESET");
  using client = await openRaw(proxy.url);
  await proxy.close();
  await client.closed();
  assert.equal(proxy.counts().open, 0);
  assert.equal(await ask(proxy), "ECONNREFUSED");
});

test("the raw client: framings come to the target as they are written", async () => {
  await using proxy = await start();
  const framed = async (framing: Parameters<typeof rawRequest>[0]["framing"] & {}): Promise<string> => {
    const answered = await sendRaw(proxy.url, { target: "/", body: "0123456789", framing });
    return answered === "closed" ? answered : `${answered.status} ${answered.body}`;
  };
  assert.deepEqual(
    [
      await framed({ kind: "right" }),
      await framed({ kind: "lengths", values: ["4"] }),
      await framed({ kind: "chunked", size: 3 }),
      await framed({ kind: "lengths", values: ["10", "11"] }),
      await framed({ kind: "both", values: ["10"] }),
      await framed({ kind: "lengths", values: ["abc"] }),
    ],
    ["200 read 10 bytes", "closed", "200 read 10 bytes", "closed", "closed", "closed"],
  );
});

test("the raw client: a body dribbles through a gate, and leaving in the middle ends the request", async () => {
  await using proxy = await start();
  using client = await openRaw(proxy.url);
  const gate = createGate("byte");
  await client.send(rawRequest({ target: "/", framing: { kind: "lengths", values: ["100"] } }).head);
  const dribbling = client.dribble("x".repeat(100), 1, gate);
  gate.step(3);
  await gate.arrived(4);
  client.leave();
  gate.open();
  await dribbling;
  assert.equal(await client.answer(), "closed");
  await proxy.until(() => proxy.counts().open === 0);
});

test("garbage holds what a log must not show as it is", () => {
  assert.match(Buffer.from(garbage).toString("latin1"), /\u001b\[31m[\s\S]*\r\n\u0000/);
  assert.ok(garbage.length > 4096);
});
