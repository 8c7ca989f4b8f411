import type { RungName } from "../shared/config.ts";
import { describe } from "../shared/describe.ts";
import type { PixelLLMError } from "../shared/errors.ts";
import type { Evidence, Tag } from "../shared/evidence.ts";
import type { ImageInfo, Route, StageTimings } from "../shared/wire.ts";

/** What is known of a picture, from a failed call or from one for evidence alone. */
export type LocalSeen = { evidence: Evidence | null; image: ImageInfo | null; timings: StageTimings };

/** A live caption that is kept for a time of failures. */
export type KeptCaption = { caption: string; tags: Tag[]; image: ImageInfo; model: string; route: Route };

/** What stands in for a live caption. */
export type LocalAnswer = {
  source: RungName;
  caption: string;
  tags: Tag[];
  image: ImageInfo | null;
  timings: StageTimings;
  model: string | null;
  route: Route | null;
};

/** Makes the words of rung `describe`; throwing or empty words pass on to the next rung. */
export type DescribePicture = (seen: { evidence: Evidence; cause: PixelLLMError }) => string | Promise<string>;

/** What the rungs work with. */
export type LocalLadderInput = {
  chain: readonly RungName[];
  /** The failure that started it. */
  cause: PixelLLMError;
  seen: LocalSeen | null;
  /** The caption kept for this very question; null = none. */
  recall: () => KeptCaption | null;
  /** Evidence alone, without LM Studio; null = it cannot be had. */
  look: () => Promise<LocalSeen | null>;
  describe: DescribePicture | null;
  defaultCaption: string | null;
  /** Told of a rung that threw. */
  rungFailed: (rung: RungName, thrown: unknown) => void;
};

const noTime: StageTimings = { decode: 0, encode: 0, generate: 0 };

/** Tries the chain's rungs in order, each once; null when none can answer. One that throws passes on. */
export async function climbLocally(input: LocalLadderInput): Promise<LocalAnswer | null> {
  for (const rung of new Set(input.chain)) {
    try {
      const answer = await step(rung, input);
      if (answer !== null) return answer;
    } catch (thrown) {
      input.rungFailed(rung, thrown);
    }
  }
  return null;
}

async function step(rung: RungName, input: LocalLadderInput): Promise<LocalAnswer | null> {
  const { seen } = input;
  switch (rung) {
    case "cache": {
      const kept = input.recall();
      return kept === null ? null : { source: rung, timings: noTime, ...kept };
    }
    case "similar":
      // Pictures are compared where many are kept: in the edge's index.
      return null;
    case "describe": {
      const known = seen === null || seen.evidence === null ? await input.look() : seen;
      if (known === null || known.evidence === null) return null;
      const { evidence, image, timings } = known;
      const { sentence, tags } = describe(evidence);
      const words = input.describe === null ? sentence : await input.describe({ evidence, cause: input.cause });
      if (words.trim() === "") return null;
      return { source: rung, caption: words, tags, image, timings, model: null, route: null };
    }
    case "default": {
      const caption = input.defaultCaption;
      if (caption === null) return null;
      const timings = seen?.timings ?? noTime;
      return { source: rung, caption, tags: [], image: seen?.image ?? null, timings, model: null, route: null };
    }
  }
}
