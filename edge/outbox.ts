import { addSample, countRefusal, emptyDelta, type BreakerDelta } from "../shared/breaker-sharing.ts";
import type { BreakerName, Sample } from "../shared/breaker-state.ts";
import type { Batch, LeaseReport } from "./objects/authority-protocol.ts";

/** What has not reached the object yet; plain data. */
export type Outbox = {
  /** Number of the last batch that was made up. */
  seq: number;
  /** The batch under way; sent again under its number until it is confirmed, so that it counts once. */
  sending: Pick<Batch, "seq" | "deltas" | "leases"> | null;
  /** What came since: it merges, and goes when the batch before it has arrived. */
  deltas: readonly { name: BreakerName; delta: BreakerDelta }[];
  leases: readonly LeaseReport[];
};

/** Nothing to tell. */
export const emptyOutbox: Outbox = Object.freeze({ seq: 0, sending: null, deltas: [], leases: [] });

/** Epochs of one breaker kept apart; what is older than these is late as a whole wherever it arrives. */
const maxEpochs = 4;
/** Ended probes kept; the object has given up on older ones by then. */
const maxLeases = 64;

/** One more call that has ended, in the epoch it was admitted in. */
export function putSample(
  outbox: Outbox,
  name: BreakerName,
  { epoch, sample, retryAfterMs }: { epoch: number; sample: Sample; retryAfterMs: number | null },
): Outbox {
  return put(outbox, name, epoch, (delta) => addSample(delta, sample, retryAfterMs));
}

/** One more call that was refused here. */
export function putRefusal(outbox: Outbox, name: BreakerName, epoch: number): Outbox {
  return put(outbox, name, epoch, countRefusal);
}

/** One more probe of the object's that has ended. */
export function putLease(outbox: Outbox, report: LeaseReport): Outbox {
  return { ...outbox, leases: [...outbox.leases, report].slice(-maxLeases) };
}

/** The batch to send now: the one under way, else all that is gathered under a new number. */
export function takeBatch(outbox: Outbox): { outbox: Outbox; batch: NonNullable<Outbox["sending"]> } {
  if (outbox.sending !== null) return { outbox, batch: outbox.sending };
  const batch = { seq: outbox.seq + 1, deltas: outbox.deltas, leases: outbox.leases };
  return { outbox: { seq: batch.seq, sending: batch, deltas: [], leases: [] }, batch };
}

/** The outbox after batch `seq` has arrived; a second word of it changes nothing. */
export function confirmBatch(outbox: Outbox, seq: number): Outbox {
  return outbox.sending?.seq === seq ? { ...outbox, sending: null } : outbox;
}

/** Whether there is anything the object should hear of by itself; refusals go along with the next news. */
export function hasNews({ sending, deltas, leases }: Outbox): boolean {
  return sending !== null || leases.length > 0 || deltas.some(({ delta }) => delta.calls + delta.ignored > 0);
}

/** One breaker's calls in `epoch` that no batch holds yet. */
export function untold(outbox: Outbox, name: BreakerName, epoch: number): BreakerDelta {
  const found = outbox.deltas.find((row) => row.name === name && row.delta.epoch === epoch);
  return found?.delta ?? emptyDelta(epoch);
}

function put(outbox: Outbox, name: BreakerName, epoch: number, change: (delta: BreakerDelta) => BreakerDelta): Outbox {
  const isSame = (row: Outbox["deltas"][number]): boolean => row.name === name && row.delta.epoch === epoch;
  const known = outbox.deltas.find(isSame)?.delta ?? emptyDelta(epoch);
  const own = [...outbox.deltas.filter((row) => row.name === name && !isSame(row)), { name, delta: change(known) }];
  const others = outbox.deltas.filter((row) => row.name !== name);
  const kept = own.sort((left, right) => left.delta.epoch - right.delta.epoch).slice(-maxEpochs);
  return { ...outbox, deltas: [...others, ...kept] };
}
