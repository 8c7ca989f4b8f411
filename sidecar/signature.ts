import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { isTimely, readSignatureClaim, signedText, type SignatureClaim } from "../shared/signature.ts";
import type { ReplayGuard } from "./replay-guard.ts";

/** Why a request was turned away; for the log, the caller learns nothing. */
export const signatureFaults = ["malformed", "unknown_key", "skewed_clock", "wrong_signature", "replayed"] as const;
export type SignatureFault = (typeof signatureFaults)[number];

/** The claim whose body hash still has to match, or the fault. */
export type SignatureVerdict = { ok: true; claim: SignatureClaim } | { ok: false; fault: SignatureFault };

/** What a signature is checked over: `query` is the raw text after `?`. */
export type SignedRequest = {
  method: string;
  path: string;
  query: string;
  header: (name: string) => string | undefined;
};

/** Id of a secret: the first 8 hex digits of its sha-256; says which of two active secrets signed. */
export function keyIdOf(secret: string): string {
  return createHash("sha256").update(secret).digest("hex").slice(0, 8);
}

/**
 * Checks signatures against the active secrets (one, or two while one is being replaced).
 * Order: shape, known key, time, signature, nonce; so nothing unsigned is remembered or buffered.
 */
export function createSignatureCheck(
  secrets: readonly string[],
  replays: ReplayGuard,
): (request: SignedRequest, nowSeconds: number) => SignatureVerdict {
  const keys = new Map(secrets.map((secret) => [keyIdOf(secret), secret]));
  return (request, nowSeconds) => {
    const claim = readSignatureClaim(request.header);
    if (claim === null) return { ok: false, fault: "malformed" };
    const secret = keys.get(claim.keyId);
    if (secret === undefined) return { ok: false, fault: "unknown_key" };
    if (!isTimely(claim.timestamp, nowSeconds)) return { ok: false, fault: "skewed_clock" };
    const text = signedText({ ...claim, method: request.method, path: request.path, query: request.query });
    const expected = createHmac("sha256", secret).update(text).digest();
    // Both sides have 32 bytes here: the claim's form was checked, so the comparison cannot throw on length.
    if (!timingSafeEqual(expected, Buffer.from(claim.signature, "hex"))) return { ok: false, fault: "wrong_signature" };
    if (!replays.admit(claim.nonce, Number(claim.timestamp), nowSeconds)) return { ok: false, fault: "replayed" };
    return { ok: true, claim };
  };
}
