import type { Log } from "../log.ts";
import type { NamedEvent } from "./authority-protocol.ts";

/**
 * Writes what happened to a breaker: a line for each change of phase, nothing for what every call does. `scope` says
 * whose breaker it is: the upstream's one truth, or one isolate's copy. The key id tells who acted, never the key.
 */
export function logBreakerEvent(log: Log, { name, event, by }: NamedEvent, scope: "upstream" | "isolate"): void {
  if (event.kind === "state_discarded") {
    log("ERROR", "breaker state discarded", { extra: { breaker: name, scope, epoch: event.epoch } });
    return;
  }
  if (event.kind !== "transition") return;
  const { kind: _, ...facts } = event;
  const extra = { breaker: name, scope, ...facts, ...(by === null ? {} : { key_id: by }) };
  // A copy that follows its own samples is a detail: the upstream's own change is the news.
  const level = scope === "isolate" ? "INFO" : event.to === "open" ? "WARNING" : "INFO";
  log(level, "breaker changed", { extra });
}
