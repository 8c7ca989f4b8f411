import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** An LM Studio to measure against: one loaded model that sees, which answers at once or holds every answer back. */
export type BenchLmStudio = AsyncDisposable & {
  port: number;
  /** Chats come and get no token until `release`. */
  hold(): void;
  release(): void;
  /** Resolves once so many chats are held. */
  holding(count: number): Promise<void>;
};

const modelKey = "bench/vision";
const listing = JSON.stringify({
  models: [
    {
      type: "llm",
      publisher: "bench",
      key: modelKey,
      display_name: modelKey,
      loaded_instances: [{ id: modelKey, config: { context_length: 4096, parallel: 1 } }],
      max_context_length: 4096,
      format: "gguf",
      capabilities: { vision: true, trained_for_tool_use: false },
    },
  ],
});

/** Starts it on a free port of loopback; it works on one call at a time. */
export async function startBenchLmStudio(): Promise<BenchLmStudio> {
  const held = new Set<ServerResponse>();
  const watchers = new Set<() => void>();
  let holds = false;
  const server = createServer((request, response) => {
    if (request.method === "GET") {
      response.writeHead(request.url === "/api/v1/models" ? 200 : 404, { "content-type": "application/json" });
      response.end(listing);
      return;
    }
    request.resume().once("end", () => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(chunk({ role: "assistant", content: "" }, null));
      if (!holds) return finish(response);
      held.add(response);
      response.once("close", () => held.delete(response));
      for (const watcher of watchers) watcher();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const release = (): void => {
    holds = false;
    for (const response of held) finish(response);
    held.clear();
  };
  return {
    port: (server.address() as AddressInfo).port,
    hold() {
      holds = true;
    },
    release,
    holding: (count) =>
      new Promise((resolve) => {
        const look = (): void => {
          if (held.size < count) return;
          watchers.delete(look);
          resolve();
        };
        watchers.add(look);
        look();
      }),
    async [Symbol.asyncDispose]() {
      release();
      server.closeAllConnections();
      server.close();
    },
  };
}

function finish(response: ServerResponse): void {
  response.write(chunk({ content: "A lake under mountains." }, null));
  response.write(chunk({}, "stop"));
  response.end("data: [DONE]\n\n");
}

function chunk(delta: object, finishReason: string | null): string {
  const choices = [{ index: 0, delta, logprobs: null, finish_reason: finishReason }];
  const body = { id: "chatcmpl-1", object: "chat.completion.chunk", created: 1_790_000_000, model: modelKey, choices };
  return `data: ${JSON.stringify(body)}\n\n`;
}
