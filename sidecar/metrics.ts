/** Counts what the sidecar does, for `GET /metrics`. Labels are closed sets: routes and stages of ours, status classes. */
export type Metrics = {
  /** One answered request; `route` must be one of `metricRoutes`, anything else counts as `other`. */
  request(route: string, status: number): void;
  /** Time one stage of one picture took, in seconds. */
  stage(stage: MetricStage, seconds: number): void;
  /** Prometheus text exposition, version 0.0.4. */
  render(gauges: { inside: number; encoderReady: boolean; residentBytes: number }): string;
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
  const stages = new Map<MetricStage, { count: number; seconds: number }>();
  for (const stage of metricStages) stages.set(stage, { count: 0, seconds: 0 });
  return {
    request(route, status) {
      const labels = `route="${metricRoutes.has(route) ? route : "other"}",status="${Math.floor(status / 100)}xx"`;
      requests.set(labels, (requests.get(labels) ?? 0) + 1);
    },
    stage(stage, seconds) {
      const sum = stages.get(stage);
      if (sum === undefined || !Number.isFinite(seconds) || seconds < 0) return;
      sum.count += 1;
      sum.seconds += seconds;
    },
    render({ inside, encoderReady, residentBytes }) {
      return [
        ...family("pixel_sidecar_requests_total", "counter", "Requests answered, by route and class of status."),
        ...[...requests].map(([labels, count]) => `pixel_sidecar_requests_total{${labels}} ${count}`),
        ...family("pixel_sidecar_stage_seconds", "summary", "Time pictures spent in each stage."),
        ...[...stages].flatMap(([stage, { count, seconds }]) => [
          `pixel_sidecar_stage_seconds_sum{stage="${stage}"} ${seconds}`,
          `pixel_sidecar_stage_seconds_count{stage="${stage}"} ${count}`,
        ]),
        ...family("pixel_sidecar_pictures_inside", "gauge", "Pictures being worked on now."),
        `pixel_sidecar_pictures_inside ${inside}`,
        ...family("pixel_sidecar_encoder_ready", "gauge", "1 when the encoder can run."),
        `pixel_sidecar_encoder_ready ${encoderReady ? 1 : 0}`,
        ...family("process_resident_memory_bytes", "gauge", "Resident memory of the serving process, in bytes."),
        `process_resident_memory_bytes ${residentBytes}`,
        "",
      ].join("\n");
    },
  };
}

function family(name: string, type: string, help: string): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`];
}
