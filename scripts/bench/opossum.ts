import { createRequire } from "node:module";

/** As much of opossum 10.0.0, which comes without types, as is measured here. */
export type Opossum<Args extends unknown[]> = {
  fire(...args: Args): Promise<unknown>;
  readonly opened: boolean;
  readonly halfOpen: boolean;
  readonly stats: { failures: number };
  toJSON(): { state: Record<string, unknown>; status: Record<string, unknown> };
  shutdown(): void;
};

/** Where its cache keeps promises; left out: in memory. */
export type CacheTransport = {
  get(key: string): unknown;
  set(key: string, value: Promise<unknown>, expiresAt: number): void;
  flush(): void;
};

/** Options as its README has them; times in ms, the percentage 0 to 100. */
export type OpossumOptions = {
  timeout: number | false;
  errorThresholdPercentage: number;
  volumeThreshold: number;
  resetTimeout: number;
  rollingCountTimeout: number;
  rollingPercentilesEnabled?: boolean;
  enableSnapshots?: boolean;
  capacity?: number;
  cache?: boolean;
  cacheTransport?: CacheTransport;
  enabled?: boolean;
  errorFilter?: (error: unknown) => boolean;
  state?: Record<string, unknown>;
  status?: Record<string, unknown>;
};

type OpossumClass = new <Args extends unknown[]>(
  action: (...args: Args) => Promise<unknown>,
  options: OpossumOptions,
) => Opossum<Args>;

/** The library, by the one door it comes in. */
export const OpossumBreaker: OpossumClass = createRequire(import.meta.url)("opossum");
