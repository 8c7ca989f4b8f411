import type { Config } from "../shared/config.ts";
import { PixelLLMError } from "../shared/errors.ts";
import { sameHash, sha256 } from "./crypto.ts";
import type { Log } from "./log.ts";

const loopbackHosts: ReadonlySet<string> = new Set(["127.0.0.1", "localhost", "[::1]"]);

/** The tenant of open calls on loopback, where no keys are configured. */
export const openTenant = "local";

/**
 * The tenant a request speaks for: 16 hex digits of its key's sha-256. Runs before any body is read.
 * Missing and wrong keys look and cost the same: 401 `ERR_API_UNAUTHORIZED`.
 */
export async function authenticate(request: Request, config: Config, log: Log): Promise<string> {
  if (config.api_keys.length === 0) {
    if (loopbackHosts.has(new URL(request.url).hostname)) return openTenant;
    log("ERROR", "no api_keys are configured: calls are refused anywhere but on loopback; set PIXEL_LLM_API_KEYS");
    throw unauthorized();
  }
  const [, key = ""] = /^Bearer ([\x21-\x7e]{1,256})$/i.exec(request.headers.get("authorization") ?? "") ?? [];
  const given = await sha256(key);
  const known = await Promise.all(config.api_keys.map((each) => sha256(each)));
  // All are compared, whichever matches: the time does not tell how far down the list a key stands.
  const matches = known.filter((hash) => sameHash(hash, given)).length;
  if (matches === 0) throw unauthorized();
  return given.slice(0, 16);
}

function unauthorized(): PixelLLMError {
  return new PixelLLMError("ERR_API_UNAUTHORIZED", { status: 401 });
}
