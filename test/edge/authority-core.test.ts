import assert from "node:assert/strict";
import { test } from "node:test";
import { createAuthorityCore, type AuthorityCore } from "../../edge/objects/authority-core.ts";
import { maxHeard } from "../../edge/objects/authority-memory.ts";
import type { Batch, Granting } from "../../edge/objects/authority-protocol.ts";
import { createVirtualTime } from "../../scripts/simulation/virtual-time.ts";
import { addSample, emptyDelta, type BreakerDelta } from "../../shared/breaker-sharing.ts";
import type { BreakerName, Sample } from "../../shared/breaker-state.ts";
import { startAuthorityKit, wallStartMs, type AuthorityKit } from "../kit/authority.ts";
import { guideLimits } from "../kit/breaker-driver.ts";

const firstEpoch = wallStartMs / 1000;

const deltaOf = (samples: readonly Sample[], epoch = 0): BreakerDelta =>
  samples.reduce((delta, sample) => addSample(delta, sample), emptyDelta(epoch));
const failing = (count: number): Sample[] => Array.from({ length: count }, () => "failure");

const batch = (isolate: string, seq: number, samples: readonly Sample[] = [], more: Partial<Batch> = {}): Batch => ({
  isolate,
  seq,
  deltas: samples.length === 0 ? [] : [{ name: "sidecar", delta: deltaOf(samples) }],
  leases: [],
  epochs: {},
  ...more,
});

const ask = (core: AuthorityCore, isolate: string, id: number, epoch = 0): Granting =>
  core.acquire("sidecar", isolate, { id, epoch }).granting;

function leaseOf(granting: Granting): { epoch: number; lease: number } {
  if (granting.kind !== "lease") assert.fail(`no lease but ${granting.kind}`);
  return granting.token;
}

const stateOf = (kit: AuthorityKit, name: BreakerName = "sidecar"): string =>
  kit.core().read().reading.breakers[name].state;

/** An object whose breaker `sidecar` five failures have just opened. */
function opened(kit: AuthorityKit): void {
  kit.core().report(batch("a", 1, failing(5)));
  assert.equal(stateOf(kit), "OPEN");
}

test("an object that never stored anything is closed, in an epoch no older than any before it, and tells nothing", () => {
  const kit = startAuthorityKit(createVirtualTime());
  const { reading } = kit.core().read();
  assert.deepEqual(
    [reading.breakers.sidecar.state, reading.breakers.sidecar.epoch, reading.cacheEpoch, reading.events],
    ["CLOSED", firstEpoch, firstEpoch, []],
  );
});

test("runs survive merging: failures of one isolate in several batches open the breaker at the fifth", () => {
  const kit = startAuthorityKit(createVirtualTime());
  for (let seq = 1; seq <= 4; seq += 1) kit.core().report(batch("a", seq, failing(1)));
  assert.equal(stateOf(kit), "CLOSED");
  kit.core().report(batch("a", 5, failing(1)));
  assert.equal(stateOf(kit), "OPEN");
});

test("each breaker learns only of its own calls", () => {
  const kit = startAuthorityKit(createVirtualTime());
  kit.core().report(batch("a", 1, [], { deltas: [{ name: "lm_studio_api", delta: deltaOf(failing(5)) }] }));
  assert.deepEqual([stateOf(kit, "sidecar"), stateOf(kit, "lm_studio_api")], ["CLOSED", "OPEN"]);
});

test("F50: two isolates that report the same outage open the breaker once: one event, one epoch", () => {
  const kit = startAuthorityKit(createVirtualTime());
  for (const isolate of ["a", "b"]) {
    const deltas = [{ name: "sidecar" as const, delta: deltaOf(failing(5), firstEpoch) }];
    kit.core().report(batch(isolate, 1, [], { deltas }));
  }
  assert.deepEqual(kit.transitions(), ["closed > open: run"]);
  const { epoch, counts } = kit.core().read().reading.breakers.sidecar;
  assert.deepEqual([epoch, counts.opens, counts.late], [firstEpoch + 1, 1, 5]);
});

test("F50: a batch that is delivered again counts once, and an older one that comes after it does not count", () => {
  const kit = startAuthorityKit(createVirtualTime());
  kit.core().report(batch("a", 2, failing(4)));
  for (const seq of [2, 2, 1]) kit.core().report(batch("a", seq, failing(4)));
  assert.deepEqual([stateOf(kit), kit.core().read().reading.breakers.sidecar.counts.failure], ["CLOSED", 4]);
  kit.core().report(batch("b", 1, failing(1)));
  assert.equal(stateOf(kit), "OPEN", "another isolate has numbers of its own");
});

test("after a restart a batch is dropped that was saved, and counts that was not", () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  kit.core().report(batch("a", 1, failing(2)));
  kit.core().report(batch("a", 2, failing(1)));
  kit.restart();
  assert.equal(kit.core().read().reading.breakers.sidecar.counts.failure, 2, "within 5 s the second was not saved");
  kit.core().report(batch("a", 1, failing(2)));
  kit.core().report(batch("a", 2, failing(1)));
  assert.equal(kit.core().read().reading.breakers.sidecar.counts.failure, 3);
});

test("isolates are remembered in bounded number, the one not heard for longest goes first", () => {
  const kit = startAuthorityKit(createVirtualTime());
  kit.core().report(batch("first", 1, failing(1)));
  kit.core().report(batch("second", 1));
  kit.core().report(batch("first", 2));
  for (let other = 0; other < maxHeard - 1; other += 1) kit.core().report(batch(`i${other}`, 1));
  kit.core().report(batch("first", 1, failing(1)));
  assert.equal(kit.core().read().reading.breakers.sidecar.counts.failure, 1, "still known");
  assert.equal(kit.core().read().reading.share, maxHeard);
});

test("the share counts isolates heard in the last 10 s, and is never below 1", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  const share = (): number => kit.core().read().reading.share;
  assert.equal(share(), 1);
  kit.core().report(batch("a", 1));
  await time.run(5000);
  kit.core().report(batch("b", 1));
  assert.equal(share(), 2);
  await time.run(9999);
  assert.equal(share(), 2);
  await time.run(10_000);
  assert.equal(share(), 1);
  await time.run(60_000);
  assert.equal(share(), 1);
});

test("state is saved at every change of phase, and else no more often than every 5 s", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  for (let seq = 1; seq <= 10; seq += 1) kit.core().report(batch("a", seq, ["success"]));
  assert.equal(kit.saves, 1);
  await time.run(4999);
  kit.core().report(batch("a", 11, ["success"]));
  assert.equal(kit.saves, 1);
  await time.run(5000);
  kit.core().report(batch("a", 12, ["success"]));
  assert.equal(kit.saves, 2);
  kit.core().report(batch("a", 13, failing(5)));
  assert.equal(kit.saves, 3);
  kit.core().act("sidecar", { kind: "close" }, "key");
  assert.equal(kit.saves, 4);
});

test("F52: a restart while open keeps epoch, rest, attempt, who opened it and the history, on a clock that starts anew", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  opened(kit);
  kit.core().act("lm_studio_api", { kind: "open", reason: "update", forMs: null }, "key1");
  kit.core().bumpCacheEpoch();
  const before = kit.core().read().reading;
  await time.run(20_000);
  kit.restart();
  const after = kit.core().read().reading;
  const { state, epoch, attempt, failure_count: failures, retry_after_seconds: rest } = after.breakers.sidecar;
  assert.deepEqual([state, epoch, attempt, failures, rest], ["OPEN", before.breakers.sidecar.epoch, 0, 5, 40]);
  assert.deepEqual(after.breakers.lm_studio_api.manual, { reason: "update" });
  assert.deepEqual([after.breakers.lm_studio_api.by, after.cacheEpoch], ["key1", firstEpoch + 1]);
  assert.deepEqual(after.events, before.events);
  assert.equal(after.events.length, 2);
});

for (const [step, skewMs, rest] of [
  ["back a day", -86_400_000, 60],
  ["forward a day", 86_400_000, 0],
] as const) {
  test(`G7: a wall clock that steps ${step} over a restart leaves ${rest} s of a cooldown of 60 s`, () => {
    const kit = startAuthorityKit(createVirtualTime());
    opened(kit);
    kit.wallSkewMs = skewMs;
    kit.restart();
    assert.equal(kit.core().read().reading.breakers.sidecar.retry_after_seconds, rest);
  });
}

test("G7: a wall clock that steps while the object runs changes no cooldown", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  opened(kit);
  kit.wallSkewMs = -86_400_000;
  await time.run(30_000);
  assert.equal(kit.core().read().reading.breakers.sidecar.retry_after_seconds, 30);
});

for (const [what, saved] of [
  ["no JSON", "{"],
  ["another version", JSON.stringify({ v: 2 })],
  ["a list", "[]"],
  ["a number", 7],
  ["half a breaker", JSON.stringify({ v: 1, breakers: { sidecar: { v: 1, saved_at: 1, state: { phase: "open" } } } })],
] as const) {
  test(`a saved state that is ${what} is discarded: fresh, closed, told, with epochs of the wall clock`, () => {
    const kit = startAuthorityKit(createVirtualTime());
    kit.saved = saved;
    kit.restart();
    const { reading } = kit.core().read();
    assert.deepEqual(
      [stateOf(kit), reading.breakers.sidecar.epoch, reading.cacheEpoch],
      ["CLOSED", firstEpoch, firstEpoch],
    );
    assert.deepEqual(
      kit.events.map(({ name, event }) => `${name} ${event.kind}`),
      ["sidecar state_discarded", "lm_studio_api state_discarded"],
    );
  });
}

test("a store that cannot be read is never written over; one that cannot be written is tried again at the next event", () => {
  const broken = (part: "load" | "save"): { core: AuthorityCore; written: string[]; heal: () => void } => {
    let down = true;
    const written: string[] = [];
    const core = createAuthorityCore({
      now: () => 0,
      wallNow: () => wallStartMs,
      random: () => 0,
      limits: guideLimits,
      load() {
        if (part === "load") throw new Error("quota");
        return undefined;
      },
      save(text) {
        if (part === "save" && down) throw new Error("quota");
        written.push(text);
      },
      setAlarm: () => undefined,
      probe: () => Promise.resolve("ignored"),
      emit: () => undefined,
    });
    return { core, written, heal: () => void (down = false) };
  };
  const unread = broken("load");
  unread.core.report(batch("a", 1, failing(5)));
  assert.deepEqual([unread.written, unread.core.read().reading.storeErrors], [[], { load: 1, save: 0, alarm: 0 }]);

  const unwritten = broken("save");
  unwritten.core.report(batch("a", 1, failing(5)));
  assert.deepEqual([unwritten.written, unwritten.core.read().reading.storeErrors.save >= 1], [[], true]);
  unwritten.heal();
  unwritten.core.report(batch("a", 2));
  assert.equal(unwritten.written.length, 1);
});

test("an observer that throws is counted and changes nothing", () => {
  const kit = startAuthorityKit(createVirtualTime());
  kit.breakObserver = true;
  opened(kit);
  assert.equal(kit.core().read().reading.observerErrors, kit.events.length);
  assert.ok(kit.events.length > 0);
});

test("the last hundred changes are kept, each once, and nothing of what every call does", () => {
  const kit = startAuthorityKit(createVirtualTime());
  for (let turn = 0; turn < 60; turn += 1) {
    kit.core().act("sidecar", { kind: "open", reason: `turn ${turn}`, forMs: null }, "key");
    ask(kit.core(), "a", turn + 1);
    kit.core().act("sidecar", { kind: "close" }, "key");
  }
  const { events } = kit.core().read().reading;
  assert.equal(events.length, 100);
  assert.ok(events.every(({ event, by }) => event.kind === "transition" && by === "key"));
  assert.equal(kit.transitions().length, 120);
});

test("reading changes nothing: no lease, no phase, no count, no row of another state", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  opened(kit);
  await time.run(59_000);
  kit.core().report(batch("a", 2));
  const { saved } = kit;
  for (let turn = 0; turn < 100; turn += 1) kit.core().read();
  assert.equal(kit.saved, saved);
  assert.deepEqual([kit.core().read().reading.breakers.sidecar.counts.not_permitted, kit.transitions().length], [0, 1]);
});

test("an act beats the automatic rules, is told once with the key id, and its author stays with it", () => {
  const kit = startAuthorityKit(createVirtualTime());
  const { view, snapshot } = kit.core().act("sidecar", { kind: "open", reason: "cables", forMs: 5000 }, "key1");
  assert.deepEqual(
    [view.state, view.manual, view.by, view.retry_after_seconds, snapshot.breakers.sidecar.phase],
    ["OPEN", { reason: "cables" }, "key1", 5, "open"],
  );
  kit.core().report(batch("a", 1, ["success", "success", "success"]));
  assert.equal(stateOf(kit), "OPEN", "a success does not end it");
  assert.deepEqual(
    kit.events.filter(({ event }) => event.kind === "transition").map(({ by }) => by),
    ["key1"],
  );
  kit.core().act("sidecar", { kind: "reset" }, "key2");
  const { state, by, counts } = kit.core().read().reading.breakers.sidecar;
  assert.deepEqual([state, by, counts.opens], ["CLOSED", null, 0]);
});

test("a lease is given to the first that asks after the cooldown, never more than are allowed at once", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  opened(kit);
  await time.run(59_999);
  kit.core().report(batch("a", 2));
  const early = ask(kit.core(), "a", 1);
  assert.deepEqual(early.kind === "refused" && early.refusal, {
    admitted: false,
    code: "ERR_CB_OPEN",
    phase: "open",
    retryAfterMs: 1,
  });
  kit.probe = () => new Promise(() => undefined);
  await time.run(60_001);
  const kinds = ["b", "c", "d"].map((isolate) => ask(kit.core(), isolate, 1).kind);
  assert.deepEqual(kinds, ["lease", "lease", "refused"], "the alarm's own probe has the first of three");
});

test("the same wish delivered twice gets the same lease", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time, { halfOpenMaxCalls: 1 });
  kit.core().act("sidecar", { kind: "open", reason: null, forMs: 1000 }, "k");
  await time.run(1000);
  const first = ask(kit.core(), "a", 7);
  assert.deepEqual(ask(kit.core(), "a", 7), first);
  assert.equal(ask(kit.core(), "a", 8).kind, "refused");
  assert.equal(leaseOf(first).lease, 1);
});

test("a wish delivered again after later ones gets no lease of its own: nobody would end it", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  for (const name of ["sidecar", "lm_studio_api"] as const) {
    kit.core().act(name, { kind: "open", reason: null, forMs: 1000 }, "k");
  }
  await time.run(1000);
  const first = ask(kit.core(), "a", 5);
  kit.core().acquire("lm_studio_api", "a", { id: 6, epoch: 0 });
  assert.deepEqual(ask(kit.core(), "a", 5), first, "the other breaker's wish is not in between");
  ask(kit.core(), "a", 7);
  assert.equal(ask(kit.core(), "a", 5).kind, "refused");
  assert.equal(kit.core().read().reading.breakers.sidecar.leases, 2);
});

test("a closed breaker admits without a lease, and counts nothing: the caller's copy does", () => {
  const kit = startAuthorityKit(createVirtualTime());
  const before = kit.core().read().reading.breakers.sidecar;
  assert.equal(ask(kit.core(), "a", 1).kind, "admitted");
  assert.deepEqual(kit.core().read().reading.breakers.sidecar, before);
});

test("a ramp's calls are counted where they go through: the object lets everyone who asks pass", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time, { successThreshold: 1 });
  kit.core().act("sidecar", { kind: "open", reason: null, forMs: 1000 }, "k");
  await time.run(1000);
  const { epoch, lease } = leaseOf(ask(kit.core(), "a", 1));
  const leases = [{ name: "sidecar" as const, epoch, lease, sample: "success" as const, retryAfterMs: null }];
  kit.core().report(batch("a", 1, [], { leases }));
  assert.equal(kit.core().read().reading.breakers.sidecar.ramp, true);
  for (let id = 2; id < 20; id += 1) assert.equal(ask(kit.core(), "a", id).kind, "admitted");
});

test("two good probes close it, one bad one opens it for twice as long", async () => {
  for (const [samples, state, cooldown] of [
    [["success", "success"], "CLOSED", null],
    [["success", "failure"], "OPEN", 120],
    [["success", "ignored"], "HALF_OPEN", null],
  ] as const) {
    const time = createVirtualTime();
    const kit = startAuthorityKit(time);
    opened(kit);
    await time.run(59_500);
    await time.run(60_500);
    const leases = samples.map((sample, at) => {
      const { epoch, lease } = leaseOf(ask(kit.core(), "a", at + 1));
      return { name: "sidecar" as const, epoch, lease, sample, retryAfterMs: null };
    });
    const { snapshot } = kit.core().report(batch("a", 9, [], { leases }));
    const view = kit.core().read().reading.breakers.sidecar;
    assert.deepEqual([view.state, view.retry_after_seconds], [state, cooldown]);
    assert.equal(snapshot.breakers.sidecar.epoch, view.epoch);
  }
});

test("F29: a lease nobody ends is a failure at its expiry, as of then, whoever looks when", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time, { probeTimeoutMs: 5000 });
  kit.core().act("sidecar", { kind: "open", reason: null, forMs: 1000 }, "k");
  await time.run(1000);
  leaseOf(ask(kit.core(), "dead", 1));
  await time.run(1000 + 6000 + 20_000);
  kit.core().report(batch("other", 1));
  assert.deepEqual(kit.transitions().at(-1), "half_open > open: lease_expired");
  assert.equal(kit.core().read().reading.breakers.sidecar.retry_after_seconds, 100, "120 s, 20 of them over");
});

test("a copy that went its own way is followed: the breaker takes its epoch, so that the copy heeds it again", () => {
  const kit = startAuthorityKit(createVirtualTime());
  opened(kit);
  const ahead = firstEpoch + 9;
  const { snapshot } = kit.core().report(batch("alone", 1, [], { epochs: { sidecar: ahead } }));
  assert.deepEqual([snapshot.breakers.sidecar.phase, snapshot.breakers.sidecar.epoch], ["open", ahead]);
  assert.deepEqual(kit.transitions().length, 1, "no change of phase");
  const behind = kit.core().report(batch("alone", 2, [], { epochs: { sidecar: 3 } }));
  assert.equal(behind.snapshot.breakers.sidecar.epoch, ahead, "an epoch never falls");
});

test("an epoch is not taken over while probes are out: they would be lost", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time, { successThreshold: 1 });
  kit.core().act("sidecar", { kind: "open", reason: null, forMs: 1000 }, "k");
  await time.run(1000);
  const { epoch, lease } = leaseOf(ask(kit.core(), "a", 1));
  kit.core().report(batch("alone", 1, [], { epochs: { sidecar: epoch + 5 } }));
  kit
    .core()
    .report(batch("a", 1, [], { leases: [{ name: "sidecar", epoch, lease, sample: "success", retryAfterMs: null }] }));
  assert.equal(stateOf(kit), "CLOSED");
});

test("a half-open object whose probes have all ended follows a copy that went on without it", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  kit.core().act("sidecar", { kind: "open", reason: null, forMs: 1000 }, "k");
  await time.run(1000);
  const { epoch, lease } = leaseOf(ask(kit.core(), "a", 1));
  const leases = [{ name: "sidecar", epoch, lease, sample: "unused", retryAfterMs: null }] as const;
  kit.core().report(batch("a", 1, [], { leases }));
  const { snapshot } = kit.core().report(batch("alone", 1, [], { epochs: { sidecar: epoch + 5 } }));
  assert.deepEqual([snapshot.breakers.sidecar.phase, snapshot.breakers.sidecar.epoch], ["half_open", epoch + 5]);
});

test("fields and breakers that are not known are left alone", () => {
  const kit = startAuthorityKit(createVirtualTime());
  const strange = { name: "gpu" as BreakerName, delta: deltaOf(failing(9)) };
  const known = { name: "sidecar" as const, delta: deltaOf(failing(1)) };
  const newer = { ...batch("a", 1, [], { deltas: [strange, known], metrics: { calls: 3 } }), tomorrow: true };
  assert.equal(kit.core().report(newer).ok, true);
  assert.equal(kit.core().read().reading.breakers.sidecar.counts.failure, 1);
});

// The alarm

test("the alarm is set for the end of a cooldown, once, and taken back when the breaker closes", () => {
  const kit = startAuthorityKit(createVirtualTime());
  opened(kit);
  assert.equal(kit.alarmAt(), wallStartMs + 60_000);
  kit.core().act("sidecar", { kind: "close" }, "k");
  assert.equal(kit.alarmAt(), null);
});

test("a dead box costs no caller his time: the alarm's probe fails, and the breaker opens for longer", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  kit.probe = () => Promise.resolve("failure");
  opened(kit);
  await time.run(60_000);
  assert.deepEqual(
    [kit.probes, kit.transitions().slice(1)],
    [["sidecar"], ["open > half_open: cooldown_over", "half_open > open: probe_failed"]],
  );
  assert.equal(kit.alarmAt(), wallStartMs + 60_000 + 120_000);
});

test("a box that answers closes nothing: only captions do", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time, { successThreshold: 1 });
  opened(kit);
  await time.run(60_000);
  const { state, leases, success_count: successes } = kit.core().read().reading.breakers.sidecar;
  assert.deepEqual([state, leases, successes, kit.probes.length, kit.alarmAt()], ["HALF_OPEN", 0, 0, 1, null]);
});

test("a breaker each is probed for itself", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  kit.probe = (name) => Promise.resolve(name === "sidecar" ? "ignored" : "failure");
  const down = { name: "lm_studio_api" as const, delta: deltaOf(failing(5)) };
  kit.core().report(batch("a", 1, failing(5), { deltas: [{ name: "sidecar", delta: deltaOf(failing(5)) }, down] }));
  await time.run(60_000);
  assert.deepEqual([stateOf(kit, "sidecar"), stateOf(kit, "lm_studio_api")], ["HALF_OPEN", "OPEN"]);
});

test("what was decided while the probe was under way stands", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  opened(kit);
  kit.probe = async () => {
    await time.sleep(2000);
    return "failure";
  };
  await time.run(61_000);
  kit.core().act("sidecar", { kind: "close" }, "k");
  await time.run(70_000);
  const { state, counts } = kit.core().read().reading.breakers.sidecar;
  assert.deepEqual([state, counts.late], ["CLOSED", 0]);
});

test("a probe that throws is no verdict, frees its lease, and the alarm does not reject", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  opened(kit);
  kit.probe = () => Promise.reject(new Error("bug"));
  await time.run(59_999);
  await kit.core().alarm();
  assert.equal(kit.alarmAt(), wallStartMs + 60_000, "rung too early, it is set again");
  await time.run(60_000);
  const { state, leases } = kit.core().read().reading.breakers.sidecar;
  assert.deepEqual([state, leases], ["HALF_OPEN", 0]);
  await kit.core().alarm();
  assert.equal(kit.probes.length, 1, "rung again, there is nothing to do");
});

test("when nobody has called for 10 minutes the alarm is not set again, and the next call gets the lease", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  kit.probe = () => Promise.resolve("failure");
  opened(kit);
  await time.run(3_600_000);
  assert.equal(kit.alarmAt(), null);
  // 60, 180 and 420 s after the call, and then for the last time at 670 s: that alarm was set within 10 minutes.
  assert.equal(kit.probes.length, 4);
  assert.equal(ask(kit.core(), "a", 1).kind, "lease");
});

test("a restart neither forgets when it was called last nor sets an alarm by itself", async () => {
  const time = createVirtualTime();
  const kit = startAuthorityKit(time);
  kit.probe = () => Promise.resolve("failure");
  opened(kit);
  await time.run(59_000);
  kit.restart();
  assert.equal(kit.alarmAt(), wallStartMs + 60_000, "what the process before it asked for");
  await time.run(60_000);
  assert.deepEqual([kit.probes.length, kit.alarmAt()], [1, wallStartMs + 180_000]);
  for (let minute = 2; minute < 30; minute += 1) {
    kit.restart();
    await time.run(minute * 60_000);
  }
  assert.deepEqual([kit.probes.length, kit.alarmAt()], [4, null]);
});

test("switched off, everything is counted and everything let through", () => {
  const kit = startAuthorityKit(createVirtualTime(), { enabled: false });
  kit.core().report(batch("a", 1, failing(50)));
  const { state, counts } = kit.core().read().reading.breakers.sidecar;
  assert.deepEqual([state, counts.failure, ask(kit.core(), "a", 1).kind], ["CLOSED", 50, "admitted"]);
});
