import * as z from "zod";
import { errorTable, type ErrorCode } from "../../../shared/errors.ts";
import { captionSchema, errorBodySchema } from "../../../shared/wire.ts";
import type { Reply } from "../../kit/ask.ts";
import { secret } from "../../kit/stack.ts";
import type { World } from "../../kit/whole.ts";

/** The body of every error. */
export const envelope = z.strictObject({ error: errorBodySchema });

/** Text of a caller: it may stand in what goes to LM Studio, nowhere else. */
export const promptCanary = "canary-prompt-5b1f";
/** Text of LM Studio or of what stands before it: it may stand in the log, cut and escaped, and in no answer. */
export const upstreamCanary = "canary-upstream-c0de";

/** LM Studio's token: it may stand nowhere. */
export const tokenCanary = "canary-token-77aa";

const secrets: readonly string[] = [secret, tokenCanary];

/** An answer may be this much later than its deadline, in ms. */
const lateMs = 300;

/** Everything an answer must have whatever the fault, as far as it does not; empty = nothing to complain of. */
export function complaintsOf(reply: Reply, limitMs: number): string[] {
  const found: string[] = [];
  const { status, headers, text, elapsedMs } = reply;
  const id = headers.get("x-request-id");
  if (id === null || id === "") found.push("no x-request-id");
  if (elapsedMs > limitMs + lateMs) found.push(`answered after ${Math.round(elapsedMs)} ms of ${limitMs}`);
  for (const canary of [promptCanary, upstreamCanary, ...secrets]) {
    if (text.includes(canary)) found.push(`${canary} stands in an answer`);
  }
  if (status === 200) {
    const parsed = captionSchema.safeParse(reply.body);
    if (!parsed.success) found.push(`no caption by its schema: ${parsed.error.message}`);
    return found;
  }
  const parsed = envelope.safeParse(reply.body);
  if (!parsed.success) return [...found, `no error by its schema: ${text.slice(0, 200)}`];
  const { error } = parsed.data;
  const { message, statuses } = errorTable[error.code];
  if (error.request_id !== id) found.push("another request id in the body than in the header");
  if (error.message !== message && !error.message.startsWith(`${message}. `)) found.push("message not of the table");
  if (!(statuses as readonly number[]).includes(status)) found.push(`${error.code} with status ${status}`);
  const retryAfter = headers.get("retry-after");
  const wanted = status === 503 && error.retry_after_seconds !== null ? String(error.retry_after_seconds) : null;
  if (retryAfter !== wanted) found.push(`Retry-After ${retryAfter}, in the body ${error.retry_after_seconds}`);
  return found;
}

/** A caption that stands in must say so, and for what. */
export function degradedComplaints(reply: Reply, code: ErrorCode): string[] {
  const parsed = captionSchema.safeParse(reply.body);
  if (!parsed.success) return [];
  const { degraded, cause } = parsed.data;
  return degraded && cause?.code === code ? [] : [`degraded ${degraded}, cause ${cause?.code}, not ${code}`];
}

/** Texts that stand where they may not, in any log line or metric so far. */
export async function leaks(world: Pick<World<never>, "sidecar" | "log">): Promise<string[]> {
  const metrics = await (await world.sidecar.call({ target: "/metrics" })).text();
  const log = world.log();
  return [
    ...[promptCanary, ...secrets, "base64,"]
      .filter((text) => log.includes(text))
      .map((text) => `${text} stands in a log`),
    ...[promptCanary, upstreamCanary, ...secrets]
      .filter((text) => metrics.includes(text))
      .map((text) => `${text} in the metrics`),
  ];
}
