import { serve, type ServerType } from "@hono/node-server";
import type { Sidecar } from "./sidecar.ts";

/** The one address the sidecar listens on. */
export const loopback = "127.0.0.1";

/** Serves a sidecar on a port of the loopback address (0 = any free one); `listening` gets the port. */
export function listenOn(app: Sidecar["app"], port: number, listening: (port: number) => void): ServerType {
  const server = serve(
    {
      fetch: app.fetch,
      hostname: loopback,
      port,
      serverOptions: {
        headersTimeout: 5000,
        requestTimeout: 20_000,
        maxHeaderSize: 32_768,
      },
    },
    (address) => listening(address.port),
  );
  if ("maxRequestsPerSocket" in server) server.maxRequestsPerSocket = 1000;
  return server;
}
