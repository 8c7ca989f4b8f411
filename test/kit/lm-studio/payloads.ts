/** Error texts as LM Studio sends them, by the name of the failure. */
export const TEXTS = {
  badImage: "'url' field must be a base64 encoded image.",
  noImages: "Model does not support images. Please use a model that does.",
  visionNotLoaded:
    "Error in iterating prediction stream: ValueError: Vision add-on is not loaded, but images were provided for processing",
  visionModelNotLoaded: "Vision model is not loaded. Please load a vision model to use images.",
  keepTokens:
    "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter input.",
  doesNotFit:
    "Input does not fit in context length. The input has 31430 tokens, but the context length only supports 30000 tokens.",
  contextExceeded: "Context size has been exceeded.",
  tryingToKeep:
    "Trying to keep the first 5121 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough.",
  reachedContext:
    "Reached context length of 4096 tokens with model, but this model does not support mid-generation context overflow.",
  crashed:
    "<LM Studio error> The model has crashed without additional information. (Exit code: 0). Error Data: n/a, Additional Data: n/a",
  noModels: "No models loaded. Please load a model in the developer page or use the 'lms load' command.",
  unloaded: "Model is unloaded.",
  loadFailed: "Failed to load model. Error loading model. (Exit code: 18446744072635812000). Unknown error.",
  loadNoMemory:
    "Failed to load model: Model loading was stopped due to insufficient system resources. Continuing to load the model would likely overload your system.",
  loadCancelled: "Failed to load model: Operation canceled.",
  noToken:
    "An LM Studio API token is required to make requests to this server, but none was provided using the Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN'). Learn more at: https://lmstudio.ai/docs/developer/core/authentication.",
  badToken: "Malformed LM Studio API token provided.",
  engineGone: "Engine protocol predict request failed: fetch failed",
  engineTemplate:
    'Engine protocol predict request returned 400: {"error":{"code":400,"message":"Unable to generate parser for this template. Automatic parser generation failed."}}',
  engineContext:
    'Engine protocol predict request returned 400: {"error":{"code":400,"message":"Context size has been exceeded.","type":"exceed_context_size_error"}}',
  jinja: 'Error rendering prompt with jinja template: "Cannot call something that is not a function".',
  channel: "Channel Error",
  prediction: "received prediction-error",
  fieldRequired: "'messages' field is required",
  responseFormat: "'response_format.type' must be 'json_schema' or 'text'",
  schemaComplaint: '[{"code":"invalid_union","path":["messages",0,"content"],"message":"Invalid input"}]',
} as const;

/** Shape a: the error is a string. */
export function stringError(text: string): string {
  return JSON.stringify({ error: text });
}

/** Shapes b and c: OpenAI's error object; `code` may be a number, as the engines send it. */
export function objectError(
  message: string,
  fields: { type?: string; param?: string | null; code?: string | number | null } = {},
): string {
  return JSON.stringify({
    error: {
      message,
      type: fields.type ?? "invalid_request_error",
      param: fields.param ?? null,
      code: fields.code ?? null,
    },
  });
}

/** Shapes d and e: an object with the message twice, inside a 200. */
export function doubledError(message: string): string {
  return JSON.stringify({ error: { message }, message });
}

/** What LM Studio answers, with status 200, for a path or method it does not know. */
export function wrongPath(method: string, path: string): string {
  return stringError(`Unexpected endpoint or method. (${method} ${path})`);
}

/** Every payload of the five error shapes as body text, by name; a name's first letter is its shape. */
export const PAYLOADS = {
  aBadImage: stringError(TEXTS.badImage),
  aNoImages: stringError(TEXTS.noImages),
  aKeepTokens: stringError(TEXTS.keepTokens),
  aCrashed: stringError(TEXTS.crashed),
  aSchemaComplaint: stringError(TEXTS.schemaComplaint),
  aFieldRequired: stringError(TEXTS.fieldRequired),
  bNoModels: objectError(TEXTS.noModels, { param: "model" }),
  bNoToken: JSON.stringify({ error: { type: "invalid_request", code: "invalid_api_key", message: TEXTS.noToken } }),
  bModelNotFound: objectError('Invalid model identifier "test/absent".', { param: "model", code: "model_not_found" }),
  cEngineGone: objectError(TEXTS.engineGone, { type: "internal_error", code: "unknown" }),
  cNestedTemplate: objectError(TEXTS.engineTemplate, { type: "internal_error", code: "unknown" }),
  cNestedContext: stringError(TEXTS.engineContext),
  cNumericCode: objectError("Unable to generate parser for this template.", { type: "internal_error", code: 400 }),
  dDoesNotFit: doubledError(TEXTS.doesNotFit),
  eWrongPath: wrongPath("POST", "/chat/completions"),
  eVisionNotLoaded: doubledError(TEXTS.visionNotLoaded),
} as const;

/** A proxy's error page, as nginx or a tunnel puts it in place of LM Studio's answer. */
export function proxyPage(status: number): string {
  return `<html>\r\n<head><title>${status} proxy error</title></head>\r\n<body>\r\n<center><h1>${status} proxy error</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n`;
}
