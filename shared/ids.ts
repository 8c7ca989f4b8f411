/** A source of random bytes; each host passes its own. */
export type RandomBytes = (count: number) => Uint8Array;

const requestIdPattern = /^[A-Za-z0-9_-]{1,64}$/;
const traceParentPattern = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Lower-case hexadecimal text of bytes, two digits each. */
export function hex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** The caller's request id when it fits `[A-Za-z0-9_-]{1,64}`, else a new one (`req_` + 24 hex digits). */
export function readRequestId(header: string | null | undefined, random: RandomBytes): string {
  if (header !== null && header !== undefined && requestIdPattern.test(header)) return header;
  return `req_${hex(random(12))}`;
}

/** A new caption id: `cap_` + 24 hex digits. */
export function newCaptionId(random: RandomBytes): string {
  return `cap_${hex(random(12))}`;
}

/** The caller's W3C `traceparent` (version 00) when it is well formed, else a new sampled-out one. */
export function readTraceParent(header: string | null | undefined, random: RandomBytes): string {
  if (header !== null && header !== undefined && traceParentPattern.test(header)) return header;
  return `00-${hex(random(16))}-${hex(random(8))}-00`;
}
