import { PixelLLMError } from "../shared/errors.ts";
import type { Bytes } from "./deps.ts";

/** One part of a form; `bytes` is a window into the form's own buffer, nothing is copied. */
export type FormPart = { name: string; contentType: string | null; bytes: Bytes };

const maxParts = 32;
const maxHeadBytes = 4096;
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

/** The boundary a `multipart/form-data` content type names, or an error that says what is wrong with it. */
export function readBoundary(contentType: string): string {
  const [, quoted, bare] = /;\s*boundary=(?:"([^"\r\n]+)"|([^\s;",]+))/i.exec(contentType) ?? [];
  const boundary = quoted ?? bare ?? "";
  // RFC 2046, 5.1.1: at most 70 of these characters, no space at the end.
  if (!/^[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]$/.test(boundary)) {
    throw broken("its content type names no valid boundary");
  }
  return boundary;
}

/** Cuts a form (RFC 7578) into its parts; anything that is not whole is refused with 400. */
export function readForm(body: Bytes, boundary: string): FormPart[] {
  const opening = latin1(`--${boundary}`);
  const divider = latin1(`\r\n--${boundary}`);
  let at = startsAt(body, opening, 0) ? opening.length : after(body, divider, 0);
  if (at === null) throw broken("its boundary does not occur in it");
  const parts: FormPart[] = [];
  while (!startsAt(body, closingMark, at)) {
    at = skipLineEnd(body, at);
    const headEnd = find(body, blankLine, at, at + maxHeadBytes);
    if (headEnd === null) throw broken("a part has no end of its headers");
    const from = headEnd + blankLine.length;
    // A part without content may have its boundary straight after the blank line, hence two bytes earlier.
    const mark = find(body, divider, from - 2, body.length);
    if (mark === null) throw broken("its last boundary is missing: it is cut off");
    if (parts.length >= maxParts) throw broken(`it has more than ${maxParts} parts`);
    parts.push(readPart(body.subarray(at, headEnd), body.subarray(from, Math.max(from, mark))));
    at = mark + divider.length;
  }
  return parts;
}

/** A part's bytes as text. */
export function partText(part: FormPart): string {
  try {
    return decoder.decode(part.bytes);
  } catch (error) {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: part.name, hint: "Not UTF-8 text.", cause: error });
  }
}

const blankLine = latin1("\r\n\r\n");
const closingMark = latin1("--");

function readPart(head: Bytes, bytes: Bytes): FormPart {
  let name: string | null = null;
  let contentType: string | null = null;
  for (const line of String.fromCharCode(...head).split("\r\n")) {
    const colon = line.indexOf(":");
    const field = line.slice(0, colon).trim().toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (field === "content-disposition") name = readName(value);
    if (field === "content-type") contentType = value;
    if (field === "content-transfer-encoding" && !/^(binary|8bit|7bit)$/i.test(value)) {
      throw broken("a part is sent in a transfer encoding");
    }
  }
  if (name === null) throw broken("a part has no name");
  if (contentType !== null && /^multipart\//i.test(contentType)) throw broken("a part is a form of its own");
  return { name, contentType, bytes };
}

/** The `name` a content disposition gives, quoted or not; one inside another parameter's quotes is not it. */
function readName(disposition: string): string | null {
  const parameter = /;\s*([a-z*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))\s*/gy;
  parameter.lastIndex = Math.max(0, disposition.indexOf(";"));
  const lower = disposition.toLowerCase();
  for (let found = parameter.exec(lower); found !== null; found = parameter.exec(lower)) {
    const [whole, key, quoted, bare] = found;
    const name = quoted ?? bare ?? "";
    if (key !== "name") continue;
    const at = found.index + whole.indexOf(name, whole.indexOf("="));
    return name.length >= 1 && name.length <= 64 ? disposition.slice(at, at + name.length) : null;
  }
  return null;
}

function skipLineEnd(body: Bytes, at: number): number {
  let next = at;
  while (body[next] === 0x20 || body[next] === 0x09) next += 1;
  if (body[next] !== 0x0d || body[next + 1] !== 0x0a) throw broken("a boundary is not followed by a line end");
  return next + 2;
}

function after(body: Bytes, needle: Uint8Array, from: number): number | null {
  const at = find(body, needle, from, body.length);
  return at === null ? null : at + needle.length;
}

/** False starts after which looking for the first byte natively costs more than reading every byte once. */
const maxFalseStarts = 4096;

/** First place of `needle` that starts at `from` or later and before `to`; looks for its first byte natively. */
function find(body: Bytes, needle: Uint8Array, from: number, to: number): number | null {
  let falseStarts = 0;
  for (let at = body.indexOf(needle[0] ?? 0, from); at >= 0 && at < to; at = body.indexOf(needle[0] ?? 0, at + 1)) {
    if (startsAt(body, needle, at)) return at;
    falseStarts += 1;
    if (falseStarts === maxFalseStarts) return findLinearly(body, needle, at + 1, to);
  }
  return null;
}

/** The same in one pass whatever the bytes are (Knuth, Morris and Pratt 1977): 8 MiB of line ends must cost no second. */
function findLinearly(body: Bytes, needle: Uint8Array, from: number, to: number): number | null {
  const borders = new Uint8Array(needle.length);
  for (let at = 1, length = 0; at < needle.length; at += 1) {
    while (length > 0 && needle[at] !== needle[length]) length = borders[length - 1] ?? 0;
    if (needle[at] === needle[length]) length += 1;
    borders[at] = length;
  }
  const end = Math.min(body.length, to + needle.length - 1);
  for (let at = from, length = 0; at < end; at += 1) {
    while (length > 0 && body[at] !== needle[length]) length = borders[length - 1] ?? 0;
    if (body[at] === needle[length]) length += 1;
    if (length === needle.length) return at - needle.length + 1;
  }
  return null;
}

function startsAt(body: Bytes, needle: Uint8Array, at: number): boolean {
  for (let index = 0; index < needle.length; index += 1) if (body[at + index] !== needle[index]) return false;
  return true;
}

function latin1(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

function broken(why: string): PixelLLMError {
  return new PixelLLMError("ERR_VAL_INVALID_RANGE", { hint: `The form cannot be read: ${why}.` });
}
