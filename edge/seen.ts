import type { Evidence } from "../shared/evidence.ts";
import type { ImageInfo, SidecarEmbedding, SidecarFailure, SidecarVector, StageTimings } from "../shared/wire.ts";
import { vectorBase64 } from "./vector-text.ts";

/** What is known of a picture, from a failed answer or from a call for evidence alone. */
export type Seen = {
  evidence: Evidence | null;
  vector: SidecarVector | null;
  image: ImageInfo | null;
  timings: StageTimings;
};

/** What a failed answer says of the picture. */
export function readSeen({ evidence, vector, image, timings_ms: timings }: SidecarFailure): Seen {
  return { evidence, vector, image, timings };
}

/** The same from an answer that was asked for nothing else. */
export function readEvidenceAnswer(answer: SidecarEmbedding): Seen {
  const { evidence, image, timings_ms: timings, model: encoder, similarity_floor: floor, embedding } = answer;
  return { evidence, vector: { encoder, floor, base64: vectorBase64(embedding) }, image, timings };
}
