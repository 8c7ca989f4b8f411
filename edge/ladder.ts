import type { RungName } from "../shared/config.ts";
import { describe } from "../shared/describe.ts";
import type { Tag } from "../shared/evidence.ts";
import type { ImageInfo, Route, SidecarVector, StageTimings } from "../shared/wire.ts";
import type { Log } from "./log.ts";
import type { Seen } from "./seen.ts";

/** A stored caption that stands in, with its age. */
export type StandIn = {
  caption: string;
  tags: Tag[];
  image: ImageInfo;
  model: string;
  route: Route;
  ageSeconds: number;
  ttlSeconds: number;
};

/** What the ladder may answer with; `stored` is set where the words come from an entry of the cache. */
export type LadderAnswer = {
  source: RungName;
  caption: string;
  tags: Tag[];
  image: ImageInfo | null;
  timings: StageTimings;
  stored: StandIn | null;
};

/** What the rungs work with. */
export type LadderInput = {
  chain: readonly RungName[];
  /** What failed answers said of the picture; null = there was none that said anything. */
  seen: Seen | null;
  /** Asks the box for evidence alone, without LM Studio; null = it cannot be had. Asked at most once. */
  look: () => Promise<Seen | null>;
  /** The same question's stored caption, fresh or stale. */
  recall: () => Promise<StandIn | null>;
  /** The caption of the nearest stored picture. */
  recallSimilar: (vector: SidecarVector) => Promise<StandIn | null>;
  defaultCaption: string | null;
  log: Log;
};

/** One rung: an answer, or null to pass on to the next. */
type Rung = (input: LadderInput) => Promise<LadderAnswer | null>;

const noTime: StageTimings = { decode: 0, encode: 0, generate: 0 };

/** The rungs there are. */
const rungs: Readonly<Record<RungName, Rung>> = {
  cache: async ({ recall }) => standIn("cache", await recall(), noTime),

  similar: async (input) => {
    const seen = await knownSight(input, ({ vector }) => vector !== null);
    if (seen === null || seen.vector === null) return null;
    return standIn("similar", await input.recallSimilar(seen.vector), seen.timings);
  },

  /** A sentence made only from evidence: what came with a failure, else one look of its own. */
  describe: async (input) => {
    const seen = await knownSight(input, ({ evidence }) => evidence !== null);
    if (seen === null || seen.evidence === null) return null;
    const { sentence, tags } = describe(seen.evidence);
    return { source: "describe", caption: sentence, tags, image: seen.image, timings: seen.timings, stored: null };
  },

  /** The owner's configured text. */
  default: async ({ defaultCaption, seen }) =>
    defaultCaption === null
      ? null
      : {
          source: "default",
          caption: defaultCaption,
          tags: [],
          image: seen?.image ?? null,
          timings: seen?.timings ?? noTime,
          stored: null,
        },
};

/** Tries the chain's rungs in order, each once; null when none can answer. A rung that throws passes on. */
export async function climb(input: LadderInput): Promise<LadderAnswer | null> {
  let looked: Promise<Seen | null> | null = null;
  const once: LadderInput = { ...input, look: () => (looked ??= input.look()) };
  for (const name of new Set(input.chain)) {
    try {
      const answer = await rungs[name](once);
      if (answer !== null) return answer;
    } catch (exception) {
      input.log("WARNING", "fallback rung failed", { exception, extra: { rung: name } });
    }
  }
  return null;
}

async function knownSight({ seen, look }: LadderInput, enough: (seen: Seen) => boolean): Promise<Seen | null> {
  return seen !== null && enough(seen) ? seen : look();
}

/** Words kept for a picture; what is told of the picture itself is only told where it is the same one. */
function standIn(source: "cache" | "similar", stored: StandIn | null, timings: StageTimings): LadderAnswer | null {
  if (stored === null) return null;
  const { caption, tags, image } = stored;
  return { source, caption, tags, image: source === "cache" ? image : null, timings, stored };
}
