import assert from "node:assert/strict";
import { test } from "node:test";
import { isPixelLLMError, type PixelLLMError } from "../../shared/errors.ts";
import { createAdmission, type Admission, type PermitWish } from "../../sidecar/admission.ts";
import {
  createLmStudio,
  type Asker,
  type CaptionCall,
  type LmStudio as Client,
} from "../../sidecar/lm-studio/client.ts";
import type { Completion, RunningCompletion } from "../../sidecar/lm-studio/completion.ts";
import { createPermits, type Permits, type StartTimer } from "../../sidecar/lm-studio/permits.ts";
import { blueEvidence } from "../kit/evidence.ts";
import { startLmStudio, type LmStudio } from "../kit/lm-studio.ts";
import { CATALOGS } from "../kit/lm-studio/catalog.ts";
import type { ChatMode, Script } from "../kit/lm-studio/modes.ts";
import { PAYLOADS } from "../kit/lm-studio/payloads.ts";
import { configWith, listeningLogger } from "../kit/settings.ts";

/** A law that is broken may wait for ever. */
const patience = { timeout: 20_000 };

/** A clock that stands still until it is moved, and the timers on it. */
function manualClock(): {
  now: () => number;
  startTimer: StartTimer;
  advance: (ms: number) => void;
  armed: () => number;
} {
  const timers = new Set<{ at: number; elapsed: () => void }>();
  let time = 0;
  return {
    now: () => time,
    armed: () => timers.size,
    startTimer(ms, elapsed) {
      const timer = { at: time + ms, elapsed };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    advance(ms) {
      time += ms;
      for (const timer of [...timers].sort((left, right) => left.at - right.at)) {
        if (timer.at > time || !timers.delete(timer)) continue;
        timer.elapsed();
      }
    },
  };
}

/** Lets everything that is ready run. */
const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

const never = new AbortController().signal;
const wish: PermitWish = {
  tenant: "a",
  visit: null,
  instance: "m",
  parallel: 1,
  endsAt: 1e9,
  onExtend: () => () => undefined,
};

type Bench = {
  clock: ReturnType<typeof manualClock>;
  admission: Admission;
  permits: Permits;
  probes: number[];
  answerProbes: (answers: boolean) => void;
  counts: () => string;
};

/** Permits with a first-token limit of one second on a clock of the test's. */
function bench(): Bench {
  const clock = manualClock();
  const memory = () => ({ used: 0, limit: 1 });
  const admission = createAdmission({ maxInside: 64, now: clock.now, memory });
  const probes: number[] = [];
  let answers = false;
  const permits = createPermits({
    admission,
    firstTokenMs: 1000,
    now: clock.now,
    startTimer: clock.startTimer,
    probe: async () => {
      probes.push(clock.now());
      return answers;
    },
  });
  const counts = (): string => {
    const { in_use: used, draining, lost } = admission.view().permits;
    return `${used} in use, ${draining} draining, ${lost} lost`;
  };
  return { clock, admission, permits, probes, answerProbes: (next) => void (answers = next), counts };
}

/** A completion whose connection ends when the test says so. */
function hanging(): { running: RunningCompletion; end: (left: boolean) => Promise<void>; cuts: () => number } {
  const ended = Promise.withResolvers<{ left: boolean }>();
  let cuts = 0;
  const answer = new Promise<Completion>(() => undefined);
  const cut = (): void => void (cuts += 1);
  return {
    running: { answer, ended: ended.promise, cut },
    cuts: () => cuts,
    end: async (left) => {
      ended.resolve({ left });
      await settled();
    },
  };
}

test(
  "F9 a permit whose caller left is draining until 250 ms after the stream has ended, and then handed over",
  patience,
  async () => {
    const { clock, permits, counts } = bench();
    const held = await permits.take(wish, never);
    const { running, end } = hanging();
    held.follow(running);
    let next = "waits";
    const taken = permits.take(wish, never).then(() => (next = "has it"));
    clock.advance(1500);
    assert.equal(counts(), "0 in use, 1 draining, 0 lost");
    await end(true);
    clock.advance(249);
    await settled();
    assert.deepEqual([counts(), next], ["0 in use, 1 draining, 0 lost", "waits"]);
    clock.advance(1);
    await taken;
    assert.deepEqual([counts(), next, clock.armed()], ["1 in use, 0 draining, 0 lost", "has it", 0]);
  },
);

test("a call that LM Studio ended itself frees its permit at once", patience, async () => {
  const { permits, clock, counts } = bench();
  const held = await permits.take(wish, never);
  const { running, end } = hanging();
  held.follow(running);
  await end(false);
  assert.deepEqual([counts(), clock.armed()], ["0 in use, 0 draining, 0 lost", 0]);
});

test(
  "F33 a call that never ends is lost after twice the first-token limit, its connection cut, LM Studio stuck",
  patience,
  async () => {
    const { clock, permits, counts } = bench();
    const held = await permits.take(wish, never);
    const { running, cuts, end } = hanging();
    held.follow(running);
    clock.advance(1999);
    assert.deepEqual([counts(), cuts(), permits.isStuck()], ["0 in use, 1 draining, 0 lost", 0, false]);
    clock.advance(1);
    assert.deepEqual([counts(), cuts(), permits.isStuck()], ["0 in use, 0 draining, 1 lost", 1, true]);
    // Our own cut ends the connection: that tells nothing of what LM Studio does.
    await end(true);
    clock.advance(250);
    assert.equal(counts(), "0 in use, 0 draining, 1 lost");
  },
);

test(
  "lost permits are tried after 10 s, backing off to 60 s, and only an answer frees them, all at once",
  patience,
  async () => {
    const { clock, permits, admission, probes, answerProbes, counts } = bench();
    const parallel = { ...wish, parallel: 2 };
    for (const held of [await permits.take(parallel, never), await permits.take(parallel, never)])
      held.follow(hanging().running);
    clock.advance(2000);
    assert.equal(counts(), "0 in use, 0 draining, 2 lost");
    const waiting = permits.take(parallel, never);
    for (const ms of [10_000, 20_000, 40_000, 60_000, 60_000]) {
      clock.advance(ms);
      await settled();
    }
    assert.deepEqual(probes, [12_000, 32_000, 72_000, 132_000, 192_000]);
    assert.equal(counts(), "0 in use, 0 draining, 2 lost");
    answerProbes(true);
    clock.advance(60_000);
    (await waiting).free();
    assert.deepEqual([counts(), permits.isStuck(), clock.armed()], ["0 in use, 0 draining, 0 lost", false, 0]);
    // What is lost later is tried as soon as the first was.
    answerProbes(false);
    (await permits.take(parallel, never)).follow(hanging().running);
    clock.advance(2000);
    clock.advance(10_000);
    await settled();
    assert.deepEqual([probes.length, admission.view().permits.lost], [7, 1]);
  },
);

test("closing ends every wait of the permits", patience, async () => {
  const { clock, permits } = bench();
  (await permits.take(wish, never)).follow(hanging().running);
  permits.close();
  assert.equal(clock.armed(), 0);
});

test("F47 a waiter who leaves is told by its own reason, and takes nothing with it", patience, async () => {
  const { permits, admission, counts } = bench();
  const held = await permits.take(wish, never);
  const leave = new AbortController();
  const left = permits.take(wish, leave.signal);
  leave.abort(new Error("gone"));
  await assert.rejects(left, /gone/);
  await assert.rejects(permits.take(wish, AbortSignal.abort(new Error("before"))), /before/);
  assert.deepEqual([admission.view().waiting, counts()], [0, "1 in use, 0 draining, 0 lost"]);
  held.free();
  held.free();
  assert.equal(counts(), "0 in use, 0 draining, 0 lost");
});

const limits = { timeout_connect_seconds: 0.5, timeout_first_token_seconds: 0.25, timeout_idle_seconds: 0.2 };

type Room = { studio: LmStudio; client: Client; admission: Admission; clock: ReturnType<typeof manualClock> };

/** The client over a stand-in; what permits wait for happens on the test's clock, LM Studio's limits on the real one. */
async function withRoom(script: Script, use: (room: Room) => Promise<void>, settings: object = {}): Promise<void> {
  const studio = await startLmStudio(script);
  const clock = manualClock();
  const config = configWith({ lm_studio_host: "127.0.0.1", lm_studio_port: studio.port, ...limits, ...settings });
  const admission = createAdmission({ maxInside: 64, now: clock.now, memory: () => ({ used: 0, limit: 1 }) });
  const { startTimer, now } = clock;
  const client = createLmStudio({ config, logger: listeningLogger(), admission, startTimer, now });
  try {
    await use({ studio, client, admission, clock });
  } finally {
    await client.close();
    await studio.close();
  }
}

const ask = (client: Client, signal: AbortSignal = never, asker?: Asker): Promise<unknown> => {
  const call: CaptionCall = {
    jpeg: () => Promise.resolve(new Uint8Array([0xff, 0xd8, 0xff])),
    evidence: blueEvidence,
    prompt: null,
    model: null,
    settings: { maxTokens: 64, temperature: 0, topP: 0.9, seed: null },
    temperatureGiven: true,
    signal,
    ...(asker === undefined ? {} : { asker }),
  };
  return client.caption(call);
};

async function failureOf(work: Promise<unknown>): Promise<PixelLLMError> {
  try {
    await work;
  } catch (error) {
    if (isPixelLLMError(error)) return error;
    throw error;
  }
  throw new Error("nothing failed");
}

/** The prompt takes until gate `go` opens, and one token comes; the rest waits for ever. */
const slowPrompt: ChatMode = {
  kind: "stream",
  pauses: [
    { at: "role", gate: "go" },
    { at: { tokens: 1 }, gate: "never" },
  ],
};
const heldAt = (at: "role" | "head" | { tokens: number }, gate = "go"): ChatMode => ({
  kind: "stream",
  pauses: [{ at, gate }],
});

/** Waits until a figure of the line has a value; looked at whenever the loop has turned. */
async function until(what: string, holds: () => boolean): Promise<void> {
  // A loop that nobody waits for any more must not go on.
  for (const startedAt = performance.now(); !holds();) {
    assert.ok(performance.now() - startedAt < 10_000, `waited in vain for ${what}`);
    await settled();
  }
}

test(
  "left before the first token: the caller is gone at once, the connection is read on and closed at that token",
  patience,
  async () => {
    await withRoom(
      { models: CATALOGS.parallelOne, queue: [slowPrompt] },
      async ({ studio, client, admission, clock }) => {
        const leave = new AbortController();
        const first = ask(client, leave.signal);
        await studio.gates("go").arrived();
        leave.abort(new Error("gone"));
        await assert.rejects(first, /gone/);
        const second = ask(client);
        await until("the second in line", () => admission.view().waiting === 1);
        assert.deepEqual([studio.chats()[0]?.aborted, admission.view().permits.draining], [false, 1]);
        studio.gates("go").open();
        await until("the closed connection", () => studio.chats()[0]?.aborted === true);
        // Free 250 ms later, and not a moment before.
        await until("the timer of the grace", () => clock.armed() === 1);
        assert.deepEqual([studio.chats().length, admission.view().waiting], [1, 1]);
        clock.advance(250);
        await second;
        assert.equal(studio.counts().most, 1);
      },
    );
  },
);

test("left after the first token: the connection is closed at once", patience, async () => {
  await withRoom({ queue: [heldAt({ tokens: 1 })] }, async ({ studio, client, admission, clock }) => {
    const leave = new AbortController();
    const words: string[] = [];
    const chat = client.chat({
      model: null,
      messages: [],
      hasImage: false,
      settings: { maxTokens: 64, temperature: 0, topP: 0.9, seed: null },
      signal: leave.signal,
      onText: (text) => void words.push(text),
    });
    await until("the first words", () => words.length === 1);
    leave.abort(new Error("gone"));
    await assert.rejects(chat, /gone/);
    await until("the closed connection", () => studio.chats()[0]?.aborted === true);
    await until("the timer of the grace", () => clock.armed() === 1);
    assert.equal(admission.view().permits.draining, 1);
    clock.advance(250);
    assert.equal(admission.view().permits.draining, 0);
  });
});

test("F9 a late first token is told at its limit, while LM Studio goes on and keeps the permit", patience, async () => {
  await withRoom(
    { models: CATALOGS.parallelOne, queue: [heldAt("head")] },
    async ({ studio, client, admission, clock }) => {
      const error = await failureOf(ask(client));
      assert.deepEqual(
        [error.code, error.details["kind"], admission.view().permits.draining, studio.chats()[0]?.aborted],
        ["ERR_TIMEOUT_RESPONSE", "no_first_token", 1, false],
      );
      studio.gates("go").open();
      await until("the end of the connection", () => studio.counts().sockets === 0);
      await until("the timer of the grace", () => clock.armed() === 1);
      clock.advance(250);
      assert.equal(admission.view().permits.draining, 0);
    },
  );
});

test(
  "F33 accepts and never a token: draining, then lost and down in readiness, back when one token comes",
  patience,
  async () => {
    await withRoom(
      { models: CATALOGS.parallelOne, queue: [heldAt("head", "never")] },
      async ({ studio, client, admission, clock }) => {
        assert.equal((await failureOf(ask(client))).code, "ERR_TIMEOUT_RESPONSE");
        clock.advance(499);
        assert.deepEqual([admission.view().permits.draining, (await client.status()).status], [1, "ok"]);
        clock.advance(1);
        const status = await client.status();
        assert.deepEqual(
          [admission.view().permits.lost, status.status, status.code],
          [1, "down", "ERR_TIMEOUT_RESPONSE"],
        );
        assert.match(status.detail, /LM Studio is stuck/);
        await until("the closed connection", () => studio.chats()[0]?.aborted === true);
        // A small call that fails leaves it as it is.
        studio.enqueue({ kind: "reply", status: 500, body: "{}" });
        clock.advance(10_000);
        await until("the first try", () => studio.chats().length === 2 && clock.armed() === 1);
        assert.equal(admission.view().permits.lost, 1);
        studio.answer({ kind: "plain", content: "a" });
        clock.advance(20_000);
        await until("the permit back", () => admission.view().permits.lost === 0);
        const small = JSON.parse(studio.chats().at(-1)?.body ?? "{}") as { max_tokens?: number; model?: string };
        assert.deepEqual([small.max_tokens, small.model, (await client.status()).status], [1, "test/vision-4b", "ok"]);
      },
    );
  },
);

test("a crash makes it one call at a time until the instance is another", patience, async () => {
  await withRoom(
    { queue: [{ kind: "reply", status: 400, body: PAYLOADS.aCrashed }], chat: heldAt("role") },
    async (room) => {
      const { studio, client, admission } = room;
      assert.equal((await failureOf(ask(client))).details["kind"], "crashed");
      const both = [ask(client), ask(client)];
      await until("one at work, one in line", () => admission.view().waiting === 1 && studio.counts().working === 1);
      studio.gates("go").open();
      await Promise.all(both);
      assert.equal(studio.counts().most, 1);
    },
  );
});

test("F32 who comes while our own load runs is told so; who began it is not", patience, async () => {
  const script: Script = { models: CATALOGS.nothingLoaded, load: { kind: "load", gate: "load" } };
  await withRoom(
    script,
    async ({ client }) => {
      const [first, second] = [await failureOf(ask(client)), await failureOf(ask(client))];
      assert.deepEqual(
        [first.details["kind"], first.details["loading"], second.details["loading"], second.retryAfterSeconds],
        ["not_loaded", undefined, true, 20],
      );
    },
    { lm_studio_model: "test/vision-4b" },
  );
});

test(
  "the stages are told as they begin: the listing, the line, the connection, the prompt, the words",
  patience,
  async () => {
    await withRoom({}, async ({ client }) => {
      const stages: string[] = [];
      const enter = (stage: string): void => void stages.push(stage);
      await ask(client, never, { tenant: "a", visit: 0, endsAt: () => 1e9, onExtend: () => () => undefined, enter });
      assert.deepEqual(stages, ["connect", "queue", "queue", "connect", "first_token", "generate"]);
    });
  },
);
