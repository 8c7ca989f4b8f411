import type { RandomBytes } from "../shared/ids.ts";
import type { CacheShardPort, SimilarPort } from "./cache-ports.ts";
import type { AuthorityPort } from "./objects/authority-protocol.ts";

/** Bytes that own an ordinary buffer, as `fetch` and `crypto.subtle` take them. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** The objects behind the Worker; null = they are not bound, and every isolate is on its own. */
export type Objects = {
  authority: AuthorityPort;
  shards: (index: number) => CacheShardPort;
  similar: (tenant: string) => SimilarPort;
};

/** What the edge takes from its host; the entry file binds the real ones, tests their own. */
export type Deps = {
  /** Sends one request; must obey `init.signal`. */
  fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** Unix time in ms. It may stand still between two awaits and step back: differences are clamped at zero. */
  now: () => number;
  random: RandomBytes;
  /** Calls `elapsed` once after `ms`, unless the returned function was called before. */
  startTimer: (ms: number, elapsed: () => void) => () => void;
  /** Takes one finished log line. */
  write: (line: string) => void;
  /** Standard base64, padded, to bytes; throws on anything else. */
  decodeBase64: (text: string) => Bytes;
  /** The objects that the Worker's environment binds. */
  openObjects: (env: object) => Objects | null;
  /** Version of this build, for `/v1/status`. */
  version: string;
};
