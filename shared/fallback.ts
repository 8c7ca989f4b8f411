import type { ErrorCode } from "./errors.ts";

/** Which failures of a dependency the ladder may answer for; a new code does not build until it is decided here. */
const enters: Readonly<Record<ErrorCode, boolean>> = {
  ERR_CONN_UNAVAILABLE: true,
  ERR_CONN_REFUSED: true,
  ERR_CONN_TIMEOUT: true,
  ERR_TIMEOUT_REQUEST: true,
  ERR_TIMEOUT_RESPONSE: true,
  ERR_TIMEOUT_IDLE: true,
  ERR_VAL_INVALID_TENSOR: false,
  ERR_VAL_MISSING_FIELD: false,
  ERR_VAL_INVALID_RANGE: false,
  ERR_VAL_EMPTY_INPUT: false,
  ERR_API_RATE_LIMIT: true,
  ERR_API_OVERLOAD: true,
  ERR_API_INVALID_RESPONSE: true,
  ERR_API_UNAUTHORIZED: true,
  ERR_ENC_LOAD_FAILED: true,
  ERR_ENC_FORWARD_FAILED: true,
  ERR_ENC_INVALID_INPUT: false,
  ERR_CB_OPEN: true,
  ERR_CB_HALF_OPEN: true,
  ERR_RETRY_EXHAUSTED: true,
  ERR_INTERNAL: true,
  ERR_NOT_FOUND: false,
  ERR_CACHE_MISS: false,
};

/**
 * Whether a failed call to the sidecar enters the fallback ladder.
 * Asked only about what a dependency answered: a caller's own 401, 403 or 429, a bug of the edge and a caller
 * who left carry codes of this list too, and never get here.
 */
export function entersLadder(code: ErrorCode): boolean {
  return enters[code];
}

/** Milliseconds of a request's budget kept back for the ladder: 500, at most a tenth of the whole. */
export function ladderReserveMs(budgetMs: number): number {
  return Math.min(500, budgetMs / 10);
}
