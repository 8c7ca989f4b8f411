import { renderPicture } from "../rendered-picture.ts";
import { startBenchStack } from "./bench-stack.ts";
import { send } from "./lean-http.ts";
import { boundedFigure, middle, ms, plainFigure, rank, times, type Measured, type Progress } from "./figure.ts";

/** The public endpoint without LM Studio, and what it does to others while it works. */
export async function measureEndpoint(progress: Progress): Promise<Measured> {
  progress("starting the endpoint");
  // One call a picture, whatever the absent LM Studio says: it is our own work that is measured.
  await using bench = await startBenchStack({ retry_max_attempts: 1, circuit_breaker_enabled: "false" });
  const { stack } = bench;
  const picture = new Uint8Array(renderPicture());
  const ask = async (body: Uint8Array, wanted: number): Promise<void> => {
    const headers = { "content-type": "image/png" };
    const { status, text } = await send(`${stack.edgeUrl}/v1/captions`, { headers, body });
    if (status !== wanted) throw new Error(`expected ${wanted}, got ${status} ${text}`);
  };
  const caption = (): Promise<void> => ask(picture, 200);
  const live = async (): Promise<void> => void (await send(`${stack.sidecarUrl}/livez`));
  await times(10, caption);
  progress("asking the endpoint, and refusing what it must");
  const alone = await times(60, caption);
  const bomb = new Uint8Array(picture);
  // A header of 16000 × 16000 before the same bytes: refused by its size, before anything decodes.
  new DataView(bomb.buffer).setUint32(16, 16_000);
  new DataView(bomb.buffer).setUint32(20, 16_000);
  const bombs = await times(60, () => ask(bomb, 413));
  const cuts = await times(60, () => ask(picture.subarray(0, picture.length / 2), 422));
  const idle = await times(200, live);
  progress("keeping it busy with 8 callers");
  const load = keepBusy(caption, 8);
  const during = await times(1000, live);
  const done = await load.stop();
  return {
    figures: [
      plainFigure("describe answer through edge and sidecar, p50", ms(middle(alone))),
      boundedFigure("refusal of a bomb's header, p99", rank(bombs, 0.99), { atMost: 100 }, ms),
      boundedFigure("refusal of a cut picture, p99", rank(cuts, 0.99), { atMost: 100 }, ms),
      plainFigure("/livez idle, p99", ms(rank(idle, 0.99))),
      boundedFigure("/livez while 8 callers keep the encoder busy, p99", rank(during, 0.99), { atMost: 20 }, ms),
      plainFigure("answers meanwhile", String(done)),
    ],
  };
}

/** Keeps `callers` loops of `work` running until told to stop; gives how often it was done. */
function keepBusy(work: () => Promise<void>, callers: number): { stop: () => Promise<number> } {
  const ending = new AbortController();
  let count = 0;
  const loops = Array.from({ length: callers }, async () => {
    while (!ending.signal.aborted) {
      await work();
      count += 1;
    }
  });
  return {
    stop: async () => {
      ending.abort();
      await Promise.all(loops);
      return count;
    },
  };
}
