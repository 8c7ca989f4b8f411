import type { PixelLLMError } from "../../shared/errors.ts";
import { lmStudioError, type LmStudioKind } from "../../shared/lm-studio-kinds.ts";
import type { Completion, RunningCompletion } from "../../sidecar/lm-studio/completion.ts";
import type { Stage } from "../../sidecar/work-time.ts";
import type { Dice } from "./dice.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** What LM Studio does with a call; `failing` and `loading` answer at once, `hanging` never. */
export type LmStudioMode =
  | { kind: "well" }
  | { kind: "slow"; factor: number }
  | { kind: "hanging" }
  | { kind: "down" }
  | { kind: "throttled"; retryAfterMs: number }
  | { kind: "loading" }
  /** Answers 500 to this share of the calls. */
  | { kind: "failing"; share: number };

/** How fast it is. */
export type LmStudioPace = {
  /** Calls worked on at once; more wait inside it. */
  parallel: number;
  promptMs: readonly [number, number];
  generateMs: readonly [number, number];
  /** Share of pictures it refuses, whatever its mode: the caller's own fault. */
  badPictures: number;
};

/** What the sidecar's client gives a call. */
export type CompletionWish = {
  firstTokenMs: number;
  idleMs: number;
  /** The caller's end; its reason is the error it gets. */
  signal: AbortSignal;
  onStage: (stage: Stage) => void;
};

/** An LM Studio of the simulated world. */
export type SimulatedLmStudio = {
  complete(wish: CompletionWish): RunningCompletion;
  setMode(mode: LmStudioMode): void;
  mode(): LmStudioMode;
  /** Every call inside ends at once; the models loaded after it are others. */
  crash(): void;
  /** The sidecar is a new one: it does not know of the calls that are inside. */
  disown(): void;
  /** One token within `limitMs`: what a stuck permit waits for. */
  answersToken(limitMs: number): Promise<boolean>;
  /** Name of the loaded model, another one after each restart. */
  instance(): string;
  parallel: number;
  /** Calls received so far, refused connections among them. */
  calls(): number;
  /** Calls inside. */
  inside(): number;
};

type Job = {
  stage: "waiting" | "prompt" | "generate";
  /** Stops what it does next. */
  stop: () => void;
  /** The client reads no more. */
  left: boolean;
  /** Of a sidecar that is gone. */
  orphan: boolean;
  /** Ends the job: with a caption, or with the error the client sees. */
  end: (error: PixelLLMError | null) => void;
  /** Tells the client of the first token. */
  token: () => void;
};

const words: Completion = {
  text: "A picture.",
  finish: "stop",
  model: null,
  usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
};

/**
 * An LM Studio that is well until `setMode` says otherwise. `overfilled` is told how many calls one sidecar has inside
 * when they are more than can be worked on.
 */
export function createLmStudio(
  time: VirtualTime,
  dice: Dice,
  pace: LmStudioPace,
  overfilled: (inside: number) => void,
): SimulatedLmStudio {
  const { startTimer } = time;
  let mode: LmStudioMode = { kind: "well" };
  let life = 1;
  let calls = 0;
  /** In the order they came; the first `parallel` are worked on. */
  const jobs: Job[] = [];

  const factor = (): number => (mode.kind === "slow" ? mode.factor : 1);

  function work(): void {
    if (mode.kind === "hanging") return;
    for (const job of jobs.slice(0, pace.parallel)) {
      if (job.stage !== "waiting") continue;
      job.stage = "prompt";
      job.stop = startTimer(dice.between(...pace.promptMs) * factor(), () => {
        job.stage = "generate";
        job.token();
        // Whoever left before the first token closes the line at it, and that ends the work.
        if (job.left) return job.end(null);
        job.stop = startTimer(dice.between(...pace.generateMs) * factor(), () => job.end(null));
      });
    }
  }

  function breakAll(kind: LmStudioKind): void {
    life += 1;
    for (const job of jobs.splice(0)) job.end(lmStudioError(kind));
  }

  /** What is answered without any work; null = it is worked on. */
  function answerAtOnce(): PixelLLMError | null {
    if (mode.kind !== "down" && mode.kind !== "hanging" && dice.chance(pace.badPictures)) {
      return lmStudioError("bad_image");
    }
    switch (mode.kind) {
      case "down":
        return lmStudioError("refused");
      case "throttled":
        return lmStudioError("throttled", { retryAfterMs: mode.retryAfterMs });
      case "loading":
        return lmStudioError("not_loaded", { loading: true, retryAfterMs: 2000 });
      case "failing":
        return dice.chance(mode.share) ? lmStudioError("upstream_5xx") : null;
      case "well":
      case "slow":
      case "hanging":
        return null;
    }
  }

  function complete(wish: CompletionWish): RunningCompletion {
    const answer = Promise.withResolvers<Completion>();
    const ended = Promise.withResolvers<{ left: boolean }>();
    // The caller may have gone before anybody looks at it.
    answer.promise.catch(() => undefined);
    let stopWatch = (): void => undefined;
    const watch = (ms: number, kind: LmStudioKind): void => {
      stopWatch();
      stopWatch = startTimer(ms, () => leave(lmStudioError(kind)));
    };
    const depart = (): void => leave(wish.signal.reason);
    const close = (): void => {
      stopWatch();
      wish.signal.removeEventListener("abort", depart);
    };
    const leave = (reason: unknown): void => {
      close();
      answer.reject(reason);
      job.left = true;
      if (job.stage === "generate") drop();
    };
    /** The connection is closed: what has not reached its first token is still worked on, unheard. */
    const drop = (): void => {
      if (job.stage === "prompt" && mode.kind !== "hanging") {
        ended.resolve({ left: true });
        return;
      }
      job.end(null);
    };
    const job: Job = {
      stage: "waiting",
      stop: () => undefined,
      left: false,
      orphan: false,
      end(error) {
        const at = jobs.indexOf(job);
        if (at >= 0) jobs.splice(at, 1);
        job.stop();
        close();
        if (!job.left) {
          if (error === null) answer.resolve(words);
          else answer.reject(error);
        }
        ended.resolve({ left: job.left });
        work();
      },
      token() {
        if (job.left) return;
        wish.onStage("generate");
        watch(wish.idleMs, "stalled");
      },
    };
    calls += 1;
    wish.onStage("connect");
    if (wish.signal.aborted) {
      job.left = true;
      answer.reject(wish.signal.reason);
      ended.resolve({ left: false });
      return { answer: answer.promise, ended: ended.promise, cut: () => undefined };
    }
    wish.signal.addEventListener("abort", depart, { once: true });
    const refusal = answerAtOnce();
    if (refusal !== null) {
      job.stop = startTimer(dice.between(2, 10), () => job.end(refusal));
      return { answer: answer.promise, ended: ended.promise, cut: () => job.end(null) };
    }
    wish.onStage("first_token");
    watch(wish.firstTokenMs, "no_first_token");
    jobs.push(job);
    const known = jobs.filter(({ orphan }) => !orphan).length;
    if (known > pace.parallel) overfilled(known);
    work();
    return { answer: answer.promise, ended: ended.promise, cut: drop };
  }

  return {
    complete,
    setMode(next) {
      const was = mode;
      mode = next;
      // What hung does not come back by itself: it is started again, and then its calls are gone.
      if (was.kind === "hanging" || next.kind === "down") breakAll("truncated");
      if (next.kind === "hanging") for (const job of jobs) job.stop();
    },
    mode: () => mode,
    crash: () => breakAll("crashed"),
    disown() {
      for (const job of jobs) job.orphan = true;
    },
    async answersToken(limitMs) {
      await time.sleep(dice.between(50, 300) * factor());
      if (mode.kind === "hanging") await time.sleep(limitMs);
      return mode.kind === "well" || (mode.kind === "slow" && 300 * mode.factor < limitMs);
    },
    instance: () => `model:${life}`,
    parallel: pace.parallel,
    calls: () => calls,
    inside: () => jobs.length,
  };
}
