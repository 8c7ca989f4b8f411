/** What a request's `Cache-Control` asks of the cache. */
export type CacheControl = {
  /** Do not read, but keep. */
  noCache: boolean;
  /** Neither read nor keep. */
  noStore: boolean;
  /** Nothing older, in seconds; null = any age. */
  maxAgeSeconds: number | null;
  /** Never call the box. */
  onlyIfCached: boolean;
};

/** A larger `max-age` is read as this one (RFC 9111, 1.2.2). */
const longestSeconds = 2 ** 31;
/** What stands between commas; those inside a quoted text separate nothing. */
const members = /(?:[^",]|"(?:[^"\\]|\\.)*"?)+/g;
/** A token, then perhaps `=` and a value. */
const directive = /^([!#$%&'*+.^_`|~\w-]+)(?:\s*=\s*(.*))?$/s;

/**
 * Reads a request's `Cache-Control`, null = none was sent. Names match in any case. Unknown directives and a
 * `max-age` that is not whole seconds are ignored, and of several ages the smallest holds: never an error.
 */
export function readCacheControl(header: string | null): CacheControl {
  const control: CacheControl = { noCache: false, noStore: false, maxAgeSeconds: null, onlyIfCached: false };
  for (const member of (header ?? "").match(members) ?? []) {
    const [, name = "", value = ""] = directive.exec(member.trim()) ?? [];
    switch (name.toLowerCase()) {
      case "no-cache":
        control.noCache = true;
        break;
      case "no-store":
        control.noStore = true;
        break;
      case "only-if-cached":
        control.onlyIfCached = true;
        break;
      case "max-age":
        if (/^\d+$/.test(value)) {
          control.maxAgeSeconds = Math.min(control.maxAgeSeconds ?? longestSeconds, Number(value));
        }
        break;
    }
  }
  return control;
}

/** Whether a fresh entry of that age (whole seconds, rounded down) may answer before anything is called. */
export function mayServe(control: CacheControl, ageSeconds: number): boolean {
  return !control.noStore && !control.noCache && isYoungEnough(control, ageSeconds);
}

/**
 * Whether an entry of that age may stand in for a failed call. `listed`: the request's own chain names the rung,
 * which says more than a `no-cache` or `max-age` sent along by default; `no-store` always holds.
 */
export function mayStandIn(control: CacheControl, listed: boolean, ageSeconds: number): boolean {
  return !control.noStore && (listed || (!control.noCache && isYoungEnough(control, ageSeconds)));
}

// Rounded down, an age of n seconds is already older than n: only below it is nothing older served.
function isYoungEnough({ maxAgeSeconds }: CacheControl, ageSeconds: number): boolean {
  return maxAgeSeconds === null || ageSeconds < maxAgeSeconds;
}
