import assert from "node:assert/strict";
import { after, test } from "node:test";
import { isPixelLLMError } from "../../shared/errors.ts";
import { sidecarCaptionSchema, sidecarFailureSchema } from "../../shared/wire.ts";
import { createCoalescing, type Begun, type Coalescing, type Ended } from "../../sidecar/coalescing.ts";
import type { WorkTime } from "../../sidecar/work-time.ts";
import { startLmStudio } from "../kit/lm-studio.ts";
import { CATALOGS } from "../kit/lm-studio/catalog.ts";
import { healthyPicture } from "../kit/marked-pictures.ts";
import { startSidecarInProcess } from "../kit/sidecar-in-process.ts";

/** A law that is broken may wait for ever. */
const patience = { timeout: 20_000 };

const never = new AbortController().signal;
const now = (): number => performance.now();
const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

/** Pieces of work that end when the test says so. */
function works(): {
  begin: (time: WorkTime) => Begun<string, string>;
  times: WorkTime[];
  end: (value: string, at?: number) => void;
} {
  const times: WorkTime[] = [];
  const ends: ((value: string) => void)[] = [];
  return {
    times,
    begin(time) {
      const { promise, resolve } = Promise.withResolvers<string>();
      times.push(time);
      ends.push(resolve);
      return { seen: `work ${times.length}`, done: promise };
    },
    end: (value, at = ends.length - 1) => ends[at]?.(value),
  };
}

const open = (maxFollowers = 8): Coalescing<string, string> => createCoalescing<string, string>(maxFollowers, now);
const patient = { limitMs: 60_000, signal: never };
const leaving = (): { caller: { limitMs: number; signal: AbortSignal }; leave: () => void } => {
  const controller = new AbortController();
  return {
    caller: { limitMs: 60_000, signal: controller.signal },
    leave: () => controller.abort(new Error("gone")),
  };
};
const answerOf = (ended: Ended<string, string>): string =>
  ended.by === "work" ? `${ended.value}${ended.collapsed ? ", shared" : ""}` : `left ${ended.seen}`;

test(
  "equal keys at the same time are one work, whose answer is one caller's own and shared with the others",
  patience,
  async () => {
    const sharing = open();
    const { begin, times, end } = works();
    const all = [1, 2, 3].map(() => sharing.run("k", patient, begin));
    assert.deepEqual([times.length, sharing.counts().waiting], [1, 3]);
    end("words");
    assert.deepEqual((await Promise.all(all)).map(answerOf), ["words", "words, shared", "words, shared"]);
    assert.deepEqual(sharing.counts(), { waiting: 0, collapsed: 2 });
  },
);

const apart: readonly [string, (string | null)[], number, number][] = [
  ["other keys", ["a", "b"], 8, 2],
  ["no key", [null, null], 8, 2],
  ["more followers than are taken", ["a", "a", "a", "a"], 2, 2],
];

for (const [name, keys, maxFollowers, expected] of apart) {
  test(`${name}: ${expected} pieces of work`, patience, async () => {
    const sharing = open(maxFollowers);
    const { begin, times, end } = works();
    const all = keys.map((key) => sharing.run(key, patient, begin));
    assert.equal(times.length, expected);
    for (const at of times.keys()) end("words", at);
    await Promise.all(all);
    assert.equal(sharing.counts().waiting, 0);
  });
}

test("a latecomer after the end begins anew", patience, async () => {
  const sharing = open();
  const { begin, times, end } = works();
  const first = sharing.run("k", patient, begin);
  end("one");
  await first;
  const second = sharing.run("k", patient, begin);
  end("two");
  assert.deepEqual([times.length, answerOf(await second)], [2, "two"]);
});

test(
  "F48 the leader leaves: the work goes on, and the first who stayed has the answer as its own",
  patience,
  async () => {
    const sharing = open();
    const { begin, times, end } = works();
    const { caller, leave } = leaving();
    const leader = sharing.run("k", caller, begin);
    const followers = [sharing.run("k", patient, begin), sharing.run("k", patient, begin)];
    leave();
    assert.equal(answerOf(await leader), "left work 1");
    assert.equal(times[0]?.signal.aborted, false);
    end("words");
    assert.deepEqual((await Promise.all(followers)).map(answerOf), ["words", "words, shared"]);
  },
);

test("a follower's leaving changes nothing for anybody", patience, async () => {
  const sharing = open();
  const { begin, times, end } = works();
  const leader = sharing.run("k", patient, begin);
  const { caller, leave } = leaving();
  const follower = sharing.run("k", caller, begin);
  leave();
  assert.equal(answerOf(await follower), "left work 1");
  assert.equal(times[0]?.signal.aborted, false);
  end("words");
  assert.equal(answerOf(await leader), "words");
});

test(
  "the work is cancelled when the last leaves, and a newcomer does not join what was cancelled",
  patience,
  async () => {
    const sharing = open();
    const { begin, times, end } = works();
    const [first, second] = [leaving(), leaving()];
    const both = [sharing.run("k", first.caller, begin), sharing.run("k", second.caller, begin)];
    first.leave();
    assert.equal(times[0]?.signal.aborted, false);
    second.leave();
    assert.equal(times[0]?.signal.aborted, true);
    const newcomer = sharing.run("k", patient, begin);
    assert.equal(times.length, 2);
    end("words", 1);
    assert.equal(answerOf(await newcomer), "words");
    assert.deepEqual((await Promise.all(both)).map(answerOf), ["left work 1", "left work 1"]);
  },
);

test("each leaves at its own deadline, and the work has the longest of them", patience, async () => {
  const sharing = open();
  const { begin, times, end } = works();
  const hasty = sharing.run("k", { limitMs: 20, signal: never }, begin);
  const extended: number[] = [];
  times[0]?.onExtend((endsAt) => void extended.push(endsAt));
  const patientOne = sharing.run("k", patient, begin);
  assert.deepEqual([extended.length, (times[0]?.remainingMs() ?? 0) > 50_000], [1, true]);
  const left = await hasty;
  assert.ok(left.by === "caller" && isPixelLLMError(left.reason));
  assert.deepEqual(
    [left.reason.code, left.reason.details["stage"], left.reason.details["lm_studio_ms"], times[0]?.signal.aborted],
    ["ERR_TIMEOUT_REQUEST", "queue", 0, false],
  );
  end("words");
  assert.equal(answerOf(await patientOne), "words");
});

test("dismissed callers are told why, and their work ends", patience, async () => {
  const sharing = open();
  const { begin, times } = works();
  const all = [sharing.run("k", patient, begin), sharing.run(null, patient, begin)];
  sharing.dismiss(new Error("closing"));
  for (const ended of await Promise.all(all)) {
    assert.ok(ended.by === "caller" && ended.reason instanceof Error);
    assert.equal(ended.reason.message, "closing");
  }
  assert.deepEqual(
    times.map(({ signal }) => signal.aborted),
    [true, true],
  );
});

test("the time LM Studio had is counted over its stages alone", patience, async () => {
  let time = 0;
  const sharing = createCoalescing<string, string>(8, () => time);
  const { begin, times, end } = works();
  const run = sharing.run("k", patient, begin);
  const [work] = times;
  assert.ok(work !== undefined);
  for (const [stage, ms] of [
    ["decode", 5],
    ["connect", 7],
    ["queue", 11],
    ["first_token", 13],
    ["generate", 17],
  ] as const) {
    work.enter(stage);
    time += ms;
  }
  assert.equal(work.lmStudioMs(), 37);
  end("words");
  await run;
});

const studio = await startLmStudio({ models: CATALOGS.parallelOne });
const sidecar = await startSidecarInProcess({
  signed: null,
  settings: { lm_studio_host: "127.0.0.1", lm_studio_port: studio.port, log_level: "ERROR", max_queue: 16 },
});
after(async () => {
  await sidecar.close();
  await studio.close();
});

type Sent = { status: number; body: unknown };
let variant = 1000;

const send = async (image: Uint8Array, query: string, signal?: AbortSignal): Promise<Sent> => {
  const target = `/v1/caption?${query}`;
  const type = "image/png";
  const response = await sidecar.call({
    method: "POST",
    target,
    body: image,
    type,
    ...(signal === undefined ? {} : { signal }),
  });
  return { status: response.status, body: await response.json() };
};
const waiting = async (count: number): Promise<void> => {
  const { engine } = sidecar.sidecar;
  // A loop that nobody waits for any more must not go on.
  for (const startedAt = performance.now(); engine.figures().callers !== count;) {
    assert.ok(performance.now() - startedAt < 10_000, `${engine.figures().callers} callers, not ${count}`);
    await settled();
  }
};

test(
  "F48 ten equal calls are one call of LM Studio, the leader leaves, nine are answered, eight of them marked",
  patience,
  async () => {
    studio.enqueue({ kind: "stream", pauses: [{ at: "role", gate: "ten" }] });
    const image = healthyPicture((variant += 1));
    const before = studio.chats().length;
    const leave = new AbortController();
    const leader = send(image, "tenant=a&events=true", leave.signal).catch(() => "left");
    await waiting(1);
    const followers = Array.from({ length: 9 }, () => send(image, "tenant=a"));
    await waiting(10);
    await studio.gates("ten").arrived();
    leave.abort(new Error("gone"));
    await leader;
    await waiting(9);
    studio.gates("ten").open();
    const answers = (await Promise.all(followers)).map(({ status, body }) => {
      assert.equal(status, 200);
      return sidecarCaptionSchema.parse(body);
    });
    assert.deepEqual([answers.filter(({ collapsed }) => collapsed).length, studio.chats().length - before], [8, 1]);
  },
);

const different: readonly [string, string, string][] = [
  ["tenant", "tenant=a", "tenant=b"],
  ["prompt", "tenant=a&prompt=x", "tenant=a&prompt=y"],
  ["temperature zero and none", "tenant=a&temperature=0", "tenant=a"],
  ["storing", "tenant=a&no_store=true", "tenant=a&no_store=true"],
];

for (const [name, left, right] of different) {
  test(`calls that differ in ${name} are not shared`, patience, async () => {
    const gate = `apart ${name}`;
    const mode = { kind: "stream", pauses: [{ at: "role", gate }] } as const;
    studio.enqueue(mode, mode);
    const image = healthyPicture((variant += 1));
    const before = studio.chats().length;
    const both = [send(image, left), send(image, right)];
    await waiting(2);
    studio.gates(gate).open();
    for (const { body } of await Promise.all(both)) assert.equal(sidecarCaptionSchema.parse(body).collapsed, false);
    assert.equal(studio.chats().length - before, 2);
  });
}

test("the order of options makes no difference", patience, async () => {
  studio.enqueue({ kind: "stream", pauses: [{ at: "role", gate: "order" }] });
  const image = healthyPicture((variant += 1));
  const both = [send(image, "seed=1&top_p=0.5&tenant=a"), send(image, "tenant=a&top_p=0.5&seed=1")];
  await waiting(2);
  studio.gates("order").open();
  const collapsed = (await Promise.all(both)).map(({ body }) => sidecarCaptionSchema.parse(body).collapsed);
  assert.equal(collapsed.filter((mark) => mark).length, 1);
});

test(
  "a failure of LM Studio is shared, each with its own request id, and all but one marked collapsed",
  patience,
  async () => {
    studio.enqueue({ kind: "reply", status: 500, body: "{}", pauses: [{ at: "status", gate: "failing" }] });
    const image = healthyPicture((variant += 1));
    const before = studio.chats().length;
    const three = [1, 2, 3].map(() => send(image, "tenant=a"));
    await waiting(3);
    studio.gates("failing").open();
    const failures = (await Promise.all(three)).map(({ body }) => sidecarFailureSchema.parse(body));
    const marks = failures.map(({ error }) => error.details["collapsed"] ?? false);
    assert.deepEqual(
      [failures.map(({ error }) => error.code), marks.filter((mark) => mark === true).length],
      [["ERR_API_OVERLOAD", "ERR_API_OVERLOAD", "ERR_API_OVERLOAD"], 2],
    );
    assert.equal(new Set(failures.map(({ error }) => error.request_id)).size, 3);
    assert.equal(studio.chats().length - before, 1);
    assert.ok(failures.every(({ evidence, vector }) => evidence !== null && vector !== null));
  },
);

test(
  "a follower whose time is over is told its own time-out, unmarked, with what was seen; the others get the words",
  patience,
  async () => {
    studio.enqueue({ kind: "stream", pauses: [{ at: "role", gate: "hasty" }] });
    const image = healthyPicture((variant += 1));
    const patientOne = send(image, "tenant=a");
    await studio.gates("hasty").arrived();
    const hasty = await send(image, "tenant=a&remaining_ms=120");
    const { error, evidence } = sidecarFailureSchema.parse(hasty.body);
    assert.deepEqual(
      [error.code, error.details["stage"], error.details["collapsed"], evidence !== null],
      ["ERR_TIMEOUT_REQUEST", "first_token", undefined, true],
    );
    studio.gates("hasty").open();
    assert.equal((await patientOne).status, 200);
  },
);
