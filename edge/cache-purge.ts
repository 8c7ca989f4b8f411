import * as z from "zod";
import { PixelLLMError } from "../shared/errors.ts";
import { parseWith } from "../shared/wire.ts";
import { jsonAnswer } from "./answers.ts";
import { authenticate } from "./authentication.ts";
import type { PurgeScope } from "./cache-ports.ts";
import type { Scope } from "./scope.ts";

const querySchema = z.strictObject({
  /** `all`: everybody's; else the caller's own. */
  tenants: z.literal("all").optional(),
  /** Only what was made of the picture with this sha-256. */
  image: z
    .string()
    .regex(/^[0-9a-f]{64}$/, "64 lower-case hex digits")
    .optional(),
});

/** `DELETE /v1/cache`: forgets the caller's captions and vectors, of one picture (`image`), or everybody's (`tenants=all`). */
export async function answerPurge(request: Request, scope: Scope): Promise<Response> {
  const query = parseWith(querySchema, Object.fromEntries(new URL(request.url).searchParams));
  const tenant = await authenticate(request, scope.config, scope.log);
  const purged = await scope.cache.purge(readScope(query, tenant));
  // Isolates hold entries of their own: the epoch tells them to drop these.
  const told = (await scope.objects?.authority.bumpCacheEpoch()) ?? null;
  if (told?.ok === true) scope.cache.setEpoch(told.cacheEpoch);
  scope.log("INFO", "cache purged", { extra: { by: tenant, all: query.tenants === "all", ...purged } });
  if (purged.failed > 0 || told?.ok === false) {
    throw new PixelLLMError("ERR_API_OVERLOAD", {
      hint: "Not every store answered: send the same request again.",
      retryAfterSeconds: 1,
      details: { removed: purged.removed, failed: purged.failed },
    });
  }
  return jsonAnswer({ object: "cache.purged", removed: purged.removed, vectors: purged.vectors });
}

function readScope({ tenants, image }: z.output<typeof querySchema>, tenant: string): PurgeScope {
  if (tenants === "all" && image === undefined) return { kind: "all" };
  if (tenants === "all") {
    throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: "image", hint: "Not together with `tenants=all`." });
  }
  return image === undefined ? { kind: "tenant", tenant } : { kind: "image", tenant, sha256: image };
}
