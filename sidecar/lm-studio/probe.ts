import { classifyComplaint, lmStudioError, readComplaint } from "../../shared/lm-studio-kinds.ts";
import { parseJson, readText, send, type Address } from "./transport.ts";

const answerBytes = 64 * 1024;

/** The body of the smallest call there is. */
export function smallestCall(model: string): string {
  return JSON.stringify({ model, max_tokens: 1, messages: [{ role: "user", content: "." }] });
}

/** Asks a loaded model for one token; rejects with a kind of `lm-studio-kinds.ts`, or the signal's reason, when none comes. */
export async function askForToken(address: Address, model: string, signal: AbortSignal): Promise<void> {
  const call = { method: "POST", path: "/v1/chat/completions", body: smallestCall(model), signal } as const;
  const response = await send(address, call);
  const text = await readText(response, answerBytes, signal);
  const status = response.statusCode ?? 0;
  const complaint = readComplaint(parseJson(text));
  if (status !== 200 || complaint !== null) {
    throw lmStudioError(classifyComplaint(complaint, status), { detail: complaint?.message ?? text });
  }
}
