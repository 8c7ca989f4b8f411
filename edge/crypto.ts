import { hex, type RandomBytes } from "../shared/ids.ts";
import { nonceBytes, signatureHeaders, signedText } from "../shared/signature.ts";
import type { Bytes } from "./deps.ts";

const encoder = new TextEncoder();

/** Lower-case hex of the sha-256 of bytes or of a text's UTF-8. */
export async function sha256(data: Bytes | string): Promise<string> {
  const bytes = typeof data === "string" ? encoder.encode(data) : data;
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
}

/** Whether two hashes in hex are equal, in a time that does not tell where they differ. */
export function sameHash(left: string, right: string): boolean {
  if (left.length !== right.length) return false;
  let difference = 0;
  for (let at = 0; at < left.length; at += 1) difference |= left.charCodeAt(at) ^ right.charCodeAt(at);
  return difference === 0;
}

/** What a call to the sidecar is signed over; `query` without its `?`. */
export type CallToSign = { method: string; path: string; query: string; bodySha256: string };

/** The headers that sign one call, anew for every attempt. `nowMs` is Unix time. */
export async function signCall(
  secret: string,
  call: CallToSign,
  nowMs: number,
  random: RandomBytes,
): Promise<Record<string, string>> {
  const keyId = (await sha256(secret)).slice(0, 8);
  const timestamp = String(Math.floor(nowMs / 1000));
  const nonce = hex(random(nonceBytes));
  const key = await crypto.subtle.importKey("raw", encoder.encode(secret), { name: "HMAC", hash: "SHA-256" }, false, [
    "sign",
  ]);
  const text = encoder.encode(signedText({ ...call, timestamp, nonce, keyId }));
  return {
    [signatureHeaders.keyId]: keyId,
    [signatureHeaders.timestamp]: timestamp,
    [signatureHeaders.nonce]: nonce,
    [signatureHeaders.bodySha256]: call.bodySha256,
    [signatureHeaders.signature]: hex(new Uint8Array(await crypto.subtle.sign("HMAC", key, text))),
  };
}
