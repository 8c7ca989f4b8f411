/** Bytes of request bodies that one isolate holds at once, of its 128 MB. */
export const bodyBudgetBytes = 48 * 2 ** 20;

/** Counts the bytes of bodies in flight. */
export type BodyBudget = {
  /** Takes `bytes` until `expiresMs` (Unix ms) or the returned release; null when they do not fit at `now`. */
  claim: (bytes: number, now: number, expiresMs: number) => (() => void) | null;
};

/** A budget of `limit` bytes. */
export function createBodyBudget(limit: number = bodyBudgetBytes): BodyBudget {
  const claims = new Set<{ bytes: number; expiresMs: number }>();
  return {
    claim: (bytes, now, expiresMs) => {
      let held = 0;
      for (const claim of claims) {
        // A request torn down in flight never releases: without an end of its own its claim would stay for good.
        if (claim.expiresMs <= now) claims.delete(claim);
        else held += claim.bytes;
      }
      if (held + bytes > limit) return null;
      const claim = { bytes, expiresMs };
      claims.add(claim);
      return () => {
        claims.delete(claim);
      };
    },
  };
}
