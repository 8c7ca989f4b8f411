import { createApp } from "./app.ts";
import { platform } from "./platform.ts";

export { Authority } from "./objects/authority.ts";
export { CacheShard } from "./objects/cache-shard.ts";
export { SimilarIndex } from "./objects/similar-index.ts";

/** What the Worker is deployed with, beside `PIXEL_LLM_` settings, which are read by name in `shared/config.ts`. */
type Env = { VERSION?: { id: string } };

const app = createApp(platform);

export default { fetch: (request, env, context) => app.fetch(request, env, context) } satisfies ExportedHandler<Env>;
