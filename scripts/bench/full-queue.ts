import { sha256, signCall } from "../../edge/crypto.ts";
import type { ErrorBody } from "../../shared/errors.ts";
import { renderPicture } from "../rendered-picture.ts";
import { benchSecret, startBenchStack } from "./bench-stack.ts";
import { boundedFigure, middle, ms, rank, spread, timesBeside, type Figure, type Progress } from "./figure.ts";
import { send } from "./lean-http.ts";
import { startBenchLmStudio } from "./lm-studio.ts";

const maxQueue = 24;
const refusals = 500;
/** Longer than all that come one after another need to come. */
const waitMs = 4000;

type Reply = { status: number; error: ErrorBody | null; tookMs: number };

/** The sidecar behind a busy LM Studio: who waits too long is told in time, and who finds no room at once. */
export async function measureFullQueue(progress: Progress): Promise<Figure[]> {
  progress("sidecar: deadlines that expire in its queue");
  await using studio = await startBenchLmStudio();
  await using bench = await startBenchStack({
    lm_studio_port: studio.port,
    max_queue: maxQueue,
    log_level: "CRITICAL",
  });
  const picture = new Uint8Array(renderPicture());
  const bodySha256 = await sha256(picture);
  const ask = async (remainingMs: number): Promise<Reply> => {
    const parts = {
      method: "POST",
      path: "/v1/caption",
      query: `remaining_ms=${remainingMs}&no_store=true`,
      bodySha256,
    };
    const random = (count: number): Uint8Array<ArrayBuffer> => crypto.getRandomValues(new Uint8Array(count));
    const signature = await signCall(benchSecret, parts, Date.now(), random);
    const startedAt = performance.now();
    const { status, text } = await send(`${bench.stack.sidecarUrl}${parts.path}?${parts.query}`, {
      headers: { ...signature, "content-type": "image/png" },
      body: picture,
    });
    const tookMs = performance.now() - startedAt;
    const body = JSON.parse(text) as { error?: ErrorBody };
    return { status, error: body.error ?? null, tookMs };
  };
  const warm = await ask(30_000);
  if (warm.status !== 200) throw new Error(`a healthy call gives ${warm.status} ${warm.error?.code}`);

  studio.hold();
  const blocker = ask(30_000);
  await studio.holding(1);
  // One at a time at both ends: what is measured is the wait, not the crowd.
  const late = await Promise.all(
    Array.from({ length: 20 }, async (_, index) => {
      await new Promise((resolve) => {
        setTimeout(resolve, index * 150);
      });
      return lateness(await ask(waitMs), waitMs);
    }),
  );

  progress("sidecar: refusals when it is full");
  const inside = Array.from({ length: maxQueue - 1 }, () => ask(30_000));
  const refused = async (): Promise<boolean> => (await ask(30_000)).error?.details["reason"] === "full";
  for (let tries = 0; !(await refused()); tries += 1) if (tries > 100) throw new Error("the sidecar is never full");
  const refusal = async (): Promise<void> => {
    if (!(await refused())) throw new Error("a call found room in a full sidecar");
  };
  const live = async (): Promise<void> => void (await send(`${bench.stack.sidecarUrl}/livez`));
  const { taken, floors } = await timesBeside(refusals, refusal, live);
  studio.release();
  await Promise.all([blocker, ...inside]);
  return [
    boundedFigure(
      "refusal by a full sidecar, p99",
      rank(taken, 0.99),
      { under: 10 },
      ms,
      `p50 ${ms(middle(taken))}; its /livez in turn: ${spread(floors)}`,
    ),
    boundedFigure(
      "answer after a deadline that expired in the queue, latest of 20",
      Math.max(...late),
      { atMost: 20 },
      ms,
      `p50 ${ms(middle(late))}`,
    ),
  ];
}

/** How long after its deadline the caller was told, in ms. */
function lateness({ status, error, tookMs }: Reply, limitMs: number): number {
  if (error?.code !== "ERR_TIMEOUT_REQUEST") throw new Error(`expected a spent deadline, got ${status} ${error?.code}`);
  return Math.max(0, tookMs - limitMs);
}
