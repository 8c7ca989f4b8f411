import type { EngineFigures } from "./engine.ts";
import { signatureFaults, type SignatureFault } from "./signature.ts";

/** Counts what the sidecar does, for `GET /metrics`. Labels are closed sets: routes and stages of ours, status classes. */
export type Metrics = {
  /** One answered request; `route` must be one of `metricRoutes`, anything else counts as `other`. */
  request(route: string, status: number): void;
  /** One call whose signature was refused. */
  unsigned(fault: SignatureFault): void;
  /** Time one stage of one picture took, in seconds. */
  stage(stage: MetricStage, seconds: number): void;
  /** Prometheus text exposition, version 0.0.4. */
  render(gauges: {
    figures: EngineFigures;
    encoderReady: boolean;
    residentBytes: number;
    /** Log lines lost so far. */
    logDropped: number;
  }): string;
};

/** The stages that are timed. */
export const metricStages = ["decode", "encode", "generate"] as const;
export type MetricStage = (typeof metricStages)[number];

/** The routes that are counted by name. */
export const metricRoutes: ReadonlySet<string> = new Set([
  "/v1/caption",
  "/v1/embed",
  "/v1/chat/completions",
  "/v1/log-level",
  "/readyz",
  "/info",
  "/metrics",
]);

/** Fresh counters. */
export function createMetrics(): Metrics {
  const requests = new Map<string, number>();
  const faults = new Map<SignatureFault, number>(signatureFaults.map((fault) => [fault, 0]));
  const stages = new Map<MetricStage, { count: number; seconds: number }>();
  for (const stage of metricStages) stages.set(stage, { count: 0, seconds: 0 });
  return {
    request(route, status) {
      const labels = `route="${metricRoutes.has(route) ? route : "other"}",status="${Math.floor(status / 100)}xx"`;
      requests.set(labels, (requests.get(labels) ?? 0) + 1);
    },
    unsigned(fault) {
      faults.set(fault, (faults.get(fault) ?? 0) + 1);
    },
    stage(stage, seconds) {
      const sum = stages.get(stage);
      if (sum === undefined || !Number.isFinite(seconds) || seconds < 0) return;
      sum.count += 1;
      sum.seconds += seconds;
    },
    render({ figures, encoderReady, residentBytes, logDropped }) {
      return [
        ...family("pixel_sidecar_requests_total", "counter", "Requests answered, by route and class of status."),
        ...[...requests].map(([labels, count]) => `pixel_sidecar_requests_total{${labels}} ${count}`),
        ...family("pixel_sidecar_unsigned_total", "counter", "Calls refused for their signature, by what is wrong."),
        ...[...faults].map(([fault, count]) => `pixel_sidecar_unsigned_total{fault="${fault}"} ${count}`),
        ...family("pixel_sidecar_stage_seconds", "summary", "Time pictures spent in each stage."),
        ...[...stages].flatMap(([stage, { count, seconds }]) => [
          `pixel_sidecar_stage_seconds_sum{stage="${stage}"} ${seconds}`,
          `pixel_sidecar_stage_seconds_count{stage="${stage}"} ${count}`,
        ]),
        ...family("pixel_sidecar_pictures_inside", "gauge", "Pictures being worked on now."),
        `pixel_sidecar_pictures_inside ${figures.inside}`,
        ...family("pixel_queue_depth", "gauge", "Calls that wait, by what they wait for."),
        `pixel_queue_depth{stage="lm_studio"} ${figures.waiting}`,
        ...family("pixel_permits", "gauge", "Permits to ask LM Studio, by state."),
        ...labelled('pixel_permits{stage="lm_studio",state=', figures.permits),
        ...family("pixel_queue_rejected_total", "counter", "Calls refused for want of room or time, by reason."),
        ...labelled("pixel_queue_rejected_total{reason=", figures.refused),
        ...family("pixel_coalesced_total", "counter", "Calls that were given the answer of an equal one under way."),
        `pixel_coalesced_total ${figures.coalesced}`,
        ...family("pixel_quarantined_pictures", "gauge", "Pictures refused for what they brought down."),
        `pixel_quarantined_pictures ${figures.quarantined}`,
        ...family("pixel_encoder_restarts_total", "counter", "Encoder processes lost, by reason."),
        ...labelled("pixel_encoder_restarts_total{reason=", figures.encoder_restarts),
        ...family("pixel_sidecar_encoder_ready", "gauge", "1 when the encoder can run."),
        `pixel_sidecar_encoder_ready ${encoderReady ? 1 : 0}`,
        ...family("pixel_log_dropped_total", "counter", "Log lines lost: too many waited, or a write failed."),
        `pixel_log_dropped_total ${logDropped}`,
        ...family("process_resident_memory_bytes", "gauge", "Resident memory of the serving process, in bytes."),
        `process_resident_memory_bytes ${residentBytes}`,
        "",
      ].join("\n");
    },
  };
}

function labelled(start: string, values: Readonly<Record<string, number>>): string[] {
  return Object.entries(values).map(([label, value]) => `${start}"${label}"} ${value}`);
}

function family(name: string, type: string, help: string): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`];
}
