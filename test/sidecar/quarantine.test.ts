import assert from "node:assert/strict";
import { after, test } from "node:test";
import { createQuarantine, type Quarantine, type Victim } from "../../sidecar/quarantine.ts";
import { startLmStudio } from "../kit/lm-studio.ts";
import { PAYLOADS } from "../kit/lm-studio/payloads.ts";
import { healthyPicture, markedPicture } from "../kit/marked-pictures.ts";
import { fakeEncoderHost, startSidecarInProcess } from "../kit/sidecar-in-process.ts";

/** A law that is broken may wait for ever. */
const patience = { timeout: 20_000 };

const minute = 60_000;

const isAway = (quarantine: Quarantine, hash: string, victims: readonly Victim[]): boolean => {
  try {
    quarantine.check(hash, victims);
    return false;
  } catch {
    return true;
  }
};

const rows: readonly [string, Victim, readonly number[], number, boolean][] = [
  ["one strike", "encoder", [0], 1, false],
  ["two strikes", "encoder", [0, 1], 2, true],
  ["two strikes just inside ten minutes", "encoder", [0, 10 * minute - 1], 10 * minute, true],
  ["two strikes ten minutes apart", "encoder", [0, 10 * minute], 10 * minute, false],
  ["put away for ten minutes after the last", "encoder", [0, 1], 10 * minute, true],
  ["free again after them", "encoder", [0, 1], 10 * minute + 1, false],
  ["two crashes of the model just inside an hour", "model", [0, 60 * minute - 1], 60 * minute, true],
  ["two crashes an hour apart", "model", [0, 60 * minute], 60 * minute, false],
  ["put away for an hour after the last crash", "model", [0, 1], 60 * minute, true],
  ["free again after it", "model", [0, 1], 60 * minute + 1, false],
];

for (const [name, victim, strikes, at, expected] of rows) {
  test(`F41 ${name}: ${expected ? "refused" : "taken"}`, () => {
    let now = 0;
    const quarantine = createQuarantine(() => now);
    for (const moment of strikes) {
      now = moment;
      quarantine.strike(victim, "hash");
    }
    now = at;
    assert.deepEqual([isAway(quarantine, "hash", [victim]), quarantine.count()], [expected, expected ? 1 : 0]);
    assert.equal(isAway(quarantine, "other", [victim]), false);
    assert.equal(isAway(quarantine, "hash", [victim === "model" ? "encoder" : "model"]), false);
  });
}

test("the table is bounded: the picture that struck longest ago is forgotten first", () => {
  const quarantine = createQuarantine(() => 0, 3);
  for (const hash of ["a", "b", "c", "a", "b", "c", "a"]) quarantine.strike("encoder", hash);
  quarantine.strike("encoder", "d");
  assert.deepEqual(
    ["a", "b", "c"].map((hash) => isAway(quarantine, hash, ["encoder"])),
    [true, false, true],
  );
});

const studio = await startLmStudio();
const sidecar = await startSidecarInProcess({
  signed: null,
  hostModule: fakeEncoderHost,
  settings: { lm_studio_host: "127.0.0.1", lm_studio_port: studio.port, log_level: "CRITICAL" },
});
after(async () => {
  await sidecar.close();
  await studio.close();
});

const post = async (route: string, body: Uint8Array): Promise<string> => {
  const response = await sidecar.call({ method: "POST", target: `/v1/${route}`, body, type: "image/png" });
  const { error } = (await response.json()) as { error?: { code: string } };
  return `${response.status} ${error?.code ?? "fine"}`;
};

test(
  "F41 a picture that ends the encoder's process twice never reaches it again; its neighbours are served",
  patience,
  async () => {
    const deadly = markedPicture("crash");
    const seen: string[] = [];
    for (let turn = 0; turn < 3; turn += 1) {
      seen.push(await post("embed", deadly), await post("embed", healthyPicture(turn)));
    }
    const { encoder_restarts: restarts, quarantined } = sidecar.sidecar.engine.figures();
    assert.deepEqual(seen, [
      "503 ERR_ENC_FORWARD_FAILED",
      "200 fine",
      "503 ERR_ENC_FORWARD_FAILED",
      "200 fine",
      "422 ERR_ENC_INVALID_INPUT",
      "200 fine",
    ]);
    assert.deepEqual([restarts.died, quarantined, await post("caption", deadly)], [2, 1, "422 ERR_ENC_INVALID_INPUT"]);
  },
);

test(
  "F41 a picture that crashes the model twice is not captioned a third time, and still has its vector",
  patience,
  async () => {
    const picture = healthyPicture(50);
    const crash = { kind: "reply", status: 400, body: PAYLOADS.aCrashed } as const;
    studio.enqueue(crash, crash);
    const seen = [await post("caption", picture), await post("caption", picture)];
    const before = studio.chats().length;
    seen.push(await post("caption", picture));
    assert.deepEqual(
      [seen, studio.chats().length, await post("embed", picture), await post("caption", healthyPicture(51))],
      [["503 ERR_API_OVERLOAD", "503 ERR_API_OVERLOAD", "422 ERR_ENC_INVALID_INPUT"], before, "200 fine", "200 fine"],
    );
  },
);
