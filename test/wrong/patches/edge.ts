import type { Patch } from "../patch.ts";

const core = "test/edge/authority-core.test.ts";
const breakers = "test/edge/breakers.test.ts";
const gate = "test/edge/gate.test.ts";
const captions = "test/edge/captions.test.ts";

/** Hosts at the edge wrong in one way each. */
export const edgePatches: readonly Patch[] = [
  {
    wrong: "hosts: a flush is counted twice by the object",
    file: "edge/objects/authority-core.ts",
    from: "if (batch.seq > isolate.seq) {",
    to: "if (batch.seq >= isolate.seq) {",
    laws: [core, breakers],
  },
  {
    wrong: "hosts: a flush is counted twice by the isolate",
    file: "edge/outbox.ts",
    from: "if (outbox.sending !== null) return { outbox, batch: outbox.sending };",
    to: "if (outbox.sending !== null) return { outbox: { ...outbox, seq: outbox.seq + 1 }, batch: { ...outbox.sending, seq: outbox.seq + 1 } };",
    laws: [breakers, "test/edge/interleavings.test.ts"],
  },
  {
    wrong: "hosts: a lease is leaked by a throw or a refusal",
    file: "edge/gate.ts",
    from: "if (!admitted) breakers.settle(",
    to: "if (!admitted && sidecar.token.upstream === null) breakers.settle(",
    laws: [gate],
  },
  {
    wrong: "hosts: a lease is leaked by an abort",
    file: "edge/breakers.ts",
    from: "if (upstream !== null) {",
    to: 'if (upstream !== null && sample !== "ignored") {',
    laws: [breakers],
  },
  {
    wrong: "hosts: the isolate's cooldown runs on the wall clock",
    file: "edge/breakers.ts",
    from: "return clock.elapsedMs;",
    to: "return wallMs;",
    laws: [breakers],
  },
  {
    wrong: "hosts: the object's cooldown runs on the wall clock",
    file: "edge/objects/authority.ts",
    from: "return clock.elapsedMs;",
    to: "return platform.now();",
    laws: ["test/edge/authority-object.test.ts"],
  },
  {
    wrong: "hosts: a half-open object without probes never follows those ahead of it",
    file: "edge/objects/authority-core.ts",
    from: 'const probing = state.phase === "half_open" && state.leases.length > 0;',
    to: 'const probing = state.phase === "half_open";',
    laws: [core, breakers],
  },
  {
    wrong: "ladder: an answer of another model is as fresh as ever",
    file: "edge/captions.ts",
    from: "const lastModel = scope.lastModel.get(question.wishes.model);",
    to: "const lastModel = null;",
    laws: [captions],
  },
  {
    wrong: "ladder: a box that is gone is asked for evidence on top",
    file: "edge/captions.ts",
    from: "look: async () => (failed.reachable ? look(scope, asking) : null),",
    to: "look: () => look(scope, asking),",
    laws: [captions],
  },
  {
    wrong: "ladder: skipped when a breaker refuses",
    file: "edge/captions.ts",
    from: "if (ours ||",
    to: "if (ours || attempts === 0 ||",
    laws: [captions],
  },
  {
    wrong: "hosts: a probe that hangs for its own short time is nobody's failure",
    file: "edge/gate.ts",
    from: "isProbe(permit) ? Math.min(limits.timeoutMs, limits.probeTimeoutMs) : limits.timeoutMs;",
    to: "limits.timeoutMs;",
    laws: [gate],
  },
];
