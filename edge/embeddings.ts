import * as z from "zod";
import { PixelLLMError } from "../shared/errors.ts";
import { parseWith, sidecarEmbeddingSchema, type SidecarEmbedding } from "../shared/wire.ts";
import { errorAnswer, jsonAnswer } from "./answers.ts";
import { askBox, cancelledAnswer, type BoxFailure } from "./attempts.ts";
import { authenticate } from "./authentication.ts";
import { readCallerHead, type CallerImage, type JsonReading } from "./caller-image.ts";
import { claimBody } from "./claimed-body.ts";
import { sha256 } from "./crypto.ts";
import { createImageCall } from "./image-call.ts";
import type { Scope } from "./scope.ts";
import { vectorBase64 } from "./vector-text.ts";

/** Options of this route; OpenAI clients send more keys every month, which are ignored. */
const optionsSchema = z.object({
  encoding_format: z.enum(["float", "base64"]).optional(),
  dimensions: z.coerce.number().int().min(1).optional(),
});

/** Most pictures in one request; 2 MiB of JSON bound their bytes. */
const maxInputs = 16;

const json: JsonReading = {
  takeImages: (body) => {
    const param = body["input"] === undefined ? "image" : "input";
    if (param === "input" && body["image"] !== undefined) {
      throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
        param: "image",
        hint: "Either `input` or `image`, not both.",
      });
    }
    const given = body[param];
    delete body["input"];
    delete body["image"];
    if (given === undefined) throw new PixelLLMError("ERR_VAL_MISSING_FIELD", { param: "input" });
    const texts: unknown[] = Array.isArray(given) ? given : [given];
    if (texts.length === 0 || texts.includes("")) throw new PixelLLMError("ERR_VAL_EMPTY_INPUT", { param });
    if (texts.length > maxInputs || texts.some((text) => typeof text !== "string")) {
      const hint = `One to ${maxInputs} pictures, each a data URI or base64 text.`;
      throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param, hint });
    }
    return texts.map((text) => ({ param, text: String(text) }));
  },
};

/** `POST /v1/embeddings`: the encoder's unit vector for each picture, in OpenAI's shape. */
export async function answerEmbeddings(request: Request, scope: Scope): Promise<Response> {
  const head = readCallerHead(request, scope.config);
  parseWith(optionsSchema, head.options);
  const tenant = await authenticate(request, scope.config, scope.log);
  const { body, release } = await claimBody(request, head, scope, json);
  try {
    const options = parseWith(optionsSchema, body.options);
    const seen: SidecarEmbedding[] = [];
    for (const image of body.images) {
      const asked = await embed(scope, image, tenant);
      if (!asked.ok && asked.cancelled) return cancelledAnswer(scope, asked);
      if (!asked.ok) return errorAnswer(asked.error, scope.requestId, { repeat: asked.repeat });
      const result = asked.value;
      if (options.dimensions !== undefined && options.dimensions !== result.dimensions) {
        throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
          param: "dimensions",
          hint: `This encoder's vectors have ${result.dimensions} numbers; none are cut off.`,
        });
      }
      seen.push(result);
    }
    return jsonAnswer({
      object: "list",
      data: seen.map(({ embedding }, index) => ({
        object: "embedding",
        index,
        embedding: options.encoding_format === "base64" ? vectorBase64(embedding) : embedding,
      })),
      model: seen[0]?.model ?? "",
      usage: { prompt_tokens: 0, total_tokens: 0 },
    });
  } finally {
    release();
  }
}

async function embed(
  scope: Scope,
  image: CallerImage,
  tenant: string,
): Promise<{ ok: true; value: SidecarEmbedding } | BoxFailure> {
  const call = createImageCall(scope, { image, sha256: await sha256(image.bytes), tenant });
  const question = { call, path: "/v1/embed", query: {}, schema: sidecarEmbeddingSchema, reserveMs: 0 };
  const asked = await askBox(scope, { ...question, gate: scope.gates.evidence });
  if (!asked.ok && !asked.cancelled && asked.error.severity !== "LOW")
    scope.log("WARNING", "embedding failed", { exception: asked.error });
  return asked;
}
