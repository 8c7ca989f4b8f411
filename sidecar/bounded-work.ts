import { errorBody, toPixelLLMError, type PixelLLMError } from "../shared/errors.ts";
import type { Logger } from "../shared/log.ts";
import type { SidecarFailure } from "../shared/wire.ts";
import type { Admission } from "./admission.ts";
import type { Begun, Coalescing } from "./coalescing.ts";
import { metricStages, type Metrics } from "./metrics.ts";
import type { Quarantine, Victim } from "./quarantine.ts";
import { blankSight, type Eye, type Picture, type Sight } from "./sight.ts";
import type { WorkTime } from "./work-time.ts";

/** A picture whose header was checked, and the time its caller gives us. */
export type EngineCall = Picture & {
  remainingMs: number;
  /** Aborted when the caller leaves. */
  signal: AbortSignal;
  requestId: string;
  /** Whose call it is: turns and shared work are told apart by it. */
  tenant?: string | undefined;
  /** The answer is not shared with others. */
  noStore?: boolean | undefined;
};

/** An answer with its HTTP status. */
export type Outcome<Body> = { status: number; body: Body | SidecarFailure };

/** What one route brings to the bounds every call has. */
export type Work<Body> = {
  /** Same key, same answer; null = not shared. */
  key: string | null;
  /** What the picture must not have brought down before. */
  victims: readonly Victim[];
  needsPermit: boolean;
  run: (time: WorkTime, sight: Sight, visit: number) => Promise<Body>;
  /** Another's answer as it is given to one who shares it. */
  asShared: (body: Body) => Body;
};

/** Runs work inside the bounds every call has: door, deadline, quarantine, and an answer whatever happens. Never throws. */
export type Bounds = {
  serve<Body extends object>(
    call: EngineCall,
    sharing: Coalescing<Sight, Outcome<Body>>,
    work: Work<Body>,
  ): Promise<Outcome<Body>>;
};

/** Builds the bounds; no call has more than `longestMs`. */
export function createBounds(parts: {
  longestMs: number;
  admission: Admission;
  quarantine: Quarantine;
  eye: Eye;
  metrics: Metrics;
  logger: Logger;
}): Bounds {
  const { longestMs, admission, quarantine, eye, logger } = parts;

  const fail = (thrown: unknown, requestId: string, sight: Sight, lmStudioMs = 0): Outcome<never> => {
    const error = toPixelLLMError(thrown);
    const details = { lm_studio_ms: Math.round(lmStudioMs), ...error.details };
    return {
      status: error.status,
      body: {
        error: { ...errorBody(error, requestId), details },
        image: sight.image,
        evidence: sight.evidence,
        vector: sight.vector,
        timings_ms: { ...sight.timings },
      },
    };
  };

  /** Begins one piece of work inside the bounds every call has; a failure keeps what was seen of the picture. */
  const begin = <Body>(call: EngineCall, work: Work<Body>, time: WorkTime): Begun<Sight, Outcome<Body>> => {
    const sight = blankSight();
    const perform = async (): Promise<Outcome<Body>> => {
      let leave = (): void => undefined;
      try {
        const { needsPermit } = work;
        const visit = admission.enter({ timeLeftMs: time.remainingMs(), needsPermit, beforeMs: eye.estimateMs(call) });
        leave = () => visit.leave();
        return { status: 200, body: await work.run(time, sight, visit.id) };
      } catch (thrown) {
        // Whoever left has been told by its own end.
        if (!time.signal.aborted) report(logger, toPixelLLMError(thrown), call.requestId);
        return fail(thrown, call.requestId, sight, time.lmStudioMs());
      } finally {
        leave();
        for (const stage of metricStages) {
          if (sight.timings[stage] > 0) parts.metrics.stage(stage, sight.timings[stage] / 1000);
        }
      }
    };
    return { seen: sight, done: perform() };
  };

  const serve = async <Body extends object>(
    call: EngineCall,
    sharing: Coalescing<Sight, Outcome<Body>>,
    work: Work<Body>,
  ): Promise<Outcome<Body>> => {
    const limitMs = Math.min(call.remainingMs, longestMs);
    try {
      quarantine.check(call.sha256, work.victims);
      admission.turnAway(limitMs);
    } catch (thrown) {
      report(logger, toPixelLLMError(thrown), call.requestId);
      return fail(thrown, call.requestId, blankSight());
    }
    const ended = await sharing.run(work.key, { limitMs, signal: call.signal }, (time) => begin(call, work, time));
    if (ended.by === "caller") {
      if (!call.signal.aborted) report(logger, toPixelLLMError(ended.reason), call.requestId);
      return fail(ended.reason, call.requestId, ended.seen, ended.lmStudioMs);
    }
    const { status, body } = ended.value;
    if (!isFailure(body)) return ended.collapsed ? { status, body: work.asShared(body) } : ended.value;
    const details = ended.collapsed ? { ...body.error.details, collapsed: true } : body.error.details;
    return { status, body: { ...body, error: { ...body.error, request_id: call.requestId, details } } };
  };

  return { serve };
}

function isFailure(body: object): body is SidecarFailure {
  return "error" in body;
}

/** Logs a failure: the caller's own mistakes are told to the caller, the log is for what the box's owner can mend. */
export function report(logger: Logger, error: PixelLLMError, requestId: string): void {
  const fields = { exception: error, extra: { request_id: requestId, details: error.details } };
  if (error.code === "ERR_INTERNAL") logger.error("request failed", fields);
  else if (error.severity === "LOW" || error.details["kind"] === "queue") logger.debug("request refused", fields);
  else logger.warning("request failed", fields);
}
