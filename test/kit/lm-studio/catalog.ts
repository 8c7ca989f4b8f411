/** One loaded instance of a model; `parallel` left out means that the listing does not report it. */
export interface Instance {
  readonly id: string;
  readonly parallel?: number;
  /** Tokens. */
  readonly contextLength: number;
}

/** A downloaded model as the stand-in knows it, with its loaded instances. */
export interface Model {
  readonly key: string;
  readonly type: "llm" | "embedding";
  /** What the listings say about images. */
  readonly vision: boolean;
  /** What a chat with an image finds; differs from `vision` when the flag is wrong. */
  readonly seesImages: boolean;
  /** Tokens. */
  readonly maxContextLength: number;
  readonly instances: readonly Instance[];
}

/** A model from the fields a test cares about; loaded once under its own key with parallel 4, unless told otherwise. */
export function model(key: string, fields: Partial<Model> = {}): Model {
  const vision = fields.vision ?? false;
  return {
    key,
    type: "llm",
    vision,
    seesImages: vision,
    maxContextLength: 32_768,
    instances: [{ id: key, parallel: 4, contextLength: 4096 }],
    ...fields,
  };
}

const vision = model("test/vision-4b", { vision: true });
const text = model("test/text-8b");
const embedding = model("text-embedding-nomic", {
  type: "embedding",
  instances: [{ id: "text-embedding-nomic", contextLength: 2048 }],
});

/** The catalogs of the discovery group, by name. */
export const CATALOGS = {
  vision: [vision],
  text: [text],
  textThenVision: [embedding, text, vision],
  embeddingOnly: [embedding],
  nothingLoaded: [
    { ...vision, instances: [] },
    { ...text, instances: [] },
  ],
  nothingDownloaded: [],
  duplicate: [
    model("test/vision-4b", {
      vision: true,
      instances: [
        { id: "test/vision-4b", parallel: 4, contextLength: 4096 },
        { id: "test/vision-4b:2", parallel: 4, contextLength: 4096 },
      ],
    }),
  ],
  noParallel: [model("test/vision-4b", { vision: true, instances: [{ id: "test/vision-4b", contextLength: 4096 }] })],
  parallelOne: [
    model("test/vision-4b", { vision: true, instances: [{ id: "test/vision-4b", parallel: 1, contextLength: 4096 }] }),
  ],
  flagSaysBlind: [model("test/vision-4b", { vision: false, seesImages: true })],
  flagSaysSeeing: [model("test/vision-4b", { vision: true, seesImages: false })],
  afterReload: [
    model("test/vision-4b", { vision: true, instances: [{ id: "test/vision-4b", parallel: 4, contextLength: 2048 }] }),
  ],
  duplicateAfterReload: [
    model("test/vision-4b", {
      vision: true,
      instances: [{ id: "test/vision-4b:2", parallel: 4, contextLength: 4096 }],
    }),
  ],
} as const satisfies Record<string, readonly Model[]>;

/** The body of `GET /api/v1/models`. */
export function listV1(models: readonly Model[]): string {
  return JSON.stringify({
    models: models.map((entry) => ({
      type: entry.type,
      publisher: "test",
      key: entry.key,
      display_name: entry.key,
      ...(entry.type === "llm" ? { architecture: "test" } : {}),
      quantization: { name: "Q4_K_M", bits_per_weight: 4 },
      size_bytes: 3_000_000_000,
      params_string: "4B",
      loaded_instances: entry.instances.map((instance) => ({
        id: instance.id,
        config: {
          context_length: instance.contextLength,
          ...(entry.type === "llm" ? { eval_batch_size: 512, flash_attention: true } : {}),
          ...(instance.parallel === undefined ? {} : { parallel: instance.parallel }),
        },
      })),
      max_context_length: entry.maxContextLength,
      format: "gguf",
      ...(entry.type === "llm" ? { capabilities: { vision: entry.vision, trained_for_tool_use: false } } : {}),
    })),
  });
}

/** The body of `GET /api/v0/models`: one entry per loaded instance, one for each model that is not loaded. */
export function listV0(models: readonly Model[]): string {
  const data = models.flatMap((entry) => {
    const shared = {
      object: "model",
      type: entry.type === "embedding" ? "embeddings" : entry.vision ? "vlm" : "llm",
      publisher: "test",
      arch: "test",
      compatibility_type: "gguf",
      quantization: "Q4_K_M",
      max_context_length: entry.maxContextLength,
    };
    if (entry.instances.length === 0) return [{ id: entry.key, ...shared, state: "not-loaded" }];
    return entry.instances.map((instance) => ({
      id: instance.id,
      ...shared,
      state: "loaded",
      loaded_context_length: instance.contextLength,
    }));
  });
  return JSON.stringify({ object: "list", data });
}

/** The body of `GET /v1/models`: everything downloaded, loaded or not, as with just-in-time loading on. */
export function listOpenAi(models: readonly Model[]): string {
  const ids = models.flatMap((entry) =>
    entry.instances.length === 0 ? [entry.key] : entry.instances.map(({ id }) => id),
  );
  return JSON.stringify({
    object: "list",
    data: ids.map((id) => ({ id, object: "model", owned_by: "organization_owner" })),
  });
}
