import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import type { AuthorityCore } from "../../edge/objects/authority-core.ts";
import type { AuthorityPort, AuthoritySnapshot, Unavailable } from "../../edge/objects/authority-protocol.ts";
import { createVirtualTime, type VirtualTime } from "../../scripts/simulation/virtual-time.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import type { Sample } from "../../shared/breaker-state.ts";
import { startAuthorityKit, startIsolateKit, type AuthorityKit, type IsolateKit } from "../kit/authority.ts";

/** What may become of a message to the object. */
type Network = "good" | "down" | "deaf" | "twice";

type Step =
  | { do: "call"; isolate: number; sample: Sample; ms: number }
  | { do: "deliver" }
  | { do: "wait"; ms: number }
  | { do: "network"; is: Network }
  | { do: "refresh"; isolate: number }
  | { do: "tear down"; isolate: number }
  | { do: "restart" }
  | { do: "act"; kind: "open" | "close" | "reset" };

const isolates = 3;
const isolate = fc.nat({ max: isolates - 1 });

const common: fc.WeightedArbitrary<Step>[] = [
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant("call" as const),
      isolate,
      sample: fc.constantFrom<Sample[]>("success", "failure", "failure", "ignored"),
      ms: fc.constantFrom(0, 0, 30, 400, 3000),
    }),
  },
  { weight: 12, arbitrary: fc.constant({ do: "deliver" }) },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.constantFrom(1, 100, 260, 600, 2500, 6000) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("network" as const),
      is: fc.constantFrom<Network[]>("good", "good", "down", "deaf", "twice"),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("refresh" as const), isolate }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("tear down" as const), isolate }) },
];
const upheaval: fc.WeightedArbitrary<Step>[] = [
  { weight: 1, arbitrary: fc.constant({ do: "restart" }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("act" as const),
      kind: fc.constantFrom("open" as const, "close" as const, "reset" as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.constantFrom(9000, 11_000, 40_000) }) },
];

const steps = (choices: fc.WeightedArbitrary<Step>[]): fc.Arbitrary<Step[]> =>
  fc.array(fc.oneof(...choices), { minLength: 20, maxLength: 120, size: "max" });

/** Isolates and their object, every message between them held until the scheduler lets it go. */
class World {
  time: VirtualTime = createVirtualTime();
  kit: AuthorityKit;
  isolates: IsolateKit[];
  network: Network = "good";
  /** How calls ended that were let through. */
  ended: Record<Sample, number> = { success: 0, failure: 0, slow: 0, ignored: 0 };
  refused = 0;
  scheduler: fc.Scheduler;
  limits: Partial<BreakerLimits>;
  /** The last epoch each has told the others. */
  epochs = new Map<string, number>();
  violations: string[] = [];

  constructor(scheduler: fc.Scheduler, limits: Partial<BreakerLimits>) {
    this.scheduler = scheduler;
    this.limits = limits;
    this.kit = startAuthorityKit(this.time, limits);
    const port: AuthorityPort = {
      report: (batch) => {
        this.note(batch.isolate, batch.epochs.sidecar);
        return this.send("report", (to) => this.heard(to.report(batch)));
      },
      acquire: (name, from, ask) => {
        this.note(from, ask.epoch);
        return this.send("acquire", (to) => this.heard(to.acquire(name, from, ask)));
      },
      act: (name, deed, key) => this.send("act", (to) => to.act(name, deed, key)),
      read: () => this.send("read", (to) => to.read()),
      bumpCacheEpoch: () => this.send("bump", (to) => to.bumpCacheEpoch()),
    };
    this.isolates = Array.from({ length: isolates }, () => startIsolateKit(this.time, port, limits));
  }

  async send<Reply>(op: string, deliver: (to: AuthorityCore) => Reply): Promise<Reply | Unavailable> {
    const { network } = this;
    if (network === "down") throw new Error("Network connection lost.");
    await this.scheduler.schedule(Promise.resolve(), `${op} goes`);
    const reply = JSON.stringify(deliver(this.kit.core()));
    if (network === "twice") {
      void this.scheduler.schedule(Promise.resolve(), `${op} goes again`).then(() => deliver(this.kit.core()));
    }
    if (network === "deaf") return new Promise(() => undefined);
    await this.scheduler.schedule(Promise.resolve(), `${op} returns`);
    return JSON.parse(reply) as Reply;
  }

  heard<Reply extends { snapshot: AuthoritySnapshot }>(reply: Reply): Reply {
    this.note("the object", reply.snapshot.breakers.sidecar.epoch);
    return reply;
  }

  async call(at: number, sample: Sample, ms: number): Promise<boolean> {
    const breakers = this.isolates[at]?.bind();
    const admission = await breakers?.admit("sidecar");
    if (admission?.admitted !== true) {
      this.refused += 1;
      return false;
    }
    if (ms > 0) await this.time.sleep(ms);
    breakers?.settle("sidecar", admission.token, sample, null);
    breakers?.settle("sidecar", admission.token, "failure", null);
    this.ended[sample] += 1;
    return true;
  }

  async take(step: Step): Promise<void> {
    switch (step.do) {
      case "call":
        void this.call(step.isolate, step.sample, step.ms);
        break;
      case "deliver":
        if (this.scheduler.count() > 0) await this.scheduler.waitOne();
        break;
      case "wait":
        await this.time.run(this.time.now() + step.ms);
        break;
      case "network":
        this.network = step.is;
        break;
      case "refresh":
        this.isolates[step.isolate]?.bind().refresh();
        break;
      case "tear down":
        this.isolates[step.isolate]?.tearDown();
        break;
      case "restart":
        this.kit.restart();
        break;
      case "act":
        this.kit
          .core()
          .act(
            "sidecar",
            step.kind === "open" ? { kind: "open", reason: null, forMs: 5000 } : { kind: step.kind },
            "k",
          );
        break;
    }
    await this.time.run(this.time.now());
    this.check();
  }

  /** No one tells of an epoch older than he told of before. */
  note(who: string, epoch: number | undefined): void {
    if (epoch === undefined) return;
    const before = this.epochs.get(who) ?? 0;
    // Thrown here it would look like a broken connection.
    if (epoch < before) this.violations.push(`the epoch of ${who} fell from ${before} to ${epoch}`);
    this.epochs.set(who, epoch);
  }

  /** What holds whatever happens. */
  check(): void {
    assert.deepEqual(this.violations, []);
    const { leases } = this.kit.core().read().reading.breakers.sidecar;
    assert.ok(leases <= (this.limits.halfOpenMaxCalls ?? 3), `${leases} leases`);
    const told = this.kit.events.flatMap(({ event }) => (event.kind === "transition" ? [event.epoch] : []));
    assert.equal(new Set(told).size, told.length, "a change told twice, or two in one epoch");
  }

  /** Lets time pass and every message through, with no more trouble, until nothing is left to do. */
  async calmDown(ms: number): Promise<void> {
    this.network = "good";
    const end = this.time.now() + ms;
    while (this.time.now() < end) {
      while (this.scheduler.count() > 0) {
        await this.scheduler.waitOne();
        await this.time.run(this.time.now());
      }
      await this.time.run(this.time.now() + 250);
    }
    this.check();
  }
}

test("whatever is lost, repeated, torn down or out of order, each call counts exactly once", async () => {
  const limits = { failureThreshold: 10_000, failureRatio: null };
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), steps(common), async (scheduler, script) => {
      const world = new World(scheduler, limits);
      for (const step of script) await world.take(step);
      await world.calmDown(40_000);
      // Whoever was torn down flushes with his next request.
      for (const { breakers } of world.isolates) breakers.refresh();
      await world.calmDown(10_000);
      const { success, failure, ignored, late } = world.kit.core().read().reading.breakers.sidecar.counts;
      assert.deepEqual({ success, failure, ignored, late, slow: 0 }, { ...world.ended, late: 0 });
    }),
    { numRuns: 60 },
  );
});

test("leases, epochs and events hold in every order; a good box with traffic is closed for all in the end", async () => {
  const limits = {
    cooldownMs: 10_000,
    maxCooldownMs: 40_000,
    probeTimeoutMs: 5000,
    maxHalfOpenMs: 10_000,
    rampMs: 2000,
  };
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), steps([...common, ...upheaval]), async (scheduler, script) => {
      const world = new World(scheduler, limits);
      for (const step of script) await world.take(step);
      await world.calmDown(1000);
      // The longest cooldown, an expired probe and the next cooldown, probes and ramp.
      for (let turn = 0; turn < 400; turn += 1) {
        for (let at = 0; at < isolates; at += 1) {
          world.isolates[at]?.bind().refresh();
          void world.call(at, "success", 10);
        }
        await world.calmDown(250);
      }
      const states = world.isolates.map(({ breakers }) => breakers.view().breakers.sidecar);
      assert.deepEqual(
        [world.kit.core().read().reading.breakers.sidecar, ...states].map(({ state, ramp }) => [state, ramp]),
        Array.from({ length: isolates + 1 }, () => ["CLOSED", false]),
      );
      const through = await Promise.all(world.isolates.map((_, at) => world.call(at, "success", 0)));
      assert.deepEqual(through, [true, true, true]);
    }),
    { numRuns: 40 },
  );
});
