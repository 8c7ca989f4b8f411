import type { Model } from "./catalog.ts";

/**
 * A place in an answer: before the status line, in the middle of the head, after the head, after the role delta, after
 * n tokens, after the chunk with `finish_reason`, after the usage chunk, after `[DONE]` (or the whole body of a reply),
 * or after n bytes of the body.
 */
export type Place =
  | "status"
  | "mid-head"
  | "head"
  | "role"
  | "finish"
  | "usage"
  | "done"
  | { readonly tokens: number }
  | { readonly byte: number };

/** What may happen to any answer on its way; several pauses may stand at different places, then the cut. */
export interface Interruptions {
  /** The answer stands still at the place until the gate lets it through. */
  readonly pauses?: readonly { readonly at: Place; readonly gate: string }[];
  /** The connection ends at the place, by FIN or RST; `midChunk` leaves a transfer chunk begun and not finished. */
  readonly cut?: { readonly at: Place; readonly how: "eof" | "rst"; readonly midChunk?: boolean };
  /** Every single byte of the body waits at this gate. */
  readonly dribble?: string;
  /** When the client aborts, the slot stays taken until this gate opens, as with prompt work that runs to its end. */
  readonly holdAfterAbort?: string;
  /** The socket is closed right after a whole answer, with no `Connection: close` before it. */
  readonly hangUp?: boolean;
  /** The port refuses connections from before the answer's end until this gate opens. */
  readonly refuseUntil?: string;
  /** Further headers, in order; the same name may stand twice. */
  readonly headers?: readonly (readonly [string, string])[];
}

/** Content tokens: a list, or one text repeated. */
export type Tokens = readonly string[] | { readonly repeat: string; readonly count: number | "endless" };

/** An answer as server-sent events; every field left out is as LM Studio does it. */
export interface StreamMode extends Interruptions {
  readonly kind: "stream";
  readonly tokens?: Tokens;
  /** Thinking, sent before the content. */
  readonly reasoning?: readonly string[];
  readonly reasoningKey?: "reasoning_content" | "reasoning";
  /** Left out: as the request's `stream_options.include_usage` asks. */
  readonly usage?: boolean;
  readonly done?: boolean;
  readonly finishReason?: "stop" | "length" | null;
  readonly newline?: "\n" | "\r\n";
  readonly comments?: boolean;
  readonly roleEveryChunk?: boolean;
  readonly emptyToolCalls?: boolean;
  /** The model the answer names; left out: the one asked for. */
  readonly model?: string;
  /** Each content token waits at this gate. */
  readonly tokenGate?: string;
  /** After n tokens an error takes the place of the rest; `event` false sends `data:` alone. */
  readonly failAfter?: { readonly tokens: number; readonly payload: string; readonly event?: boolean };
  /** What the chunks' `choices` hold: entries, `[]`, or no key at all. */
  readonly choices?: "normal" | "empty" | "absent";
  /** The stream is this text instead of chunks. */
  readonly raw?: string;
}

/** One JSON answer, also when a stream was asked for. */
export interface PlainMode extends Interruptions {
  readonly kind: "plain";
  readonly content?: string;
  readonly reasoning?: string;
  readonly finishReason?: "stop" | "length";
  readonly usage?: boolean;
  readonly model?: string;
  readonly choices?: "normal" | "empty" | "absent";
}

/** Any answer, byte for byte. */
export interface ReplyMode extends Interruptions {
  readonly kind: "reply";
  readonly status: number;
  readonly body: string | { readonly base64: string };
  readonly contentType?: string;
  /** This many bytes more are promised by `Content-Length` than sent. */
  readonly promiseMore?: number;
}

/** Stream head and role delta, then a comment for each step of the gate, for ever. */
export interface CommentsMode extends Interruptions {
  readonly kind: "comments";
  readonly gate: string;
}

/** Bytes in place of an HTTP answer, then the end of the connection. */
export interface NoiseMode {
  readonly kind: "noise";
  readonly base64: string;
  readonly how: "eof" | "rst";
}

/** What a chat call gets. */
export type ChatMode = StreamMode | PlainMode | ReplyMode | CommentsMode | NoiseMode;

/** What a model listing gets: what this version of LM Studio has, or one fixed answer for every listing. */
export type DiscoveryMode = { readonly kind: "v1" } | { readonly kind: "v0" } | { readonly kind: "openai" } | ReplyMode;

/** What `POST /api/v1/models/load` does: load, when the gate opens if one is named, or one fixed answer at that moment. */
export type LoadMode =
  | {
      readonly kind: "load";
      readonly gate?: string;
      readonly parallel?: number;
      readonly contextLength?: number;
      readonly id?: string;
    }
  | (ReplyMode & { readonly gate?: string });

/** What happens to a new connection: served, or ended at once. */
export type ConnectionMode = { readonly kind: "serve" } | { readonly kind: "end"; readonly how: "eof" | "rst" };

/** Everything a stand-in starts with; plain JSON, so it can be handed to a process of its own. */
export interface Script {
  /** Default 127.0.0.1; `::1` for IPv6 only. */
  readonly host?: "127.0.0.1" | "::1";
  /** Default 0: any free port. */
  readonly port?: number;
  /** When set, every call needs it as bearer token. */
  readonly token?: string;
  readonly models?: readonly Model[];
  /** The answer to every chat that finds the queue empty. */
  readonly chat?: ChatMode;
  /** The answers to the first chats. */
  readonly queue?: readonly ChatMode[];
  readonly discovery?: DiscoveryMode;
  readonly load?: LoadMode;
  readonly connection?: ConnectionMode;
  /** Whether naming a downloaded model that is not loaded loads it and evicts the others; default true, as LM Studio does. */
  readonly jit?: boolean;
  /** Chats that work at once; further ones wait for a slot. Left out: no bound. */
  readonly slots?: number;
  /** Whether a second concurrent chat kills both with the crash text. */
  readonly collide?: boolean;
}
