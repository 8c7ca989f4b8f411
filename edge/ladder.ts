import type { RungName } from "../shared/config.ts";
import { describe } from "../shared/describe.ts";
import type { PixelLLMError } from "../shared/errors.ts";
import type { Evidence, Tag } from "../shared/evidence.ts";
import type { ImageInfo, StageTimings } from "../shared/wire.ts";
import type { Log } from "./log.ts";

/** What the ladder may answer with. */
export type LadderAnswer = {
  source: RungName;
  caption: string;
  tags: Tag[];
  image: ImageInfo | null;
  timings: StageTimings;
};

/** What is known of a picture, from the failed answer or from a call for evidence alone. */
export type Seen = { evidence: Evidence | null; image: ImageInfo | null; timings: StageTimings };

/** What the rungs work with. */
export type LadderInput = {
  chain: readonly RungName[];
  /** The failure that started it. */
  cause: PixelLLMError;
  /** What the failed answer said of the picture; null when there was no answer. */
  seen: Seen | null;
  /** Asks the box for evidence alone, without LM Studio; null = it cannot be had. */
  look: () => Promise<Seen | null>;
  defaultCaption: string | null;
  log: Log;
};

/** One rung: an answer, or null to pass on to the next. */
type Rung = (input: LadderInput) => Promise<LadderAnswer | null>;

const noTime: StageTimings = { decode: 0, encode: 0, generate: 0 };

/** A sentence made only from evidence: what came with the failure, else one look of its own. */
const describeRung: Rung = async ({ seen, look }) => {
  const known = seen?.evidence === null || seen === null ? await look() : seen;
  if (known?.evidence === null || known === null) return null;
  const { sentence, tags } = describe(known.evidence);
  return { source: "describe", caption: sentence, tags, image: known.image, timings: known.timings };
};

/** The owner's configured text. */
const defaultRung: Rung = async ({ defaultCaption, seen }) =>
  defaultCaption === null
    ? null
    : {
        source: "default",
        caption: defaultCaption,
        tags: [],
        image: seen?.image ?? null,
        timings: seen?.timings ?? noTime,
      };

/** The rungs there are; a name of the chain without one passes on. */
const rungs: Partial<Record<RungName, Rung>> = { describe: describeRung, default: defaultRung };

/** Tries the chain's rungs in order; null when none can answer. A rung that throws passes on. */
export async function climb(input: LadderInput): Promise<LadderAnswer | null> {
  for (const name of input.chain) {
    try {
      const answer = (await rungs[name]?.(input)) ?? null;
      if (answer !== null) return answer;
    } catch (exception) {
      input.log("WARNING", "fallback rung failed", { exception, extra: { rung: name } });
    }
  }
  return null;
}
