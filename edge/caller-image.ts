import type { Config } from "../shared/config.ts";
import { PixelLLMError } from "../shared/errors.ts";
import { checkImageHeader, refuseForeignType, sniffImage } from "../shared/image-header.ts";
import { readOptionText, type ImageFormat } from "../shared/wire.ts";
import { checkBodyHeaders, readBody } from "./body.ts";
import type { Bytes, Deps } from "./deps.ts";
import { partText, readBoundary, readForm } from "./multipart.ts";

/** A picture whose header was checked. */
export type CallerImage = { bytes: Bytes; format: ImageFormat; width: number; height: number };

/** What a request's body holds: pictures, and the options beside them, not yet checked. */
export type CallerBody = { images: CallerImage[]; options: Record<string, unknown>; bytesRead: number };

/** What a request's head says, checked before anybody is asked who they are. */
export type CallerHead = { form: BodyForm; limit: number; options: Record<string, unknown> };

/** The three ways a picture may come. */
export type BodyForm = "raw" | "form" | "json";

/** How one route reads its JSON. */
export type JsonReading = {
  /** Takes the pictures' texts out of the object; what it leaves are options. */
  takeImages: (body: Record<string, unknown>) => { param: string; text: string }[];
};

/** Largest picture inside JSON, in bytes after decoding. */
export const jsonImageBytes = 2 * 2 ** 20;
/** Text that holds it, and the options beside it. */
const jsonTextBytes = Math.ceil((jsonImageBytes * 4) / 3) + 16 * 1024;
/** What a form may hold beside its picture. */
const formExtraBytes = 64 * 1024;
const maxJsonDepth = 16;
const maxJsonKeys = 64;

/** Reads a request's head: form, announced length, encoding and query; refuses by it alone, before a byte is read. */
export function readCallerHead(request: Request, config: Config): CallerHead {
  const form = readBodyForm(request);
  const limit = bodyLimit(form, config);
  checkBodyHeaders(request.headers, limit);
  return { form, limit, options: readQueryOptions(new URL(request.url).searchParams) };
}

function readBodyForm(request: Request): BodyForm {
  const contentType = request.headers.get("content-type");
  const type = (contentType ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
  refuseForeignType(contentType);
  if (type === "multipart/form-data") return "form";
  if (type === "application/json" || type.endsWith("+json")) return "json";
  if (type.startsWith("image/") || type === "application/octet-stream") return "raw";
  throw new PixelLLMError("ERR_ENC_INVALID_INPUT", {
    status: 415,
    hint: "Send the picture as the body (content-type: image/*), as part `image` of a form, or as `image` in JSON.",
  });
}

function bodyLimit(form: BodyForm, config: Config): number {
  switch (form) {
    case "raw":
      return config.max_image_bytes;
    case "form":
      return config.max_image_bytes + formExtraBytes;
    case "json":
      return jsonTextBytes;
  }
}

/** Reads a body in its form, checks every picture's header, and adds the body's options to the query's (each once). */
export async function readCallerBody(
  request: Request,
  { form, limit, options }: CallerHead,
  context: { deps: Deps; config: Config; signal: AbortSignal; json: JsonReading },
): Promise<CallerBody> {
  const { config } = context;
  const body = await readBody(request, limit, context.signal);
  const check = (bytes: Bytes, declared: string | null): CallerImage => {
    if (bytes.length > config.max_image_bytes) throw imageTooLarge(bytes.length, config.max_image_bytes);
    return { bytes, ...checkImageHeader(bytes, declared, { maxPixels: config.max_image_pixels }) };
  };
  switch (form) {
    case "raw":
      return { images: [check(body, request.headers.get("content-type"))], options, bytesRead: body.length };
    case "form": {
      const part = takeForm(body, request.headers.get("content-type") ?? "", options);
      return { images: [check(part.bytes, part.contentType)], options, bytesRead: body.length };
    }
    case "json": {
      const object = readJsonObject(body);
      const texts = context.json.takeImages(object);
      for (const [name, value] of Object.entries(object)) addOption(options, name, value);
      const images = texts.map(({ param, text }) => {
        const { type, base64 } = readDataUri(text, param);
        const bytes = decodeImage(base64, param, context.deps);
        // Short words are base64 too: bytes that are no picture at all mean that the text was never meant as one.
        if (type === null && sniffImage(bytes).kind === "unknown") throw noPicture(param);
        return check(bytes, type);
      });
      return { images, options, bytesRead: body.length };
    }
  }
}

function readQueryOptions(query: URLSearchParams): Record<string, unknown> {
  const options: Record<string, unknown> = {};
  for (const [name, value] of query) addOption(options, name, readOptionText(name, value));
  return options;
}

function takeForm(
  body: Bytes,
  contentType: string,
  options: Record<string, unknown>,
): { bytes: Bytes; contentType: string | null } {
  if (body.length === 0) throw new PixelLLMError("ERR_VAL_EMPTY_INPUT", { param: "image", hint: "The form is empty." });
  let image: { bytes: Bytes; contentType: string | null } | null = null;
  for (const part of readForm(body, readBoundary(contentType))) {
    if (part.name !== "image") addOption(options, part.name, readOptionText(part.name, partText(part)));
    else if (image === null) image = part;
    else throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: "image", hint: "One picture a request." });
  }
  if (image === null)
    throw new PixelLLMError("ERR_VAL_MISSING_FIELD", { param: "image", hint: "The form has no part `image`." });
  refuseForeignType(image.contentType);
  return image;
}

function addOption(options: Record<string, unknown>, name: string, value: unknown): void {
  if (Object.hasOwn(options, name)) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: name.slice(0, 64), hint: "Given more than once." });
  }
  // defineProperty: a key named __proto__ must become a key, to be refused like any other unknown one.
  Object.defineProperty(options, name, { value, enumerable: true, configurable: true, writable: true });
}

function readJsonObject(body: Bytes): Record<string, unknown> {
  if (body.length === 0) throw new PixelLLMError("ERR_VAL_EMPTY_INPUT", { hint: "The body is empty." });
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(body));
  } catch (error) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { hint: "The body is not JSON.", cause: error });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { hint: "The body is not a JSON object." });
  }
  checkShape(value, 1);
  return value as Record<string, unknown>;
}

/** Depth and width are bounded before anything walks the value without a limit of its own. */
function checkShape(value: unknown, depth: number): void {
  if (typeof value !== "object" || value === null) return;
  const entries = Object.entries(value);
  const poisoned = entries.some(([name]) => name === "__proto__" || name === "constructor" || name === "prototype");
  if (depth > maxJsonDepth || entries.length > maxJsonKeys || poisoned) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
      hint: `JSON here has at most ${maxJsonDepth} levels, ${maxJsonKeys} keys each, and no key that names a prototype.`,
    });
  }
  for (const [, inner] of entries) checkShape(inner, depth + 1);
}

/** A data URI's type and base64 text; text without a scheme is bare base64. */
function readDataUri(text: string, param: string): { type: string | null; base64: string } {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", {
      param,
      hint: "No address is fetched: send the picture itself.",
    });
  }
  const head = /^data:([^,;]{0,64})((?:;[^,;]{0,64}){0,4}),/i.exec(text);
  if (head === null) return { type: null, base64: text };
  const type = head[1] === undefined || head[1] === "" ? null : head[1];
  refuseForeignType(type);
  if (!(head[2] ?? "").toLowerCase().endsWith(";base64") || (type !== null && !/^image\//i.test(type))) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param, hint: "A data URI of an image in base64 is taken." });
  }
  return { type, base64: text.slice(head[0].length) };
}

function decodeImage(base64: string, param: string, deps: Deps): Bytes {
  // The length is judged on the text: nothing larger is ever decoded.
  if (base64.length > Math.ceil(jsonImageBytes / 3) * 4)
    throw imageTooLarge(Math.floor((base64.length * 3) / 4), jsonImageBytes);
  try {
    return deps.decodeBase64(base64);
  } catch (error) {
    throw noPicture(param, error);
  }
}

function noPicture(param: string, cause?: unknown): PixelLLMError {
  const hint = "Neither a data URI nor base64 of a picture.";
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", { param, hint, cause });
}

function imageTooLarge(actual: number, limit: number): PixelLLMError {
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", {
    status: 413,
    param: "image",
    hint: `The picture has ${actual} bytes; at most ${limit} are taken this way.`,
    details: { limit, actual },
  });
}
