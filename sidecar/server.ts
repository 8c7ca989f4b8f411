import { randomBytes } from "node:crypto";
import type { HttpBindings } from "@hono/node-server";
import { Hono, type Context } from "hono";
import * as z from "zod";
import { parseChatRequest } from "../shared/chat.ts";
import { logLevels, type Config } from "../shared/config.ts";
import { errorBody, PixelLLMError, toPixelLLMError } from "../shared/errors.ts";
import { readRequestId } from "../shared/ids.ts";
import { checkImageHeader } from "../shared/image-header.ts";
import { sidecarMarkerHeader } from "../shared/signature.ts";
import {
  parseCaptionOptions,
  parseWith,
  readOptionText,
  type ImageFormat,
  type SidecarFailure,
} from "../shared/wire.ts";
import { readBody, type Body } from "./body.ts";
import { plainChat, streamChat, type RunChat } from "./chat-answer.ts";
import type { EngineCall, Outcome } from "./bounded-work.ts";
import type { Engine } from "./engine.ts";
import type { LogSink } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { outcomeEvents } from "./outcome-events.ts";
import type { SignatureFault, SignatureVerdict, SignedRequest } from "./signature.ts";

/** What the HTTP surface stands on. */
export type ServerParts = {
  engine: Engine;
  config: Config;
  log: LogSink;
  /** Null = unsigned calls are taken: the sidecar runs alone on loopback with no secret set. */
  checkSignature: ((request: SignedRequest, nowSeconds: number) => SignatureVerdict) | null;
  metrics: Metrics;
  /** Epoch milliseconds. */
  wallNow: () => number;
};

type Env = { Bindings: HttpBindings; Variables: { requestId: string; bodySha256: string | null } };

/** Largest body of a route that takes no picture, in bytes. */
const smallBodyBytes = 4096;
/** Largest chat request, in bytes: a picture of 2 MiB in base64, and the words around it. */
const jsonBodyBytes = 3 * 2 ** 20;

const callSchema = z.object({
  remaining_ms: z.number().min(0).optional(),
  tenant: z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,64}$/)
    .optional(),
  events: z.boolean().optional(),
  no_store: z.boolean().optional(),
});
type CallFacts = z.output<typeof callSchema>;

/** The sidecar's HTTP surface: everything but `/livez` is signed, every answer carries the sidecar's mark. */
export function createServer(parts: ServerParts): Hono<Env> {
  const { engine, config, log, checkSignature, wallNow } = parts;
  const logger = log.logger("sidecar.http");
  const { metrics } = parts;
  const app = new Hono<Env>();

  app.use(async (c, next) => {
    const startedAt = performance.now();
    c.set(
      "requestId",
      readRequestId(c.req.header("x-request-id"), (count) => randomBytes(count)),
    );
    c.set("bodySha256", null);
    await next();
    c.header(sidecarMarkerHeader, "1");
    c.header("x-request-id", c.get("requestId"));
    c.header("cache-control", "no-store");
    if (c.req.path === "/livez") return;
    metrics.request(c.req.path, c.res.status);
    logger.info("request", {
      extra: {
        request_id: c.get("requestId"),
        method: c.req.method,
        route: c.req.path.slice(0, 64),
        status: c.res.status,
        ms: Math.round(performance.now() - startedAt),
      },
    });
  });

  app.get("/livez", (c) => c.json({ status: "ok" }));

  app.use(async (c, next) => {
    if (checkSignature === null) return next();
    const [path, query = ""] = splitOnce(c.env.incoming.url ?? "", "?");
    const verdict = checkSignature(
      { method: c.req.method, path, query, header: (name) => c.req.header(name) },
      wallNow() / 1000,
    );
    if (!verdict.ok) {
      metrics.unsigned(verdict.fault);
      throw unsigned(verdict.fault);
    }
    c.set("bodySha256", verdict.claim.bodySha256);
    return next();
  });

  app.get("/readyz", async (c) => {
    const readiness = await engine.readiness();
    return c.json(readiness, readiness.ready ? 200 : 503);
  });

  app.get("/info", async (c) => c.json(await engine.info()));

  app.post("/v1/log-level", async (c) => {
    const { bytes } = await readSignedBody(c, smallBodyBytes);
    const { level } = parseWith(z.strictObject({ level: z.enum(logLevels) }), parseJson(bytes));
    log.changeLevel(level);
    return c.json({ level });
  });

  app.get("/metrics", (c) => {
    const encoderReady = engine.encoderReady();
    const figures = engine.figures();
    const residentBytes = process.memoryUsage.rss();
    const text = metrics.render({ figures, encoderReady, residentBytes, logDropped: log.dropped() });
    return c.body(text, 200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
  });

  app.post("/v1/chat/completions", async (c) => {
    const { facts, options } = readQuery(c);
    parseWith(z.strictObject({}), options);
    const signal = callerSignal(c);
    const { bytes } = await readSignedBody(c, jsonBodyBytes);
    const { request, imageUri } = parseChatRequest(parseJson(bytes));
    const image = imageUri === null ? null : readDataUri(imageUri, config.max_image_pixels);
    const remainingMs = facts.remaining_ms ?? config.timeout_seconds * 1000;
    const run: RunChat = (onText) => engine.chat({ request, image, remainingMs, signal, tenant: facts.tenant, onText });
    const createdSeconds = Math.floor(wallNow() / 1000);
    if (request.stream !== true) return plainChat(run, createdSeconds);
    const includeUsage = request.stream_options?.include_usage === true;
    const requestId = c.get("requestId");
    return streamChat(run, { createdSeconds, includeUsage, requestId, model: request.model ?? "auto" });
  });

  app.post("/v1/caption", async (c) => {
    const { facts, options } = readQuery(c);
    const checked = parseCaptionOptions(options);
    return answer(facts, await readCall(c, facts), (call) => engine.caption(call, checked));
  });

  app.post("/v1/embed", async (c) => {
    const { facts, options } = readQuery(c);
    parseWith(z.strictObject({}), options);
    return answer(facts, await readCall(c, facts), (call) => engine.embed(call));
  });

  const methods: Record<string, string> = {
    "/livez": "GET, HEAD",
    "/readyz": "GET, HEAD",
    "/info": "GET, HEAD",
    "/metrics": "GET, HEAD",
    "/v1/log-level": "POST",
    "/v1/chat/completions": "POST",
    "/v1/caption": "POST",
    "/v1/embed": "POST",
  };
  app.notFound((c) => {
    const allowed = Object.hasOwn(methods, c.req.path) ? methods[c.req.path] : undefined;
    if (allowed !== undefined) c.header("allow", allowed);
    return fail(c, new PixelLLMError("ERR_NOT_FOUND", { status: allowed === undefined ? 404 : 405 }));
  });
  app.onError((thrown, c) => {
    const error = toPixelLLMError(thrown);
    const extra = { request_id: c.get("requestId") };
    if (error.code === "ERR_INTERNAL") logger.error("request failed", { exception: error, extra });
    // What bears no signature is a stranger's knock; one that is wrong is for the owner of both halves to mend.
    else if (error.code === "ERR_API_UNAUTHORIZED" && error.detail !== "malformed")
      logger.warning("signature refused", { errorCode: error.code, extra: { ...extra, fault: error.detail } });
    else logger.debug("request refused", { exception: error, extra });
    return fail(c, error);
  });

  async function readSignedBody(c: Context<Env>, limit: number): Promise<Body> {
    const body = await readBody(c.env.incoming, limit);
    const signedHash = c.get("bodySha256");
    if (signedHash !== null && signedHash !== body.sha256) {
      metrics.unsigned("wrong_signature");
      throw unsigned("wrong_signature");
    }
    return body;
  }

  async function readCall(c: Context<Env>, facts: CallFacts): Promise<EngineCall> {
    const startedAt = performance.now();
    const signal = callerSignal(c);
    const { bytes, sha256 } = await readSignedBody(c, config.max_image_bytes);
    const { format } = checkImageHeader(bytes, c.req.header("content-type") ?? null, {
      maxPixels: config.max_image_pixels,
    });
    const given = facts.remaining_ms ?? config.timeout_seconds * 1000;
    const remainingMs = Math.max(0, given - (performance.now() - startedAt));
    const { tenant, no_store: noStore } = facts;
    return { bytes, format, sha256, remainingMs, signal, requestId: c.get("requestId"), tenant, noStore };
  }

  return app;
}

/** Aborts when the connection goes before the answer is out. */
function callerSignal(c: Context<Env>): AbortSignal {
  const caller = new AbortController();
  const { outgoing } = c.env;
  outgoing.once("close", () => {
    if (!outgoing.writableFinished) caller.abort(new Error("the caller left"));
  });
  return caller.signal;
}

/** The picture inside a chat message, its header checked like any other. */
function readDataUri(uri: string, maxPixels: number): { bytes: Uint8Array; format: ImageFormat } {
  const comma = uri.indexOf(",");
  const type = /^data:([^;,]*)/i.exec(uri)?.[1] ?? null;
  const bytes = Buffer.from(uri.slice(comma + 1), "base64");
  return { bytes, format: checkImageHeader(bytes, type, { maxPixels }).format };
}

async function answer<T extends object>(
  facts: CallFacts,
  call: EngineCall,
  run: (call: EngineCall) => Promise<Outcome<T>>,
): Promise<Response> {
  if (facts.events === true) return outcomeEvents(run(call));
  const { status, body } = await run(call);
  return Response.json(body, { status, headers: retryAfterOf(body) });
}

function retryAfterOf(body: object): Record<string, string> {
  if (!("error" in body)) return {};
  const { retry_after_seconds: seconds } = (body as SidecarFailure).error;
  return seconds === null ? {} : { "retry-after": String(seconds) };
}

/** Query keys of the call itself and the caller's options beside them; a key given twice is refused. */
function readQuery(c: Context<Env>): { facts: CallFacts; options: Record<string, unknown> } {
  const facts: Record<string, unknown> = {};
  const options: Record<string, unknown> = {};
  for (const [name, values] of Object.entries(c.req.queries())) {
    const [value = ""] = values;
    if (values.length > 1) {
      throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: name.slice(0, 64), hint: "Given more than once." });
    }
    if (Object.hasOwn(callSchema.shape, name)) facts[name] = name === "tenant" ? value : readCallText(value);
    else options[name] = readOptionText(name, value);
  }
  return { facts: parseWith(callSchema, facts), options };
}

function readCallText(value: string): unknown {
  if (value === "true") return true;
  if (value === "false") return false;
  return /^\d{1,9}(\.\d+)?$/.test(value) ? Number(value) : value;
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { hint: "The body is not JSON.", cause: error });
  }
}

function fail(c: Context<Env>, error: PixelLLMError): Response {
  const body: SidecarFailure = {
    error: errorBody(error, c.get("requestId")),
    image: null,
    evidence: null,
    vector: null,
    timings_ms: { decode: 0, encode: 0, generate: 0 },
  };
  const headers = new Headers();
  const allow = c.res.headers.get("allow");
  if (allow !== null) headers.set("allow", allow);
  if (error.retryAfterSeconds !== null) headers.set("retry-after", String(error.retryAfterSeconds));
  return Response.json(body, { status: error.status, headers });
}

function unsigned(fault: SignatureFault): PixelLLMError {
  return new PixelLLMError("ERR_API_UNAUTHORIZED", { status: 401, detail: fault });
}

function splitOnce(text: string, mark: string): [string, string?] {
  const at = text.indexOf(mark);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + mark.length)];
}
