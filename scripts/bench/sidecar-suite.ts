import type { Logger } from "../../shared/log.ts";
import { readCheckpoint } from "../../sidecar/checkpoint.ts";
import { startEncoder } from "../../sidecar/encoder.ts";
import { createImageDoor } from "../../sidecar/image.ts";
import { renderPicture } from "../rendered-picture.ts";
import { boundedFigure, middle, ms, plainFigure, times, type Measured, type Progress } from "./figure.ts";

const never = new AbortController().signal;
const silent: Logger = { debug: drop, info: drop, warning: drop, error: drop, critical: drop };

/** Decode and encode alone, without HTTP: the floor of what the endpoint can do. */
export async function measureSidecar(progress: Progress): Promise<Measured> {
  progress("decoding and encoding one picture 60 times");
  const encoder = await startEncoder({ model: await readCheckpoint(null), logger: silent });
  const door = createImageDoor({ maxPixels: 24 * 2 ** 20 });
  const picture = renderPicture();
  const decode = async (): Promise<Uint8Array> => {
    const { tensors } = await door.decode(picture, {
      format: "png",
      recipes: [encoder.recipe],
      jpeg: false,
      signal: never,
      timeoutMs: 5000,
    });
    return tensors[0] ?? new Uint8Array();
  };
  const tensor = await decode();
  const decodes = await times(60, decode);
  const runs: number[] = [];
  const encodes = await times(60, async () => void runs.push((await encoder.encode(tensor, never)).milliseconds));
  await encoder.close();
  const overhead = middle(encodes) - middle(runs);
  return {
    figures: [
      plainFigure("decode 960 × 640 PNG to 224, p50", ms(middle(decodes))),
      boundedFigure("encoder run, p50", middle(runs), { atMost: 20 }, ms),
      boundedFigure("encoder process round trip over the run, p50", overhead, { atMost: 2 }, ms),
    ],
  };
}

function drop(): void {
  // A benchmark's own parts have nothing to tell but their figures.
}
