import { Hono, type Context } from "hono";
import { HTTPException } from "hono/http-exception";
import { PixelLLMError, toPixelLLMError } from "../shared/errors.ts";
import { readRequestId, readTraceParent } from "../shared/ids.ts";
import { errorAnswer, finishAnswer, jsonAnswer } from "./answers.ts";
import { createBodyBudget } from "./body-budget.ts";
import { answerPurge } from "./cache-purge.ts";
import { answerCaption } from "./captions.ts";
import { startDeadline } from "./deadline.ts";
import type { Deps } from "./deps.ts";
import { answerEmbeddings } from "./embeddings.ts";
import { answerCircuitBreakerAct, answerCircuitBreakers } from "./circuit-breakers.ts";
import { openGates } from "./gate.ts";
import { answerHealth, answerReadiness, answerStatus } from "./health.ts";
import { openIsolate, type Isolate } from "./isolate.ts";
import { createLog, guardWrite, logAccess } from "./log.ts";
import { allowOf, routeOf, routes } from "./routes.ts";
import type { Scope } from "./scope.ts";

type AppEnv = { Bindings: object; Variables: { scope: Scope } };

/** The edge's HTTP surface over what its host gives it. */
export function createApp(host: Deps): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  const lines = guardWrite(host.write);
  const deps: Deps = { ...host, write: lines.write };
  const budget = createBodyBudget();
  const isolates = new WeakMap<object, Isolate | string>();

  const settle = (env: object): Isolate | string => {
    const known = isolates.get(env) ?? openIsolate(deps, env);
    isolates.set(env, known);
    return known;
  };

  app.use(async (c, next) => {
    const startedMs = deps.now();
    const requestId = readRequestId(c.req.header("x-request-id"), deps.random);
    const traceParent = readTraceParent(c.req.header("traceparent"), deps.random);
    const https = new URL(c.req.url).protocol === "https:";
    const isolate = settle(c.env);
    const facts = { bytes: 0, source: null, attempts: 0 };
    const level = typeof isolate === "string" ? "INFO" : isolate.config.log_level;
    const log = createLog(deps, level, { request_id: requestId, trace_id: traceParent.split("-")[1] ?? "" });
    const finish = (): void => {
      const code = finishAnswer(c.res, requestId, https);
      logAccess(log, {
        method: c.req.method,
        route: routeOf(c.req.path) ?? "-",
        status: c.res.status,
        code,
        ms: Math.max(0, Math.round(deps.now() - startedMs)),
        cancelled: c.req.raw.signal.aborted,
        ...facts,
      });
    };
    if (typeof isolate === "string") {
      log("CRITICAL", "bad configuration", { extra: { problems: isolate } });
      c.res = errorAnswer(new PixelLLMError("ERR_INTERNAL"), requestId);
      return finish();
    }
    const { config } = isolate;
    const waitUntil = (work: Promise<unknown>): void => c.executionCtx.waitUntil(work);
    const breakers = isolate.breakers.bind({ authority: isolate.objects?.authority ?? null, waitUntil, log });
    // Before anything is read: what the object knows is then there when the body is.
    if (c.req.path.startsWith("/v1/")) breakers.refresh();
    const { cacheEpoch } = breakers.view();
    if (cacheEpoch !== null) isolate.cache.setEpoch(cacheEpoch);
    const gates = openGates(breakers, config);
    const deadline = startDeadline(deps, startedMs, config.timeout_seconds * 1000);
    const caller = c.req.raw.signal;
    const request = { requestId, traceParent, startedMs, deadline, caller, log, facts };
    const scope: Scope = { ...isolate, ...request, deps, breakers, gates, budget, waitUntil, lostLines: lines.lost };
    c.set("scope", scope);
    const over = Promise.withResolvers<void>();
    // Without a pending waitUntil the platform may end the context before it tells that the caller left (workerd #5062).
    waitUntil(over.promise);
    try {
      await next();
    } finally {
      deadline.stop();
      over.resolve();
    }
    finish();
  });

  app.get("/", () => jsonAnswer({ name: "pixel-llm", version: deps.version, routes: Object.keys(routes) }));
  app.get("/healthz", () => answerHealth());
  app.get("/readyz", (c) => answerReadiness(c.get("scope")));
  app.get("/v1/status", (c) => answerStatus(c.req.raw, c.get("scope")));
  app.post("/v1/captions", (c) => answerCaption(c.req.raw, c.get("scope")));
  app.post("/v1/embeddings", (c) => answerEmbeddings(c.req.raw, c.get("scope")));

  app.get("/v1/circuit-breakers", (c) => answerCircuitBreakers(c.req.raw, c.get("scope")));
  app.post("/v1/circuit-breakers/:name/:act", (c) =>
    answerCircuitBreakerAct(c.req.raw, c.get("scope"), { name: c.req.param("name"), act: c.req.param("act") }),
  );
  app.delete("/v1/cache", (c) => answerPurge(c.req.raw, c.get("scope")));

  app.notFound((c) => {
    const route = routeOf(c.req.path);
    if (route === null) return fail(c, new PixelLLMError("ERR_NOT_FOUND"));
    const allow = allowOf(route);
    const hint = `This route takes ${allow}.`;
    return fail(c, new PixelLLMError("ERR_NOT_FOUND", { status: 405, hint }), { allow });
  });

  app.onError((thrown, c) => {
    const error = thrown instanceof HTTPException ? fromHttpException(thrown) : toPixelLLMError(thrown);
    const { log } = c.get("scope");
    if (error.code === "ERR_INTERNAL") log("ERROR", "request failed", { exception: error });
    else log("DEBUG", "request refused", { exception: error });
    return fail(c, error);
  });

  return app;
}

function fail(c: Context<AppEnv>, error: PixelLLMError, headers: Record<string, string> = {}): Response {
  return errorAnswer(error, c.get("scope").requestId, { headers });
}

/** Hono's own refusals carry a status; ours must not turn a 413 into a 500. */
function fromHttpException(thrown: HTTPException): PixelLLMError {
  const facts = { status: thrown.status, detail: thrown.message, cause: thrown };
  if (thrown.status === 404 || thrown.status === 405) return new PixelLLMError("ERR_NOT_FOUND", facts);
  if (thrown.status === 401 || thrown.status === 403) return new PixelLLMError("ERR_API_UNAUTHORIZED", facts);
  if (thrown.status >= 500) return new PixelLLMError("ERR_INTERNAL", facts);
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", facts);
}
