import type { ErrorBody } from "../../shared/errors.ts";
import type { Caption } from "../../shared/wire.ts";
import { renderPicture } from "../rendered-picture.ts";
import { startBenchStack } from "./bench-stack.ts";
import {
  boundedFigure,
  middle,
  ms,
  plainFigure,
  rank,
  spread,
  times,
  timesBeside,
  type Figure,
  type Progress,
} from "./figure.ts";
import { send } from "./lean-http.ts";
import { startBenchLmStudio } from "./lm-studio.ts";

const calls = 500;
const freshSeconds = 15;

/** What the public endpoint answers without asking anybody: stored captions, and refusals while a breaker is open. */
export async function measureOpenBreaker(progress: Progress): Promise<Figure[]> {
  progress("endpoint: stored captions and refusals, through the real Worker");
  await using studio = await startBenchLmStudio();
  await using bench = await startBenchStack({
    lm_studio_port: studio.port,
    fallback_cache_ttl: freshSeconds,
    retry_max_attempts: 1,
  });
  const { edgeUrl } = bench.stack;
  const picture = new Uint8Array(renderPicture());
  const ask = async (query: string, more: Record<string, string> = {}): Promise<[number, unknown]> => {
    const headers = { "content-type": "image/png", ...more };
    const { status, text } = await send(`${edgeUrl}/v1/captions${query}`, { headers, body: picture });
    return [status, JSON.parse(text)];
  };
  const captionFrom = async (source: string): Promise<void> => {
    const [status, body] = await ask("");
    const seen = status === 200 ? (body as Caption).source : (body as { error: ErrorBody }).error.code;
    if (seen !== source) throw new Error(`expected a caption from ${source}, got ${status} ${seen}`);
  };
  const storedAt = performance.now();
  await captionFrom("lm_studio");
  // It is stored behind its answer.
  await times(3, async () => void (await ask("")));
  const fresh = await times(calls, () => captionFrom("cache"));
  const tookMs = performance.now() - storedAt;
  if (tookMs > freshSeconds * 1000) throw new Error(`the caption was stale before ${calls} calls were made`);

  const opened = await fetch(`${edgeUrl}/v1/circuit-breakers/lm_studio_api/open`, { method: "POST" });
  if (!opened.ok) throw new Error(`the breaker does not open: ${opened.status} ${await opened.text()}`);
  const refusal = async (): Promise<void> => {
    // Nothing stored is looked for, so it is the breaker that answers.
    const [status, body] = await ask("?fallback=none", { "cache-control": "no-store" });
    const { code } = (body as { error: ErrorBody }).error;
    if (status !== 503 || code !== "ERR_CB_OPEN") throw new Error(`expected ERR_CB_OPEN, got ${status} ${code}`);
  };
  const health = async (): Promise<void> => void (await send(`${edgeUrl}/healthz`));
  await timesBeside(20, refusal, health);
  const { taken: refusals, floors } = await timesBeside(calls, refusal, health);

  progress("endpoint: waiting until the stored caption is stale");
  const leftMs = freshSeconds * 1000 + 500 - (performance.now() - storedAt);
  await new Promise((resolve) => {
    setTimeout(resolve, leftMs);
  });
  const stale = await times(calls, () => captionFrom("cache"));
  return [
    boundedFigure(
      "refusal while open through the Worker, p99",
      rank(refusals, 0.99),
      { under: 10 },
      ms,
      `p50 ${ms(middle(refusals))}; its /healthz in turn: ${spread(floors)}`,
    ),
    plainFigure("fresh caption from the cache", spread(fresh)),
    plainFigure("stale caption while open", spread(stale)),
  ];
}
