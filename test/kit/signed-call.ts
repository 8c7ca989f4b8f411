import { sha256, signCall } from "../../edge/crypto.ts";

/** One call to a sidecar; `target` is path and query. */
export type SignedCall = {
  method?: "GET" | "POST";
  target: string;
  body?: Uint8Array | string;
  type?: string;
  headers?: Readonly<Record<string, string>>;
  signal?: AbortSignal;
  /** Epoch milliseconds that the signature tells; left out: now. */
  at?: number;
};

/** Calls a sidecar as the edge does, signed with `secret`; null sends no signature. */
export async function signedCall(url: string, secret: string | null, call: SignedCall): Promise<Response> {
  const { method = "GET", target, body = "", type = "application/json" } = call;
  const [path = "", query = ""] = target.split("?");
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : new Uint8Array(body);
  const parts = { method, path, query, bodySha256: await sha256(bytes) };
  const random = (count: number): Uint8Array<ArrayBuffer> => crypto.getRandomValues(new Uint8Array(count));
  const signature = secret === null ? {} : await signCall(secret, parts, call.at ?? Date.now(), random);
  return fetch(`${url}${target}`, {
    method,
    headers: { ...signature, "content-type": type, ...call.headers },
    ...(method === "POST" ? { body: bytes } : {}),
    ...(call.signal === undefined ? {} : { signal: call.signal }),
  });
}
