import * as z from "zod";
import { breakerNames, type BreakerName } from "../shared/breaker-state.ts";
import type { Act } from "../shared/breaker.ts";
import type { Config } from "../shared/config.ts";
import { PixelLLMError } from "../shared/errors.ts";
import { jsonAnswer } from "./answers.ts";
import { authenticate } from "./authentication.ts";
import { checkBodyHeaders, readBody } from "./body.ts";
import type { Breakers, BreakersReading } from "./breakers.ts";
import type { Deadline } from "./deadline.ts";
import type { Log } from "./log.ts";
import type { AuthorityView, NamedEvent } from "./objects/authority-protocol.ts";

/** What these routes need of a request. */
export type BreakerScope = { config: Config; log: Log; breakers: Breakers; deadline: Deadline; caller: AbortSignal };

const actNames = ["reset", "open", "close"] as const;
const maxBodyBytes = 4096;

/** What opening by hand takes; a week at most, or until it is closed. */
const openSchema = z.strictObject({
  reason: z.string().trim().min(1).max(200).optional(),
  for_seconds: z.number().min(1).max(604_800).optional(),
});

/** `GET /v1/circuit-breakers`: both breakers, and the last changes. Errors: 401 `ERR_API_UNAUTHORIZED`. */
export async function answerCircuitBreakers(request: Request, scope: BreakerScope): Promise<Response> {
  await authenticate(request, scope.config, scope.log);
  const reading = await scope.breakers.read();
  return jsonAnswer({ object: "list", data: showBreakers(reading), events: reading.events.map(showEvent) });
}

/** Both breakers as the API shows them. */
export function showBreakers({ scope, breakers }: BreakersReading): Record<string, unknown>[] {
  return breakerNames.map((name) => entryOf(name, breakers[name], scope));
}

/**
 * `POST /v1/circuit-breakers/{name}/{reset,open,close}`: the breaker's new state. Without the object the act falls on
 * this isolate's copy alone, and the answer says so (`scope`). Errors: 401; 404 `ERR_NOT_FOUND`; 400 for a bad body.
 */
export async function answerCircuitBreakerAct(
  request: Request,
  scope: BreakerScope,
  path: { name: string; act: string },
): Promise<Response> {
  const keyId = await authenticate(request, scope.config, scope.log);
  const name = breakerNames.find((known) => known === path.name);
  const kind = actNames.find((known) => known === path.act);
  if (name === undefined) throw new PixelLLMError("ERR_NOT_FOUND", { hint: `Breakers: ${breakerNames.join(", ")}.` });
  if (kind === undefined) throw new PixelLLMError("ERR_NOT_FOUND", { hint: `Acts: ${actNames.join(", ")}.` });
  const deed: Act = kind === "open" ? await readOpening(request, scope) : { kind };
  const { scope: whose, view } = await scope.breakers.act(name, deed, keyId);
  scope.log("WARNING", "breaker act", { extra: { breaker: name, act: kind, key_id: keyId, scope: whose } });
  return jsonAnswer(entryOf(name, view, whose));
}

async function readOpening(request: Request, { deadline, caller }: BreakerScope): Promise<Act> {
  checkBodyHeaders(request.headers, maxBodyBytes);
  const bytes = await readBody(request, maxBodyBytes, AbortSignal.any([deadline.signal, caller]));
  const body = bytes.length === 0 ? {} : parseJson(bytes);
  const parsed = openSchema.safeParse(body);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
      param: issue?.path.join(".") || undefined,
      hint: "A JSON object with reason (1 to 200 characters) and for_seconds (1 to 604800), both optional, is taken.",
      detail: parsed.error.message,
    });
  }
  const { reason, for_seconds: seconds } = parsed.data;
  return { kind: "open", reason: reason ?? null, forMs: seconds === undefined ? null : seconds * 1000 };
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes));
  } catch (cause) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { hint: "The body is not JSON.", cause });
  }
}

/** One breaker as the API shows it; a cooldown that is over still has to be seen by a call, hence at least 0. */
function entryOf(name: BreakerName, view: AuthorityView, scope: "upstream" | "isolate"): Record<string, unknown> {
  const { manual, by, ...facts } = view;
  return { name, ...facts, manual: manual === null ? null : { reason: manual.reason, key_id: by }, scope };
}

function showEvent({ name, atMs, event, by }: NamedEvent): Record<string, unknown> {
  const { kind, ...facts } = event;
  return { name, at: new Date(atMs).toISOString(), event: kind, ...facts, key_id: by };
}
