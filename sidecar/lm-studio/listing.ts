import * as z from "zod";

/** A model instance that can answer now. */
export type LoadedModel = {
  /** What is sent as `model`. */
  id: string;
  /** The model it is an instance of. */
  key: string;
  vision: boolean;
  /** Calls it works on at once; null = not reported. */
  parallel: number | null;
};

/** What LM Studio has, as far as its version tells. */
export type Listing = {
  api: "v1" | "v0" | "openai";
  loaded: LoadedModel[];
  /** Keys of models that are there and not loaded. */
  idle: string[];
};

const v1Schema = z.object({
  models: z.array(
    z.object({
      type: z.string(),
      key: z.string(),
      capabilities: z.object({ vision: z.boolean().optional() }).optional(),
      loaded_instances: z
        .array(z.object({ id: z.string(), config: z.object({ parallel: z.number().optional() }).optional() }))
        .optional(),
    }),
  ),
});

const v0Schema = z.object({ data: z.array(z.object({ id: z.string(), type: z.string(), state: z.string() })) });

const openAiSchema = z.object({ data: z.array(z.object({ id: z.string() })) });

/** The listings LM Studio offers, newest first; an answer counts only when its shape fits. */
export const listings: readonly { path: string; read: (body: unknown) => Listing | null }[] = [
  { path: "/api/v1/models", read: readV1 },
  { path: "/api/v0/models", read: readV0 },
  { path: "/v1/models", read: readOpenAi },
];

function readV1(body: unknown): Listing | null {
  const result = v1Schema.safeParse(body);
  if (!result.success) return null;
  const models = result.data.models.filter(({ type }) => !type.startsWith("embedding"));
  return {
    api: "v1",
    loaded: models.flatMap(({ key, capabilities, loaded_instances: instances = [] }) =>
      instances.map(({ id, config }) => ({
        id,
        key,
        vision: capabilities?.vision === true,
        parallel: config?.parallel ?? null,
      })),
    ),
    idle: models.filter(({ loaded_instances: instances = [] }) => instances.length === 0).map(({ key }) => key),
  };
}

function readV0(body: unknown): Listing | null {
  const result = v0Schema.safeParse(body);
  if (!result.success) return null;
  const models = result.data.data.filter(({ type }) => !type.startsWith("embedding"));
  const isLoaded = ({ state }: { state: string }): boolean => state === "loaded";
  return {
    api: "v0",
    loaded: models.filter(isLoaded).map(({ id, type }) => ({ id, key: id, vision: type === "vlm", parallel: null })),
    idle: models.filter((model) => !isLoaded(model)).map(({ id }) => id),
  };
}

/** The last resort lists what can be named, loaded or not, and says of none whether it sees. */
function readOpenAi(body: unknown): Listing | null {
  const result = openAiSchema.safeParse(body);
  if (!result.success) return null;
  const ids = result.data.data.map(({ id }) => id).filter((id) => !/embed/i.test(id));
  return { api: "openai", loaded: ids.map((id) => ({ id, key: id, vision: false, parallel: null })), idle: [] };
}
