import { runAttempts, type Attempted } from "../../shared/attempt-loop.ts";
import { readBreakerLimits, type BreakerLimits } from "../../shared/breaker-limits.ts";
import { restoreBreaker, saveBreaker } from "../../shared/breaker-restore.ts";
import { freshBreaker, type BreakerState } from "../../shared/breaker-state.ts";
import { viewBreaker } from "../../shared/breaker-view.ts";
import { admit, advance, settle } from "../../shared/breaker.ts";
import { canonicalText } from "../../shared/cache-key.ts";
import { startClock, tick } from "../../shared/clock.ts";
import { readConfig, type Config } from "../../shared/config.ts";
import { PixelLLMError } from "../../shared/errors.ts";
import { createLru } from "../../shared/lru.ts";
import { samplesOf, type AttemptFacts } from "../../shared/samples.ts";
import { startSleep } from "../../shared/sleep.ts";
import { createAdmission, type Admission, type Visit } from "../../sidecar/admission.ts";
import { Cancelled, type Library, type Outcome, type Subject, type Work } from "./library.ts";

/** Ours: the pure breaker and what stands around it, on the process's clock. */
export const ours: Library = {
  name: "ours",
  open: (saved) => openSubject({ limits: guideLimits(), ...(saved === undefined ? {} : { saved }) }),
  openNarrow: (capacity) => openSubject({ limits: guideLimits(), admission: openAdmission(capacity) }),
  openOff: (capacity) =>
    openSubject({ limits: { ...guideLimits(), enabled: false }, admission: openAdmission(capacity) }),
  async countAsked(questions, answer) {
    const store = createLru<string | number>({ copy: (value) => value });
    let asked = 0;
    for (const key of questions.map(canonicalText)) {
      if (store.get(key, Date.now()) !== null) continue;
      asked += 1;
      store.put(key, answer, Date.now());
    }
    return asked;
  },

  async retry(work, delayMs, signal) {
    const attempt = async (): Promise<Attempted<void, unknown>> => {
      try {
        return { ok: true, value: await work(), collapsed: false };
      } catch (thrown) {
        return { ok: false, error: failure(thrown), failure: thrown, fromSidecar: true, lmStudioMs: 0 };
      }
    };
    const backoff = { strategy: "fixed", initialMs: delayMs, maxMs: delayMs, multiplier: 1, jitter: false } as const;
    const open = { admit: async () => ({ admitted: true, permit: null }) as const, settle: () => undefined };
    await runAttempts(
      open,
      attempt,
      { maxAttempts: 2, backoff },
      {
        now: Date.now,
        random: () => 0,
        async sleep(ms) {
          const { done, cancel } = startSleep(ms, { now: Date.now, startTimer });
          signal.addEventListener("abort", cancel, { once: true });
          await done;
          signal.removeEventListener("abort", cancel);
        },
        callerGone: () => signal.aborted,
        remainingMs: () => Infinity,
        takeToken: () => true,
        deposit: () => undefined,
        observe: () => undefined,
      },
    );
  },

  openQueue() {
    const admission = openAdmission(10);
    const wish = { tenant: "t", visit: null, instance: "i", parallel: 1, endsAt: Infinity };
    return async (work, signal) => {
      const grant = await admission.take({ ...wish, onExtend: () => () => undefined }, signal);
      await work();
      grant.free(false);
    };
  },
};

/** What the configuration's defaults hold a breaker to. */
export function guideLimits(): BreakerLimits {
  return readBreakerLimits(defaultConfig());
}

/** The configuration without any setting. */
export function defaultConfig(): Config {
  const reading = readConfig({});
  if (!reading.ok) throw new Error("the defaults are no configuration");
  return reading.config;
}

function openSubject({ limits, saved, admission }: Opening): Subject {
  const random = (): number => 0;
  let clock = startClock(Date.now());
  const now = (): number => {
    clock = tick(clock, Date.now());
    return clock.elapsedMs;
  };
  let state: BreakerState =
    saved === undefined ? freshBreaker(now()) : restoreBreaker(JSON.parse(saved), now(), Date.now(), limits).state;

  const attempt = async (work: Work): Promise<AttemptFacts & { begun: boolean }> => {
    let visit: Visit | null = null;
    let begun = false;
    try {
      visit = admission?.enter({ timeLeftMs: 30_000, needsPermit: false, beforeMs: 0 }) ?? null;
      begun = true;
      await work();
      return { ok: true, elapsedMs: 0, collapsed: false, begun };
    } catch (thrown) {
      const { code, details } = failure(thrown);
      const callerGone = thrown instanceof Cancelled;
      return { ok: false, code, details, fromSidecar: true, callerGone, lmStudioMs: 0, begun };
    } finally {
      visit?.leave();
    }
  };

  return {
    async call(work): Promise<Outcome> {
      const { next, verdict } = admit(state, now(), limits, random);
      state = next;
      if (!verdict.admitted) return "refused";
      const facts = await attempt(work);
      const sample = samplesOf(facts, { timeoutMs: 30_000, slowCallMs: null }).lm_studio_api ?? "ignored";
      ({ next: state } = settle(state, verdict.token, sample, now(), limits, random));
      if (facts.ok) return "ok";
      return facts.begun ? "failed" : "refused";
    },
    phase: () => advance(state, now(), limits, random).next.phase,
    late: () => viewBreaker(state, now(), limits).counts.late,
    failures: () => viewBreaker(state, now(), limits).counts.failure,
    save: () => JSON.stringify(saveBreaker(state, now(), Date.now())),
  };
}

type Opening = { limits: BreakerLimits; saved?: string; admission?: Admission };

/** What went wrong as the sidecar says it: its own refusals as they are, all else is LM Studio's failure. */
function failure(thrown: unknown): PixelLLMError {
  if (thrown instanceof PixelLLMError) return thrown;
  return new PixelLLMError("ERR_API_OVERLOAD", { details: { service: "lm_studio" } });
}

function openAdmission(maxInside: number): Admission {
  return createAdmission({ maxInside, now: Date.now, memory: () => ({ used: 0, limit: 1 }) });
}

function startTimer(ms: number, elapsed: () => void): () => void {
  const timer = setTimeout(elapsed, ms);
  return () => clearTimeout(timer);
}
