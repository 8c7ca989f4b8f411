import type { Patch } from "./patch.ts";
import { breakerPatches } from "./patches/breaker.ts";
import { cachePatches } from "./patches/cache.ts";
import { edgePatches } from "./patches/edge.ts";
import { libraryPatches } from "./patches/library.ts";
import { retryPatches } from "./patches/retry.ts";
import { sidecarPatches } from "./patches/sidecar.ts";

const sleepPatches: readonly Patch[] = [
  {
    wrong: "loop: a wait longer than a timer can hold ends at once",
    file: "shared/sleep.ts",
    from: "Math.min(longestTimerMs, Math.ceil(leftMs))",
    to: "Math.ceil(leftMs)",
    laws: ["test/shared/sleep.test.ts"],
  },
];

/** Breakers, loops, caches and queues wrong in one way each. */
export const patches: readonly Patch[] = [
  ...sleepPatches,
  ...breakerPatches,
  ...retryPatches,
  ...libraryPatches,
  ...cachePatches,
  ...edgePatches,
  ...sidecarPatches,
];
