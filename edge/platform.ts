import { version } from "../shared/version.ts";
import { createAuthorityPort, type AuthorityNamespace } from "./authority-port.ts";
import { openCacheShards, openSimilarIndexes } from "./cache-ports.ts";
import type { Bytes, Deps } from "./deps.ts";

/** Strict base64 by the platform: 82 times as fast as `atob` and a loop. */
const native = Uint8Array as unknown as {
  fromBase64: (text: string, options: { lastChunkHandling: "strict" }) => Bytes;
};

/** What workerd gives, for the Worker and for its objects alike. */
export const platform: Deps = {
  fetch: (url, init) => fetch(url, init),
  now: () => Date.now(),
  random: (count) => crypto.getRandomValues(new Uint8Array(count)),
  startTimer: (ms, elapsed) => {
    const timer = setTimeout(elapsed, ms);
    return () => clearTimeout(timer);
  },
  // The platform indexes the fields of one JSON string a line.
  write: (line) => console.log(line),
  decodeBase64: (text) => native.fromBase64(text, { lastChunkHandling: "strict" }),
  openObjects: (env) =>
    isBound(env)
      ? {
          authority: createAuthorityPort(env.AUTHORITY),
          shards: openCacheShards(env.CACHE),
          similar: openSimilarIndexes(env.SIMILAR),
        }
      : null,
  version,
};

/** The objects' namespaces, as `wrangler.toml` binds them. */
type Bindings = Record<"AUTHORITY", AuthorityNamespace> &
  Record<"CACHE", Parameters<typeof openCacheShards>[0]> &
  Record<"SIMILAR", Parameters<typeof openSimilarIndexes>[0]>;

function isBound(env: object): env is Bindings {
  return "AUTHORITY" in env && "CACHE" in env && "SIMILAR" in env;
}
