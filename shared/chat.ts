import * as z from "zod";
import { PixelLLMError } from "./errors.ts";
import { parseWith } from "./wire.ts";

const part = z.union([
  z.object({ type: z.literal("text"), text: z.string() }),
  z.object({ type: z.literal("image_url"), image_url: z.object({ url: z.string() }) }),
]);

/** The parts of OpenAI's chat request that are honoured; unknown keys are ignored, since clients add some every month. */
export const chatRequestSchema = z.object({
  model: z.string().min(1).max(256).optional(),
  messages: z
    .array(
      z.object({
        role: z.enum(["system", "developer", "user", "assistant"]),
        content: z.union([z.string(), z.array(part).min(1).max(32)]),
      }),
    )
    .min(1)
    .max(64),
  max_tokens: z.int().min(1).max(4096).optional(),
  max_completion_tokens: z.int().min(1).max(4096).optional(),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().min(0).max(1).optional(),
  seed: z.int().optional(),
  stream: z.boolean().optional(),
  stream_options: z.object({ include_usage: z.boolean().optional() }).nullish(),
  n: z.literal(1, "one answer a request").optional(),
  tools: z.array(z.unknown()).max(0, "tools are not offered: they blind models that see").optional(),
  logprobs: z.literal(false, "not offered").optional(),
});
export type ChatRequest = z.output<typeof chatRequestSchema>;
export type ChatRequestMessage = ChatRequest["messages"][number];

/** Checks a chat request: `ERR_VAL_*` with `param`, one picture at most, and that one as a data URI. */
export function parseChatRequest(body: unknown): { request: ChatRequest; imageUri: string | null } {
  const request = parseWith(chatRequestSchema, body);
  const uris = request.messages.flatMap(({ content }) =>
    typeof content === "string"
      ? []
      : content.flatMap((each) => (each.type === "image_url" ? [each.image_url.url] : [])),
  );
  if (uris.length > 1) throw refused("One picture a request.");
  const [uri = null] = uris;
  if (uri !== null && !/^data:image\/[a-z0-9.+-]{1,32};base64,/i.test(uri)) {
    throw refused("A picture is a data URI of an image in base64; no address is fetched.");
  }
  return { request, imageUri: uri };
}

/** A request's messages in LM Studio's words: `developer` is `system`, and the picture is the one given here. */
export function rewriteMessages(request: ChatRequest, imageUri: string | null): unknown[] {
  return request.messages.map(({ role, content }) => ({
    role: role === "developer" ? "system" : role,
    content:
      typeof content === "string"
        ? content
        : content.map((each) =>
            each.type === "text" ? each : { type: "image_url", image_url: { url: imageUri ?? "" } },
          ),
  }));
}

function refused(hint: string): PixelLLMError {
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: "messages", hint });
}
