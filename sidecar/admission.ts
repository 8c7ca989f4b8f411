import {
  arrive,
  ask,
  cancel,
  distrust,
  drain,
  drainingRetryMs,
  drainPermit,
  freeLost,
  freePermit,
  freshAdmission,
  knowInstances,
  leave,
  losePermit,
  planTry,
  renew,
  turnAway,
  viewAdmission,
  type AdmissionState,
  type Arrival,
  type Moved,
  type Refusal,
  type RefusalReason,
} from "../shared/admission.ts";
import { PixelLLMError } from "../shared/errors.ts";

/** One who is inside. */
export type Visit = {
  id: number;
  /** Goes out; twice is as once. */
  leave(): void;
};

/** Who asks for a permit of LM Studio, and for what. */
export type PermitWish = {
  /** Permits go round among tenants. */
  tenant: string;
  /** Who of those inside it is; null = somebody the door does not know. */
  visit: number | null;
  instance: string;
  /** Calls the instance works on at once; null = not reported. */
  parallel: number | null;
  /** When the last caller leaves, in ms of `now`; `onExtend` tells of a later one and gives the way to stop telling. */
  endsAt: number;
  onExtend: (listener: (endsAt: number) => void) => () => void;
};

/** A permit to ask LM Studio for one answer. */
export type Grant = {
  /** Its caller left and LM Studio may still be at work. */
  drain(): void;
  /** The end of that work never came: only `freeLost` brings it back. */
  lose(): void;
  /** LM Studio is done with it; `sampled` = its time tells how long LM Studio takes. Twice is as once. */
  free(sampled: boolean): void;
};

/** What can be seen of admission from outside. */
export type AdmissionView = ReturnType<typeof viewAdmission> & { refused: Readonly<Record<RefusalReason, number>> };

/** The door and the line before LM Studio: performs what `shared/admission.ts` decides. */
export type Admission = {
  /** Throws the refusal that holds for everybody, also for those who would join work under way. */
  turnAway(timeLeftMs: number): void;
  /** Lets one in, or throws `ERR_API_OVERLOAD` (kind `queue`, with its reason) or `ERR_TIMEOUT_REQUEST`. */
  enter(arrival: Omit<Arrival, "memory">): Visit;
  /** Resolves with a permit when one is handed over; rejects with the signal's reason when that comes first. */
  take(wish: PermitWish, signal: AbortSignal): Promise<Grant>;
  distrust(instance: string): void;
  knowInstances(loaded: readonly string[]): void;
  /** When LM Studio is next asked whether lost permits are free, in ms of `now`. */
  planTry(tryAt: number): void;
  freeLost(): void;
  /** Lets nobody in any more; those in line who could not be done in time are refused at once. */
  drain(): void;
  draining(): boolean;
  view(): AdmissionView;
};

const hints: Readonly<Record<RefusalReason, string>> = {
  full: "The sidecar is full.",
  late: "The answer would come too late.",
  memory: "The sidecar is short of memory.",
  draining: "The sidecar is stopping.",
  spent: "Too little time was left to begin.",
};

/** A refusal of our own as an error: a dependency has nothing to do with it. */
export function refusalError({ reason, retryAfterMs }: Refusal): PixelLLMError {
  if (reason === "spent") {
    const details = { kind: "queue", reason, stage: "queue", lm_studio_ms: 0 };
    return new PixelLLMError("ERR_TIMEOUT_REQUEST", { hint: hints.spent, details });
  }
  return new PixelLLMError("ERR_API_OVERLOAD", {
    hint: hints[reason],
    details: { kind: "queue", reason },
    ...(retryAfterMs === null ? {} : { retryAfterSeconds: retryAfterMs / 1000 }),
  });
}

/** Opens the door for at most `maxInside`; `now` is monotonic ms, `memory` is read at each arrival. */
export function createAdmission(parts: {
  maxInside: number;
  now: () => number;
  memory: () => { used: number; limit: number };
}): Admission {
  const { now } = parts;
  const limits = { maxInside: parts.maxInside };
  const line = new Map<number, { start: () => void; fail: (error: PixelLLMError) => void }>();
  const refused: Record<RefusalReason, number> = { full: 0, late: 0, memory: 0, draining: 0, spent: 0 };
  let state: AdmissionState = freshAdmission();

  const refuse = (refusal: Refusal): PixelLLMError => {
    refused[refusal.reason] += 1;
    return refusalError(refusal);
  };
  const move = ({ next, granted, expired }: Moved): void => {
    state = next;
    for (const id of expired) line.get(id)?.fail(refuse({ reason: "spent", retryAfterMs: null }));
    for (const id of granted) line.get(id)?.start();
  };
  const grantOf = (id: number): Grant => ({
    drain() {
      state = drainPermit(state, id);
    },
    lose() {
      state = losePermit(state, id);
    },
    free: (sampled) => move(freePermit(state, id, sampled, now())),
  });

  return {
    turnAway(timeLeftMs) {
      const refusal = turnAway(state, timeLeftMs);
      if (refusal !== null) throw refuse(refusal);
    },
    enter(arrival) {
      const { next, verdict } = arrive(state, { ...arrival, memory: parts.memory() }, now(), limits);
      state = next;
      if (!verdict.admitted) throw refuse(verdict.refusal);
      const { id } = verdict;
      return {
        id,
        leave() {
          state = leave(state, id);
        },
      };
    },
    take({ onExtend, endsAt, ...wish }, signal) {
      return new Promise((resolve, reject) => {
        if (signal.aborted) {
          reject(signal.reason as Error);
          return;
        }
        const asked = ask(state, { ...wish, deadlineAt: endsAt }, now());
        const { id } = asked;
        const settle = (act: () => void): void => {
          line.delete(id);
          stopListening();
          signal.removeEventListener("abort", abandon);
          act();
        };
        // On the caller's timer, not when LM Studio next frees: a wait that is over is told at once.
        const abandon = (): void =>
          settle(() => {
            reject(signal.reason as Error);
            move(cancel(state, id, now()));
          });
        const stopListening = onExtend((later) => {
          state = renew(state, id, later);
        });
        signal.addEventListener("abort", abandon, { once: true });
        line.set(id, {
          start: () => settle(() => resolve(grantOf(id))),
          fail: (error) => settle(() => reject(error)),
        });
        move(asked);
      });
    },
    distrust(instance) {
      state = distrust(state, instance);
    },
    knowInstances: (loaded) => move(knowInstances(state, loaded, now())),
    planTry(tryAt) {
      state = planTry(state, tryAt);
    },
    freeLost: () => move(freeLost(state, now())),
    drain() {
      const { next, refused: late } = drain(state, now());
      state = next;
      for (const id of late) line.get(id)?.fail(refuse({ reason: "draining", retryAfterMs: drainingRetryMs }));
    },
    draining: () => state.draining,
    view: () => ({ ...viewAdmission(state), refused: { ...refused } }),
  };
}
