import type { Settings } from "../../kit/environment.ts";
import type { FaultProxy } from "../../kit/fault-proxy.ts";
import type { World } from "../../kit/whole.ts";
import { answerRows } from "./rows-answers.ts";
import { breakerRows, breakerRowsElsewhere } from "./rows-breakers.ts";
import { networkRows } from "./rows-network.ts";
import { refusalRows } from "./rows-refusals.ts";
import { timingRows } from "./rows-timing.ts";
import type { Row, RowElsewhere } from "./row.ts";

const [once, thrice] = [{ retry_max_attempts: 1 }, { retry_max_attempts: 3 }];
const nowhere = { sidecar_url: "http://sidecar.invalid:8790" };

/** The edges of the world that rows F1 to F30 are asked at. */
export const worldEdges = {
  once,
  thrice,
  /** An answer over half a second is slow, and two of them are enough to tell. */
  slow: { ...once, circuit_breaker_slow_call_seconds: 0.5, circuit_breaker_minimum_calls: 2 },
  brisk: { ...thrice, circuit_breaker_cooldown_seconds: 1 },
  single: {
    ...once,
    circuit_breaker_cooldown_seconds: 0.3,
    circuit_breaker_half_open_max_calls: 1,
    circuit_breaker_probe_timeout_seconds: 0.5,
  },
  patient: { ...thrice, timeout_seconds: 8 },
  namelessOnce: { ...once, ...nowhere },
  namelessThrice: { ...thrice, ...nowhere },
  tlsOnce: (p1: FaultProxy): Settings => ({ ...once, sidecar_url: p1.tlsUrl }),
  tlsThrice: (p1: FaultProxy): Settings => ({ ...thrice, sidecar_url: p1.tlsUrl }),
};

/** Rows F1 to F30 over one world. */
export function rowsOf1To30(world: World<keyof typeof worldEdges>): Row[] {
  return [
    ...networkRows(world),
    ...timingRows(world),
    ...answerRows(world),
    ...refusalRows(world),
    ...breakerRows(world),
  ];
}

/** Those of them, or parts of them, that run in another place. */
export const rowsElsewhere: readonly RowElsewhere[] = breakerRowsElsewhere;
