/** Names of the headers that carry a signature and mark an answer. */
export const signatureHeaders = {
  keyId: "x-pixel-llm-key-id",
  timestamp: "x-pixel-llm-timestamp",
  nonce: "x-pixel-llm-nonce",
  bodySha256: "x-pixel-llm-content-sha256",
  signature: "x-pixel-llm-signature",
} as const;

/** The sidecar sets this on every answer it made itself; a proxy's or a stranger's answer lacks it. */
export const sidecarMarkerHeader = "x-pixel-llm-sidecar";

/** How far a signature's time may lie from the receiver's clock, in seconds; exactly this far still passes. */
export const signatureWindowSeconds = 60;

/** Bytes in a nonce; on the wire it is 32 hex digits. */
export const nonceBytes = 16;

/** What one signature covers. `query` is the raw text after `?`, without it; `bodySha256` is lower-case hex. */
export type SignedParts = {
  method: string;
  path: string;
  query: string;
  /** Unix seconds as decimal text. */
  timestamp: string;
  nonce: string;
  bodySha256: string;
  keyId: string;
};

/** The text that is signed: one line a part, no part may hold a line break. */
export function signedText(parts: SignedParts): string {
  return [
    "v1",
    parts.method,
    parts.path,
    parts.query,
    parts.timestamp,
    parts.nonce,
    parts.bodySha256,
    parts.keyId,
  ].join("\n");
}

/** The headers of a signature as read from a request, all well formed. */
export type SignatureClaim = Pick<SignedParts, "keyId" | "timestamp" | "nonce" | "bodySha256"> & { signature: string };

/** Reads the five headers; null when one is missing or not of its form. */
export function readSignatureClaim(header: (name: string) => string | null | undefined): SignatureClaim | null {
  const claim = {
    keyId: header(signatureHeaders.keyId) ?? "",
    timestamp: header(signatureHeaders.timestamp) ?? "",
    nonce: header(signatureHeaders.nonce) ?? "",
    bodySha256: header(signatureHeaders.bodySha256) ?? "",
    signature: header(signatureHeaders.signature) ?? "",
  };
  const wellFormed =
    /^[0-9a-f]{8}$/.test(claim.keyId) &&
    /^[0-9]{1,12}$/.test(claim.timestamp) &&
    /^[0-9a-f]{32}$/.test(claim.nonce) &&
    /^[0-9a-f]{64}$/.test(claim.bodySha256) &&
    /^[0-9a-f]{64}$/.test(claim.signature);
  return wellFormed ? claim : null;
}

/** Whether a signature's time lies inside the window around `nowSeconds` (Unix seconds). */
export function isTimely(timestamp: string, nowSeconds: number): boolean {
  return Math.abs(Number(timestamp) - Math.floor(nowSeconds)) <= signatureWindowSeconds;
}
