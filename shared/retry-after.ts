/** The headers a wait can be told in; each may come more than once. */
export type RetryAfterHeaders = {
  retryAfter: readonly string[];
  retryAfterMs: readonly string[];
  /** The response's own `Date`, which HTTP dates are measured against. */
  date: string | null;
};

const months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/** A week: whoever asks for more does not mean seconds. */
const longestMs = 7 * 24 * 3600 * 1000;

/**
 * The wait an answer asks for, in ms: `retry-after-ms` first, else the largest valid `retry-after` as whole or
 * decimal seconds or one of the three HTTP date forms (RFC 9110, 5.6.7). Null = absent or not readable; 0 = a date
 * in the past. `nowMs` (Unix) serves where the answer has no date of its own.
 */
export function readRetryAfter(headers: RetryAfterHeaders, nowMs: number): number | null {
  const exact = largest(headers.retryAfterMs.map((value) => (isDecimal(value) ? inRange(Number(value)) : null)));
  if (exact !== null) return exact;
  const origin = (headers.date === null ? null : readHttpDate(headers.date)) ?? nowMs;
  return largest(
    headers.retryAfter.map((value) => {
      if (isDecimal(value)) return inRange(Number(value) * 1000);
      const at = readHttpDate(value);
      return at === null ? null : inRange(Math.max(0, at - origin));
    }),
  );
}

/** Unix ms of an HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`. */
export function readHttpDate(text: string): number | null {
  const value = text.trim();
  const fixed = /^[a-z]{3}, (\d{2}) ([a-z]{3}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT$/i.exec(value);
  if (fixed !== null) return toUnix(fixed[3], fixed[2], fixed[1], fixed.slice(4));
  const old = /^[a-z]{6,9}, (\d{2})-([a-z]{3})-(\d{2}) (\d{2}):(\d{2}):(\d{2}) GMT$/i.exec(value);
  // Two digits: the standard reads a year more than 50 ahead as past; ours are all of this century.
  if (old !== null) return toUnix(`20${old[3] ?? ""}`, old[2], old[1], old.slice(4));
  const c = /^[a-z]{3} ([a-z]{3}) ([ \d]\d) (\d{2}):(\d{2}):(\d{2}) (\d{4})$/i.exec(value);
  return c === null ? null : toUnix(c[6], c[1], c[2], c.slice(3, 6));
}

function toUnix(
  yearText: string | undefined,
  monthName: string | undefined,
  dayText: string | undefined,
  clock: readonly (string | undefined)[],
): number | null {
  const month = months.indexOf((monthName ?? "").toLowerCase());
  const [hours = 0, minutes = 0, seconds = 0] = clock.map(Number);
  if (month < 0 || hours > 23 || minutes > 59 || seconds > 60) return null;
  return (
    ((daysFromEpoch(Number(yearText), month + 1, Number(dayText)) * 24 + hours) * 60 + minutes) * 60_000 +
    seconds * 1000
  );
}

/** Days from 1970-01-01 in the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms"). */
function daysFromEpoch(year: number, month: number, day: number): number {
  const y = month <= 2 ? year - 1 : year;
  const era = Math.floor(y / 400);
  const yearOfEra = y - era * 400;
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1;
  return (
    era * 146_097 + yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear - 719_468
  );
}

function isDecimal(value: string): boolean {
  return /^\s*\d{1,10}(\.\d{1,6})?\s*$/.test(value);
}

function inRange(ms: number): number | null {
  return ms <= longestMs ? ms : null;
}

function largest(values: readonly (number | null)[]): number | null {
  const known = values.filter((value): value is number => value !== null);
  return known.length === 0 ? null : Math.max(...known);
}
