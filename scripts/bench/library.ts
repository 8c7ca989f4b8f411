import type { Canonical } from "../../shared/cache-key.ts";

/** How a call ended; `refused` = its work was never begun. */
export type Outcome = "ok" | "failed" | "refused";

/** What a call does; it may be cancelled by rejecting with `Cancelled`. */
export type Work = () => Promise<void>;

/** One breaker, whoever wrote it. */
export type Subject = {
  call(work: Work): Promise<Outcome>;
  phase(): "closed" | "open" | "half_open";
  /** Late results it has told of so far; null = it does not tell. */
  late(): number | null;
  /** Failures it has counted so far; null = it does not tell. */
  failures(): number | null;
  /** Its state as JSON. */
  save(): string;
};

/** A library's parts, each with what the guide's defaults say: 5 failures open, 60 s of cooldown. */
export type Library = {
  name: string;
  /** `saved` = what `save` gave; a call that its caller cancelled is told apart from a failure as far as that goes. */
  open(saved?: string): Subject;
  /** A breaker around the library's own bulkhead: at most `capacity` calls at once, nobody waits. */
  openNarrow(capacity: number): Subject;
  /** A breaker that is switched off, around the same bulkhead; null = there is no switch. */
  openOff: ((capacity: number) => Subject) | null;
  /** How often these questions, asked one after another, reach the dependency behind its cache; null = it has none. */
  countAsked: ((questions: readonly Canonical[], answer: string | number) => Promise<number>) | null;
  /** Does failing work again after `delayMs`, two calls at most; null = there is no retry. */
  retry: ((work: Work, delayMs: number, signal: AbortSignal) => Promise<void>) | null;
  /** A bulkhead of one place before which calls wait; null = there is none. */
  openQueue: (() => (work: Work, signal: AbortSignal) => Promise<void>) | null;
};

/** The caller of a call went away. */
export class Cancelled extends Error {}

/** A call whose end is in the scenario's hand. */
export type Held = { outcome: Promise<Outcome>; begun(): boolean; succeed(): void; fail(): void; cancel(): void };

/** Begins a call that goes on until it is told how to end. */
export function hold(subject: Subject): Held {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let begun = false;
  const outcome = subject.call(() => {
    begun = true;
    return promise;
  });
  return {
    outcome,
    begun: () => begun,
    succeed: () => resolve(),
    fail: () => reject(new Error("the dependency is down")),
    cancel: () => reject(new Cancelled("the caller left")),
  };
}

/** Makes one call that ends at once. */
export function callOnce(subject: Subject, ok: boolean): Promise<Outcome> {
  return subject.call(async () => {
    if (!ok) throw new Error("the dependency is down");
  });
}

/** How a library's own promise tells what became of work that may never have been begun. */
export async function outcomeOf(run: (work: Work) => Promise<unknown>, work: Work): Promise<Outcome> {
  let begun = false;
  try {
    await run(() => {
      begun = true;
      return work();
    });
    return "ok";
  } catch {
    return begun ? "failed" : "refused";
  }
}
