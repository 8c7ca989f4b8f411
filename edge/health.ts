import { PixelLLMError } from "../shared/errors.ts";
import { sidecarReadinessSchema, type Dependency } from "../shared/wire.ts";
import { errorAnswer, jsonAnswer } from "./answers.ts";
import { authenticate } from "./authentication.ts";
import { startDeadline } from "./deadline.ts";
import type { Scope } from "./scope.ts";

type Dependencies = { sidecar: Dependency; encoder: Dependency; lm_studio: Dependency };

/** Longest wait for the box, in ms: a probe that hangs is an answer. */
const probeMs = 3000;

/** `GET /healthz`: the edge itself is alive. */
export function answerHealth(): Response {
  return jsonAnswer({ status: "ok" });
}

/** `GET /readyz`: 200 when live captions can be served now, else 503; each dependency named. */
export async function answerReadiness(scope: Scope): Promise<Response> {
  const dependencies = await probe(scope);
  const down = Object.values(dependencies).find(({ status }) => status !== "ok");
  if (down === undefined) return jsonAnswer({ ready: true, dependencies });
  const error = new PixelLLMError(down.code ?? "ERR_CONN_UNAVAILABLE", { status: 503, hint: down.detail });
  // Whatever the cause, "not ready" is said by 503.
  const answer = errorAnswer(error, scope.requestId, { beside: { ready: false, dependencies } });
  return new Response(answer.body, { status: 503, headers: answer.headers });
}

/** `GET /v1/status`: versions and dependencies, for the owner. */
export async function answerStatus(request: Request, scope: Scope): Promise<Response> {
  await authenticate(request, scope.config, scope.log);
  const dependencies = await probe(scope);
  return jsonAnswer({
    object: "status",
    version: scope.deps.version,
    profile: scope.profile,
    ready: Object.values(dependencies).every(({ status }) => status === "ok"),
    dependencies,
    fallback_chain: scope.config.fallback_chain,
  });
}

async function probe(scope: Scope): Promise<Dependencies> {
  const { deps, sidecar, requestId, traceParent, caller } = scope;
  const limit = startDeadline(deps, deps.now(), probeMs);
  try {
    const outcome = await sidecar.call({
      method: "GET",
      path: "/readyz",
      query: {},
      body: null,
      requestId,
      traceParent,
      remainingMs: probeMs,
      signal: AbortSignal.any([limit.signal, caller]),
    });
    const unknown: Dependency = {
      status: "down",
      detail: "Not known: the sidecar does not answer.",
      code: "ERR_CONN_UNAVAILABLE",
    };
    if (!outcome.ok) {
      const { message, code } = outcome.error;
      return { sidecar: { status: "down", detail: message, code }, encoder: unknown, lm_studio: unknown };
    }
    const readiness = sidecarReadinessSchema.safeParse(outcome.body);
    if (!readiness.success) {
      const foreign: Dependency = {
        status: "down",
        detail: "The sidecar speaks another version.",
        code: "ERR_API_INVALID_RESPONSE",
      };
      return { sidecar: foreign, encoder: unknown, lm_studio: unknown };
    }
    return { sidecar: { status: "ok", detail: "The sidecar answers.", code: null }, ...readiness.data.dependencies };
  } finally {
    limit.stop();
  }
}
