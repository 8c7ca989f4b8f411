import type { Patch } from "../patch.ts";

const key = ["test/shared/cache-key.test.ts", "test/edge/caption-cache.test.ts"];
const entry = ["test/shared/cache-entry.test.ts", "test/edge/caption-cache.test.ts"];

/** Caches wrong in one way each. */
export const cachePatches: readonly Patch[] = [
  {
    wrong: "cache: a fallback's answer is stored",
    file: "shared/cache-entry.ts",
    from: 'answer.source === "lm_studio" &&',
    to: "true &&",
    laws: entry,
  },
  {
    wrong: "cache: key without tenant",
    file: "shared/cache-key.ts",
    from: "captionTemplateVersion, tenant, sha256, wishes]",
    to: "captionTemplateVersion, sha256, wishes]",
    laws: key,
  },
  {
    wrong: "cache: key depends on the order of keys",
    file: "shared/cache-key.ts",
    from: ".sort()",
    to: ".slice()",
    laws: key,
  },
  {
    wrong: "cache: 0 is unset",
    file: "shared/cache-key.ts",
    from: "value[key] === undefined ? []",
    to: "!value[key] ? []",
    laws: key,
  },
  {
    wrong: "cache: served after its stale time",
    file: "shared/cache-entry.ts",
    from: 'if (ageMs >= staleMs) return { state: "gone" };',
    to: "",
    laws: entry,
  },
];
