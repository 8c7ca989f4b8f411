import { Hono, type Context } from "hono";
import { HTTPException } from "hono/http-exception";
import { readConfig, renderProblems, type Config, type Profile } from "../shared/config.ts";
import { PixelLLMError, toPixelLLMError } from "../shared/errors.ts";
import { readRequestId, readTraceParent } from "../shared/ids.ts";
import { errorAnswer, finishAnswer, jsonAnswer } from "./answers.ts";
import { createBodyBudget } from "./body-budget.ts";
import { answerCaption } from "./captions.ts";
import { startDeadline } from "./deadline.ts";
import type { Deps } from "./deps.ts";
import { answerEmbeddings } from "./embeddings.ts";
import { answerHealth, answerReadiness, answerStatus } from "./health.ts";
import { createLog, logAccess } from "./log.ts";
import type { Scope } from "./scope.ts";
import { createSidecarClient, type SidecarClient } from "./sidecar-client.ts";

type AppEnv = { Bindings: object; Variables: { scope: Scope } };

/** Every route and the methods it takes. */
const routes = {
  "/": ["GET"],
  "/healthz": ["GET"],
  "/readyz": ["GET"],
  "/v1/status": ["GET"],
  "/v1/captions": ["POST"],
  "/v1/embeddings": ["POST"],
} as const;

/** What is read from the environment once an isolate. */
type Setting = { config: Config; profile: Profile; sidecar: SidecarClient };

/** The edge's HTTP surface over what its host gives it. */
export function createApp(deps: Deps): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  const budget = createBodyBudget();
  const settings = new WeakMap<object, Setting | string>();

  const settle = (env: object): Setting | string => {
    const known = settings.get(env);
    if (known !== undefined) return known;
    const reading = readConfig({ ...env });
    const setting = reading.ok
      ? { config: reading.config, profile: reading.profile, sidecar: createSidecarClient(deps, reading.config) }
      : renderProblems(reading.problems);
    settings.set(env, setting);
    return setting;
  };

  app.use(async (c, next) => {
    const startedMs = deps.now();
    const requestId = readRequestId(c.req.header("x-request-id"), deps.random);
    const traceParent = readTraceParent(c.req.header("traceparent"), deps.random);
    const https = new URL(c.req.url).protocol === "https:";
    const setting = settle(c.env);
    if (typeof setting === "string") {
      const log = createLog(deps, "INFO", { request_id: requestId });
      log("CRITICAL", "bad configuration", { extra: { problems: setting } });
      c.res = errorAnswer(new PixelLLMError("ERR_INTERNAL"), requestId);
      finishAnswer(c.res, requestId, https);
      return;
    }
    const { config } = setting;
    const log = createLog(deps, config.log_level, { request_id: requestId, trace_id: traceParent.split("-")[1] ?? "" });
    const deadline = startDeadline(deps, startedMs, config.timeout_seconds * 1000);
    const facts = { bytes: 0, source: null };
    const caller = c.req.raw.signal;
    const scope: Scope = { ...setting, deps, requestId, traceParent, startedMs, deadline, caller, budget, log, facts };
    c.set("scope", scope);
    const over = Promise.withResolvers<void>();
    // Without a pending waitUntil the platform may end the context before it tells that the caller left (workerd #5062).
    c.executionCtx.waitUntil(over.promise);
    try {
      await next();
    } finally {
      deadline.stop();
      over.resolve();
    }
    const code = finishAnswer(c.res, requestId, https);
    logAccess(log, {
      method: c.req.method,
      route: Object.hasOwn(routes, c.req.path) ? c.req.path : "-",
      status: c.res.status,
      code,
      ms: Math.max(0, Math.round(deps.now() - startedMs)),
      ...scope.facts,
    });
  });

  app.get("/", () => jsonAnswer({ name: "pixel-llm", version: deps.version, routes: Object.keys(routes) }));
  app.get("/healthz", () => answerHealth());
  app.get("/readyz", (c) => answerReadiness(c.get("scope")));
  app.get("/v1/status", (c) => answerStatus(c.req.raw, c.get("scope")));
  app.post("/v1/captions", (c) => answerCaption(c.req.raw, c.get("scope")));
  app.post("/v1/embeddings", (c) => answerEmbeddings(c.req.raw, c.get("scope")));

  app.notFound((c) => {
    const methods = Object.hasOwn(routes, c.req.path) ? routes[c.req.path as keyof typeof routes] : null;
    if (methods === null) return fail(c, new PixelLLMError("ERR_NOT_FOUND"));
    const allow = methods.flatMap((method): string[] => (method === "GET" ? ["GET", "HEAD"] : [method])).join(", ");
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
