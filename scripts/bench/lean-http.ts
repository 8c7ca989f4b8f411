import { Agent, request } from "node:http";

/** One answer: its status and its body as text. */
export type LeanReply = { status: number; text: string };

const agent = new Agent({ keepAlive: true });

/**
 * One call by the plainest client there is, over connections that are kept. `fetch` copies each body it sends and stops
 * for its own garbage, 20 to 30 ms every twentieth picture: that would be measured, not the server.
 */
export function send(
  url: string,
  init: { method?: "GET" | "POST"; headers?: Readonly<Record<string, string>>; body?: Uint8Array } = {},
): Promise<LeanReply> {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, {
      agent,
      method: init.method ?? (init.body === undefined ? "GET" : "POST"),
      headers: { ...init.headers, ...(init.body === undefined ? {} : { "content-length": init.body.length }) },
    });
    outgoing.once("error", reject);
    outgoing.once("response", (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      response.once("error", reject);
      response.once("end", () => resolve({ status: response.statusCode ?? 0, text }));
    });
    outgoing.end(init.body);
  });
}
