import { createLog } from "../log.ts";
import { platform } from "../platform.ts";

/** Tells the log why an object's storage failed: whoever called the object only learns that it did. */
export function logStoreFailure(op: string, exception: unknown): void {
  createLog(platform, "WARNING", { operation: "cache" })("WARNING", "object storage failed", {
    exception,
    extra: { op },
  });
}
