import { availableParallelism } from "node:os";
import { describe } from "../shared/describe.ts";
import { isPixelLLMError, type PixelLLMError, toPixelLLMError } from "../shared/errors.ts";
import { readEvidence, type Evidence, type Tag } from "../shared/evidence.ts";
import { sniffImage } from "../shared/image-header.ts";
import type { ImageFormat, ImageInfo, SidecarVector, StageTimings } from "../shared/wire.ts";
import type { Encoder, Encoding } from "./encoder.ts";
import type { DecodedImage, DecodeRequest } from "./image.ts";
import type { Quarantine } from "./quarantine.ts";
import type { WorkTime } from "./work-time.ts";

/** What is known of a picture so far; a failure carries it to the edge. */
export type Sight = {
  image: ImageInfo | null;
  evidence: Evidence | null;
  tags: Tag[];
  /** Of the encoder that serves `/v1/embed`. */
  embedding: Float32Array | null;
  vector: SidecarVector | null;
  timings: StageTimings;
};

/** A picture whose header was checked. */
export type Picture = {
  bytes: Uint8Array;
  format: ImageFormat;
  /** Lower-case hex of the bytes' sha-256. */
  sha256: string;
};

/** Decoder and encoders as one eye. */
export type Eye = {
  /** Decodes for the encoders, and for LM Studio when a JPEG is wanted too. */
  decode(picture: Picture, time: WorkTime, sight: Sight, jpeg: boolean): Promise<DecodedImage>;
  /** The JPEG alone. */
  decodeJpeg(picture: Pick<Picture, "bytes" | "format">, time: WorkTime): Promise<Uint8Array>;
  /**
   * Fills in evidence and vector, as far as the encoders give them, waiting for a lost encoder at most `patienceMs`.
   * Gives each one's failure, null = it worked; rejects only with the reason of `time.signal`.
   */
  encode(
    decoded: DecodedImage,
    picture: Picture,
    time: WorkTime,
    sight: Sight,
    patienceMs: number,
  ): Promise<{ evidence: PixelLLMError | null; vector: PixelLLMError | null }>;
  /** Time decoding and encoding of a picture that comes now are likely to take, in ms. */
  estimateMs(picture: Pick<Picture, "bytes" | "format">): number;
};

/** Longest time libvips may work on one picture, in ms. */
const decodeLimitMs = 5000;
/** One thread's time for a megapixel of baseline JPEG, in ms, and what other formats take beside it (measured). */
const jpegMsPerMegapixel = 3;
const formatWeights: Readonly<Record<ImageFormat, number>> = { jpeg: 1, png: 3.9, gif: 3.9, webp: 6.2, avif: 28 };

/** Nothing seen yet. */
export function blankSight(): Sight {
  return {
    image: null,
    evidence: null,
    tags: [],
    embedding: null,
    vector: null,
    timings: { decode: 0, encode: 0, generate: 0 },
  };
}

/** Builds the eye; `checkpoint` null = the embedded encoder gives the vectors too. `now` is monotonic ms. */
export function createEye(parts: {
  decode: (bytes: Uint8Array, request: DecodeRequest) => Promise<DecodedImage>;
  embedded: Encoder;
  checkpoint: Encoder | null;
  quarantine: Quarantine;
  now: () => number;
}): Eye {
  const { embedded, checkpoint, quarantine, now } = parts;
  const threads = availableParallelism();

  const decodeFor = (
    { bytes, format }: Pick<Picture, "bytes" | "format">,
    time: WorkTime,
    recipes: DecodeRequest["recipes"],
    jpeg: boolean,
  ): Promise<DecodedImage> => {
    const timeoutMs = Math.min(decodeLimitMs, time.remainingMs());
    return parts.decode(bytes, { format, recipes, jpeg, signal: time.signal, timeoutMs });
  };

  /** One encoder's run; a process that died with it is a strike against the picture. */
  const look = async (
    encoder: Encoder,
    tensor: Uint8Array | undefined,
    sha256: string,
    { signal }: WorkTime,
    patienceMs: number,
  ): Promise<Encoding | PixelLLMError> => {
    if (tensor === undefined) throw new Error("the decoder gave fewer tensors than recipes");
    try {
      return await encoder.encode(tensor, signal, patienceMs);
    } catch (thrown) {
      const error = toPixelLLMError(thrown);
      if (error.details["kind"] === "host_died") quarantine.strike("encoder", sha256);
      if (signal.aborted) throw thrown;
      return error;
    }
  };

  return {
    async decode(picture, time, sight, jpeg) {
      time.enter("decode");
      const startedAt = now();
      const recipes = checkpoint === null ? [embedded.recipe] : [embedded.recipe, checkpoint.recipe];
      const decoded = await decodeFor(picture, time, recipes, jpeg);
      sight.timings.decode = elapsed(startedAt, now());
      const { width, height } = decoded;
      sight.image = { format: picture.format, width, height, sha256: picture.sha256 };
      return decoded;
    },

    async decodeJpeg(picture, time) {
      time.enter("decode");
      const { jpeg } = await decodeFor(picture, time, [], true);
      return jpeg ?? missingJpeg();
    },

    async encode(decoded, { sha256 }, time, sight, patienceMs) {
      time.enter("encode");
      const startedAt = now();
      const seen = await look(embedded, decoded.tensors[0], sha256, time, patienceMs);
      if (!isPixelLLMError(seen)) {
        if (seen.outputs === null) throw new Error("the embedded encoder gave no evidence");
        sight.evidence = readEvidence(seen.outputs, { width: decoded.width, height: decoded.height });
        sight.tags = describe(sight.evidence).tags;
      }
      const vector = checkpoint === null ? seen : await look(checkpoint, decoded.tensors[1], sha256, time, patienceMs);
      sight.timings.encode = elapsed(startedAt, now());
      if (!isPixelLLMError(vector)) {
        sight.embedding = vector.embedding;
        sight.vector = describeVector(checkpoint ?? embedded, vector.embedding);
      }
      return { evidence: isPixelLLMError(seen) ? seen : null, vector: isPixelLLMError(vector) ? vector : null };
    },

    estimateMs({ bytes, format }) {
      const header = sniffImage(bytes);
      const megapixels = header.kind === "image" ? (header.width * header.height) / 2 ** 20 : 0;
      const decodeMs = (megapixels * jpegMsPerMegapixel * formatWeights[format]) / threads;
      return decodeMs + embedded.backlogMs() + (checkpoint?.backlogMs() ?? 0);
    },
  };
}

/** Id of an encoder's vectors: those of different ids are never compared. */
export function vectorIdOf(encoder: Encoder): string {
  const { name, fingerprint } = encoder.info();
  return `${name}@${fingerprint}`;
}

/** Least cosine at which an encoder's vectors mean the same picture, 0 to 1; null = not known. */
export function floorOf(encoder: Encoder): number | null {
  const { similarity_floor: floor } = encoder.info();
  return floor === null ? null : Math.max(0, floor);
}

/** Time between two readings in ms, to a tenth. */
export function elapsed(from: number, to: number): number {
  return Math.max(0, Math.round((to - from) * 10) / 10);
}

function describeVector(encoder: Encoder, embedding: Float32Array): SidecarVector {
  // Every platform we run on keeps the low byte first, as the wire does.
  const bytes = Buffer.from(embedding.buffer, embedding.byteOffset, embedding.byteLength);
  return { encoder: vectorIdOf(encoder), floor: floorOf(encoder), base64: bytes.toString("base64") };
}

function missingJpeg(): never {
  throw new Error("the decoder gave no JPEG although one was asked for");
}
