import { PixelLLMError } from "../shared/errors.ts";
import type { Dependency } from "../shared/wire.ts";
import { errorAnswer, jsonAnswer } from "./answers.ts";
import { authenticate } from "./authentication.ts";
import type { BreakersReading } from "./breakers.ts";
import { showBreakers } from "./circuit-breakers.ts";
import type { AuthorityView } from "./objects/authority-protocol.ts";
import { askReadiness } from "./readiness.ts";
import type { Scope } from "./scope.ts";

type Dependencies = { sidecar: Dependency; encoder: Dependency; lm_studio: Dependency };

const unknown: Dependency = {
  status: "down",
  detail: "Not known: the sidecar does not answer.",
  code: "ERR_CONN_UNAVAILABLE",
};

/** `GET /healthz`: the edge itself is alive. */
export function answerHealth(): Response {
  return jsonAnswer({ status: "ok" });
}

/** `GET /readyz`: 200 when live captions can be served now, else 503; each dependency named. */
export async function answerReadiness(scope: Scope): Promise<Response> {
  const [probed, reading] = await Promise.all([probe(scope), scope.breakers.read()]);
  const dependencies = withBreakers(probed, reading);
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
  const [probed, reading] = await Promise.all([probe(scope), scope.breakers.read()]);
  const dependencies = withBreakers(probed, reading);
  return jsonAnswer({
    object: "status",
    version: scope.deps.version,
    profile: scope.profile,
    ready: Object.values(dependencies).every(({ status }) => status === "ok"),
    dependencies,
    breakers: showBreakers(reading),
    fallback_chain: scope.config.fallback_chain,
    // What this isolate has counted since it began; the sums over all are the metrics'.
    isolate: {
      cache: scope.cache.counts(),
      retry_budget_tokens: Math.round(scope.retryBudget.tokens() * 100) / 100,
      store_errors: scope.breakers.view().storeErrors,
      observer_errors: scope.breakers.view().observerErrors,
      lost_log_lines: scope.lostLines(),
    },
  });
}

/** A dependency whose breaker is open serves nobody, even where it answers by now; its own fault is told first. */
function withBreakers(probed: Dependencies, { breakers }: BreakersReading): Dependencies {
  const judge = (dependency: Dependency, { state, retry_after_seconds: seconds }: AuthorityView): Dependency => {
    if (dependency.status !== "ok" || state !== "OPEN") return dependency;
    const wait = seconds === null ? "until it is closed by hand" : `for ${seconds} s more`;
    return { status: "down", detail: `The circuit breaker refuses calls ${wait}.`, code: "ERR_CB_OPEN" };
  };
  return {
    ...probed,
    sidecar: judge(probed.sidecar, breakers.sidecar),
    lm_studio: judge(probed.lm_studio, breakers.lm_studio_api),
  };
}

async function probe(scope: Scope): Promise<Dependencies> {
  const answer = await askReadiness(scope, scope);
  if (!answer.ok) {
    const { message, code } = answer.error;
    return { sidecar: { status: "down", detail: message, code }, encoder: unknown, lm_studio: unknown };
  }
  const { ready, dependencies } = answer.readiness;
  // Not ready although nothing that it stands on is down: it is stopping.
  const stopping = !ready && dependencies.encoder.status !== "down";
  const own: Dependency = stopping
    ? { status: "down", detail: "The sidecar is stopping.", code: "ERR_API_OVERLOAD" }
    : { status: "ok", detail: "The sidecar answers.", code: null };
  return { sidecar: own, ...dependencies };
}
