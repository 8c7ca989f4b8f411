import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  arrive,
  ask,
  cancel,
  distrust,
  drain,
  drainPermit,
  freeLost,
  freePermit,
  freshAdmission,
  knowInstances,
  leave,
  losePermit,
  planTry,
  predictWaitMs,
  renew,
  turnAway,
  viewAdmission,
  type AdmissionState,
  type Arrival,
} from "../../shared/admission.ts";

const limits = { maxInside: 3 };
const easy: Arrival = { timeLeftMs: 30_000, needsPermit: true, beforeMs: 0, memory: { used: 1, limit: 100 } };

/** A state with so many inside who want a permit, so many waiting and permits out; the mean service time is 2 s. */
function busy(parts: {
  wanting?: number;
  waiting?: number;
  inUse?: number;
  lost?: number;
  parallel?: number | null;
  serviceMs?: number | null;
}): AdmissionState {
  const { wanting = 0, waiting = 0, inUse = 0, lost = 0, parallel = 1, serviceMs = 2000 } = parts;
  return {
    ...freshAdmission(),
    lastId: 100,
    inside: Array.from({ length: wanting }, (_, at) => ({ id: at + 1, wants: true })),
    waiting: Array.from({ length: waiting }, (_, at) => ({
      id: at + 20,
      tenant: "t",
      deadlineAt: 1e9,
      instance: "m",
      parallel,
    })),
    turns: waiting > 0 ? ["t"] : [],
    permits: [
      ...Array.from({ length: inUse }, (_, at) => ({ id: at + 40, state: "in_use" as const, since: 0 })),
      ...Array.from({ length: lost }, (_, at) => ({ id: at + 60, state: "lost" as const, since: 0 })),
    ],
    target: { instance: "m", parallel },
    serviceMs,
    tryAt: lost > 0 ? 10_000 : null,
  };
}

const refusalOf = (state: AdmissionState, arrival: Partial<Arrival> = {}): unknown => {
  const { next, verdict } = arrive(state, { ...easy, ...arrival }, 0, limits);
  if (!verdict.admitted) assert.equal(next, state, "a refusal changes nothing");
  return verdict.admitted ? "admitted" : { ...verdict.refusal };
};

const arrivals: readonly [string, AdmissionState, Partial<Arrival>, unknown][] = [
  ["an empty house takes everybody", freshAdmission(), {}, "admitted"],
  ["50 ms left are as good as none", freshAdmission(), { timeLeftMs: 50 }, { reason: "spent", retryAfterMs: null }],
  ["a little more than 50 ms is a try", freshAdmission(), { timeLeftMs: 51 }, "admitted"],
  ["F42 full at the bound", busy({ wanting: 3, inUse: 1 }), {}, { reason: "full", retryAfterMs: 8000 }],
  ["one under the bound is not full", busy({ wanting: 2, inUse: 1 }), {}, "admitted"],
  [
    "full asks for a second at least",
    busy({ wanting: 3, serviceMs: null }),
    {},
    { reason: "full", retryAfterMs: 1000 },
  ],
  ["F60 memory at 90 % is enough", freshAdmission(), { memory: { used: 90, limit: 100 } }, "admitted"],
  [
    "F60 memory above 90 % is shed",
    freshAdmission(),
    { memory: { used: 91, limit: 100 } },
    { reason: "memory", retryAfterMs: 1000 },
  ],
  ["F36 draining", drain(freshAdmission(), 0).next, {}, { reason: "draining", retryAfterMs: 5000 }],
  ["a wait as long as the time left is taken", busy({ waiting: 1, inUse: 1 }), { timeLeftMs: 4000 }, "admitted"],
  [
    "a wait longer than the time left is refused, and says how long it is",
    busy({ waiting: 1, inUse: 1 }),
    { timeLeftMs: 3999 },
    { reason: "late", retryAfterMs: 4000 },
  ],
  [
    "time before the wait counts too",
    busy({ waiting: 1, inUse: 1 }),
    { timeLeftMs: 4000, beforeMs: 1 },
    { reason: "late", retryAfterMs: 4000 },
  ],
  ["who wants no permit does not wait for one", busy({ waiting: 9, inUse: 1 }), { needsPermit: false }, "admitted"],
  [
    "deadline before draining",
    drain(freshAdmission(), 0).next,
    { timeLeftMs: 1 },
    { reason: "spent", retryAfterMs: null },
  ],
];

for (const [name, state, arrival, expected] of arrivals) {
  test(`arrival: ${name}`, () => assert.deepEqual(refusalOf(state, arrival), expected));
}

const waits: readonly [string, AdmissionState, number][] = [
  ["nobody there", freshAdmission(), 0],
  ["a free permit", busy({ parallel: 4, inUse: 3 }), 0],
  ["the free permit is wanted already", busy({ parallel: 4, inUse: 3, wanting: 1 }), 2000],
  ["all out, nobody before", busy({ inUse: 1 }), 2000],
  ["all out, two before, one permit", busy({ inUse: 1, waiting: 2 }), 6000],
  ["all out, two before, two permits", busy({ inUse: 2, waiting: 2, parallel: 2 }), 4000],
  ["those still decoding are before", busy({ inUse: 2, waiting: 1, wanting: 2, parallel: 2 }), 4000],
  ["unknown parallel is one", busy({ inUse: 1, waiting: 1, parallel: null }), 4000],
  ["no service time known yet", busy({ inUse: 1, waiting: 9, serviceMs: null }), 0],
  ["a lost permit is none", busy({ inUse: 1, lost: 1, waiting: 1, parallel: 2 }), 4000],
  ["all lost: until the next try", busy({ lost: 1, waiting: 1 }), 12_000],
  ["a crashed instance has one", distrust(busy({ inUse: 1, waiting: 2, parallel: 4 }), "m"), 6000],
];

for (const [name, state, expected] of waits) {
  test(`predicted wait, ${name}: ${expected} ms`, () => assert.equal(predictWaitMs(state, 0), expected));
}

const wish = (tenant: string, deadlineAt: number, parallel: number | null = 1) => ({
  tenant,
  deadlineAt,
  instance: "m",
  parallel,
  visit: null,
});

/** Asks for each in turn and gives the names in the order in which one permit after the other is handed to them. */
function serveInOrder(wishes: readonly [string, string, number][]): string[] {
  const names = new Map<number, string>();
  let { next: state, granted } = ask(freshAdmission(), wish("first", 1e9), 0);
  for (const [name, tenant, deadlineAt] of wishes) {
    const asked = ask(state, wish(tenant, deadlineAt), 0);
    names.set(asked.id, name);
    state = asked.next;
  }
  const order: string[] = [];
  while (granted.length > 0) {
    const [holder = 0] = granted;
    ({ next: state, granted } = freePermit(state, holder, false, 1));
    for (const id of granted) order.push(names.get(id) ?? "");
  }
  return order;
}

const orders: readonly [string, readonly [string, string, number][], string[]][] = [
  [
    "within a tenant the earliest deadline first",
    [
      ["late", "a", 300],
      ["early", "a", 100],
      ["middle", "a", 200],
    ],
    ["early", "middle", "late"],
  ],
  [
    "equal deadlines in order of arrival",
    [
      ["one", "a", 100],
      ["two", "a", 100],
    ],
    ["one", "two"],
  ],
  [
    "tenants in turn, however many one sends and however early its deadlines are",
    [
      ["a1", "a", 10],
      ["a2", "a", 11],
      ["a3", "a", 12],
      ["b1", "b", 900],
      ["c1", "c", 800],
      ["b2", "b", 901],
    ],
    ["a1", "b1", "c1", "a2", "b2", "a3"],
  ],
];

for (const [name, wishes, expected] of orders) {
  test(`order: ${name}`, () => assert.deepEqual(serveInOrder(wishes), expected));
}

test("a permit is handed over in the step that frees it, never free for a newcomer in between", () => {
  const first = ask(freshAdmission(), wish("a", 1e9), 0);
  const second = ask(first.next, wish("a", 1e9), 0);
  assert.deepEqual([first.granted, second.granted], [[first.id], []]);
  const freed = freePermit(second.next, first.id, true, 5);
  assert.deepEqual([freed.granted, viewAdmission(freed.next).permits.free], [[second.id], 0]);
  const newcomer = ask(freed.next, wish("b", 10), 5);
  assert.deepEqual(newcomer.granted, []);
});

test("who expired or was cancelled is never served, exactly at the deadline too", () => {
  const holder = ask(freshAdmission(), wish("a", 1e9), 0);
  const expiring = ask(holder.next, wish("a", 100), 0);
  const cancelled = ask(expiring.next, wish("b", 1e9), 0);
  const kept = ask(cancelled.next, wish("a", 101), 0);
  const without = cancel(kept.next, cancelled.id, 50);
  assert.deepEqual([without.granted, without.expired], [[], []]);
  const freed = freePermit(without.next, holder.id, true, 100);
  assert.deepEqual([freed.expired, freed.granted], [[expiring.id], [kept.id]]);
});

test("a later deadline of the same work is taken over, an earlier one is not", () => {
  const holder = ask(freshAdmission(), wish("a", 1e9), 0);
  const waiting = ask(holder.next, wish("a", 100), 0);
  const later = renew(renew(waiting.next, waiting.id, 300), waiting.id, 200);
  assert.deepEqual(freePermit(later, holder.id, true, 299).granted, [waiting.id]);
  assert.deepEqual(freePermit(later, holder.id, true, 300).expired, [waiting.id]);
});

test("F9 a draining permit is out, and so is a lost one until LM Studio answers again", () => {
  const holder = ask(freshAdmission(), wish("a", 1e9), 0);
  const draining = drainPermit(holder.next, holder.id);
  const waiting = ask(draining, wish("a", 1e9), 0);
  assert.deepEqual([waiting.granted, viewAdmission(waiting.next).permits.draining], [[], 1]);
  const lost = planTry(losePermit(waiting.next, holder.id), 10_000);
  const newcomer = ask(lost, wish("b", 1e9), 0);
  assert.deepEqual([newcomer.granted, viewAdmission(newcomer.next).permits.lost], [[], 1]);
  const freed = freeLost(newcomer.next, 5);
  assert.deepEqual([freed.granted, viewAdmission(freed.next).permits.lost], [[waiting.id], 0]);
});

test("after a crash one call at a time, until the instance was gone or is another", () => {
  const crashed = distrust(distrust(freshAdmission(), "m"), "m");
  const first = ask(crashed, wish("a", 1e9, 4), 0);
  const second = ask(first.next, wish("a", 1e9, 4), 0);
  assert.deepEqual([first.granted.length, second.granted.length], [1, 0]);
  assert.deepEqual(knowInstances(second.next, ["m", "x"], 0).granted, []);
  assert.deepEqual(knowInstances(second.next, ["m:2"], 0).granted, [second.id]);
  const other = ask(second.next, { ...wish("b", 1e9, 4), instance: "n" }, 0);
  assert.deepEqual(other.granted, [], "the line is kept: nobody passes the one whose turn it is");
});

test("the mean service time follows calls that were served, and no others", () => {
  const run = (state: AdmissionState, took: number, sampled: boolean): AdmissionState => {
    const asked = ask(state, wish("a", 1e9), 0);
    return freePermit(asked.next, asked.id, sampled, took).next;
  };
  const one = run(freshAdmission(), 1000, true);
  const two = run(one, 2000, true);
  const failed = run(two, 1, false);
  assert.deepEqual([one.serviceMs, two.serviceMs, failed.serviceMs], [1000, 1200, 1200]);
  assert.equal(freePermit(failed, 999, true, 5).next, failed);
});

test("F36 draining takes out of the line who could not be done in time, and keeps the rest", () => {
  const line = [30_000, 6000, 3999].reduce<AdmissionState>(
    (state, deadlineAt) => ask(state, wish("a", deadlineAt), 0).next,
    busy({ inUse: 1 }),
  );
  // Served by deadline: the first would be done at 4 s, the next two, one after the other, at 4 and at 6 s.
  const { next, refused } = drain(line, 0);
  assert.deepEqual([refused, next.waiting.map(({ deadlineAt }) => deadlineAt)], [[103], [30_000, 6000]]);
  assert.deepEqual([turnAway(next, 1000)?.reason, turnAway(line, 1000)], ["draining", null]);
});

test("who has left twice has left once, and a place is free again", () => {
  const { next, verdict } = arrive(freshAdmission(), easy, 0, { maxInside: 1 });
  assert.ok(verdict.admitted);
  const gone = leave(leave(next, verdict.id), verdict.id);
  assert.deepEqual([viewAdmission(next).inside, viewAdmission(gone).inside], [1, 0]);
});

test("who has asked no longer counts as one who will", () => {
  const { next, verdict } = arrive(busy({ inUse: 1 }), easy, 0, limits);
  assert.ok(verdict.admitted);
  assert.equal(predictWaitMs(next, 0), 4000);
  assert.equal(predictWaitMs(ask(next, { ...wish("a", 1e9), visit: verdict.id }, 0).next, 0), 4000);
});

type Step =
  | { kind: "ask"; tenant: string; patience: number; parallel: number | null }
  | { kind: "cancel" | "free" | "drain" | "lose"; at: number }
  | { kind: "freeLost" | "crash" | "know" | "wait" };

const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constant("ask" as const),
    tenant: fc.constantFrom("a", "b", "c"),
    patience: fc.integer({ min: 1, max: 60 }),
    parallel: fc.constantFrom(null, 1, 2, 4),
  }),
  fc.record({ kind: fc.constantFrom("cancel", "free", "free", "drain", "lose"), at: fc.nat(20) }),
  fc.record({ kind: fc.constantFrom("freeLost", "crash", "know", "wait", "wait") }),
);

test("whatever happens: permits stay in [0, max], nobody is served late or twice, and no tenant is passed by twice", () => {
  fc.assert(
    fc.property(fc.array(steps, { maxLength: 80, size: "max" }), (script) => {
      let state = freshAdmission();
      let now = 0;
      const ended = new Set<number>();
      /** For each who waits: the tenants served since it came, its own left out. */
      const passed = new Map<number, string[]>();
      const facts = new Map<number, { tenant: string; deadlineAt: number; parallel: number }>();

      const settle = (moved: { next: AdmissionState; granted: number[]; expired: number[] }): void => {
        state = moved.next;
        for (const id of moved.expired) {
          assert.ok((facts.get(id)?.deadlineAt ?? 0) <= now, "expired before its time");
          assert.ok(!ended.has(id));
          ended.add(id);
          passed.delete(id);
        }
        for (const id of moved.granted) {
          const { tenant = "", deadlineAt = 0 } = facts.get(id) ?? {};
          assert.ok(deadlineAt > now, "served after its deadline");
          assert.ok(!ended.has(id), "served twice, or after it was cancelled");
          ended.add(id);
          passed.delete(id);
          for (const [waiting, served] of passed) {
            if (facts.get(waiting)?.tenant === tenant) continue;
            const waitingTenant = facts.get(waiting)?.tenant;
            served.push(tenant);
            // Between two turns of one tenant every other that waits all the time has a turn.
            const own = served.lastIndexOf(waitingTenant ?? "");
            const since = served.slice(own + 1);
            assert.equal(new Set(since).size, since.length, `${waitingTenant} was passed by: ${since.join()}`);
          }
          for (const [waiting, served] of passed) if (facts.get(waiting)?.tenant === tenant) served.push(tenant);
        }
        const { permits } = viewAdmission(state);
        const out = permits.in_use + permits.draining + permits.lost;
        assert.ok(out >= 0 && out <= 4, `${out} permits out`);
        assert.deepEqual(JSON.parse(JSON.stringify(state)), state);
      };

      for (const step of script) {
        now += 1;
        switch (step.kind) {
          case "ask": {
            const before = state;
            const asked = ask(
              state,
              {
                tenant: step.tenant,
                deadlineAt: now + step.patience,
                instance: "m",
                parallel: step.parallel,
                visit: null,
              },
              now,
            );
            facts.set(asked.id, { tenant: step.tenant, deadlineAt: now + step.patience, parallel: step.parallel ?? 1 });
            passed.set(asked.id, []);
            settle(asked);
            // A newcomer is served at once only when every tenant before its own in the round has its turn too.
            if (asked.granted.includes(asked.id)) {
              const served = new Set(asked.granted.map((id) => facts.get(id)?.tenant));
              const own = before.turns.indexOf(step.tenant);
              const ahead = new Set(before.turns.slice(0, own < 0 ? undefined : own));
              const alive = before.waiting.filter(({ tenant, deadlineAt }) => deadlineAt > now && ahead.has(tenant));
              assert.ok(alive.every(({ tenant }) => served.has(tenant)));
            }
            break;
          }
          case "cancel": {
            const entry = state.waiting[step.at % Math.max(1, state.waiting.length)];
            if (entry === undefined) break;
            ended.add(entry.id);
            passed.delete(entry.id);
            settle(cancel(state, entry.id, now));
            break;
          }
          case "free":
          case "drain":
          case "lose": {
            const permit = state.permits[step.at % Math.max(1, state.permits.length)];
            if (permit === undefined) break;
            if (step.kind === "free") settle(freePermit(state, permit.id, true, now));
            else if (step.kind === "drain") state = drainPermit(state, permit.id);
            else state = losePermit(state, permit.id);
            break;
          }
          case "freeLost":
            settle(freeLost(state, now));
            break;
          case "crash":
            state = distrust(state, "m");
            break;
          case "know":
            settle(knowInstances(state, [], now));
            break;
          case "wait":
            now += 10;
            break;
        }
      }
    }),
    { numRuns: 400 },
  );
});
