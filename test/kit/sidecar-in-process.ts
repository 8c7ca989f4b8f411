import { once } from "node:events";
import type { Config } from "../../shared/config.ts";
import { listenOn, loopback } from "../../sidecar/listener.ts";
import { openSidecar, type Sidecar, type SidecarOptions } from "../../sidecar/sidecar.ts";
import { temporaryFolder } from "./folders.ts";
import { listeningSink } from "./log-sink.ts";
import { configWith } from "./settings.ts";
import { signedCall, type SignedCall } from "./signed-call.ts";
import { secret as kitSecret } from "./stack.ts";

/** The real sidecar inside the test's own process, listening on loopback. */
export type SidecarInProcess = AsyncDisposable & {
  url: string;
  port: number;
  config: Config;
  /** The parts behind the port: `engine`, `metrics`, `drain`. */
  sidecar: Sidecar;
  /** Log lines so far, each one JSON. */
  lines: readonly string[];
  /** A call signed with its secret. */
  call(call: SignedCall): Promise<Response>;
  /** Ends every connection and everything it started. */
  close(): Promise<void>;
};

/** What it runs with; all that is left out is the real thing. */
export type SidecarInProcessOptions = Pick<SidecarOptions, "hostModule" | "memory" | "now" | "wallNow"> & {
  /** Configuration keys; `state_dir` is a folder of its own unless named. */
  settings?: Readonly<Record<string, string | number>>;
  /** Secret that callers sign with; null takes unsigned calls; left out: the kit's. */
  signed?: string | null;
};

/** The encoder's stand-in whose misbehaviour a picture's colour chooses (`marked-pictures.ts`). */
export const fakeEncoderHost = new URL("fake-encoder-host.ts", import.meta.url);

/** Starts it on a free port. */
export async function startSidecarInProcess(options: SidecarInProcessOptions = {}): Promise<SidecarInProcess> {
  const { settings = {}, signed = kitSecret, ...injected } = options;
  const config = configWith({
    state_dir: temporaryFolder(),
    ...(signed === null ? {} : { sidecar_secret: signed }),
    ...settings,
  });
  const log = listeningSink(config.log_level);
  const sidecar = await openSidecar({ config, profile: "test", log, ...injected });
  const listening = Promise.withResolvers<number>();
  const server = listenOn(sidecar.app, 0, listening.resolve);
  server.once("error", listening.reject);
  const port = await listening.promise;
  const url = `http://${loopback}:${port}`;
  let closing: Promise<void> | null = null;
  const close = async (): Promise<void> => {
    const closed = once(server, "close");
    server.close();
    if ("closeAllConnections" in server) server.closeAllConnections();
    await closed;
    await sidecar.close();
  };
  const closeOnce = (): Promise<void> => (closing ??= close());
  return {
    url,
    port,
    config,
    sidecar,
    lines: log.lines,
    call: (call) => signedCall(url, signed, call),
    close: closeOnce,
    [Symbol.asyncDispose]: closeOnce,
  };
}
