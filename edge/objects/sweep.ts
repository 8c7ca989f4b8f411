import { logStoreFailure } from "./store-log.ts";

/** How long after a write the first sweep comes, and after it the next while anything is left. */
export const sweepMs = { captions: 3_600_000, vectors: 86_400_000 } as const;

/**
 * Sets the object's alarm unless it is set. Never throws: without an alarm, what has ended is still never served,
 * and the next write tries again.
 */
export async function sweepLater(storage: DurableObjectStorage, ms: number): Promise<void> {
  try {
    if ((await storage.getAlarm()) === null) await storage.setAlarm(Date.now() + ms);
  } catch (error) {
    // A store that cannot write (a spent quota) keeps answering from what it has.
    logStoreFailure("alarm", error);
  }
}
