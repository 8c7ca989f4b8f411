import assert from "node:assert/strict";
import { test } from "node:test";
import { playDifferential } from "../../scripts/bench/differential.ts";

/** What each scenario comes to, measured; ours is the column of the design. */
const expected: Readonly<Record<string, { ours: string; cockatiel: string; opossum: string }>> = {
  G1: {
    ours: "late",
    cockatiel: "re-opens, then ignores the good probe",
    opossum: "re-opens, then ignores the good probe",
  },
  G2: { ours: "late", cockatiel: "ignored", opossum: "closes" },
  G3: { ours: "lease expiry = failure", cockatiel: "100 of 100 still queued", opossum: "stuck" },
  G4: { ours: "ramp", cockatiel: "500 at once", opossum: "500 at once" },
  G5: { ours: "ignored", cockatiel: "2 ok, then open", opossum: "2 ok, then open" },
  G6: { ours: "window cleared", cockatiel: "opens", opossum: "window cleared" },
  G7: {
    ours: "monotonic, clamped",
    cockatiel: "open a day",
    opossum: "live ok; restored: whole cooldown again",
  },
  G8: { ours: "remaining kept", cockatiel: "remaining kept", opossum: "whole cooldown again" },
  G9: { ours: "ignored", cockatiel: "closes", opossum: "closes" },
  G10: { ours: "counted at its end", cockatiel: "counted at its end", opossum: "never counted" },
  G11: {
    ours: "canonical; off = count only",
    cockatiel: "-",
    opossum: "key order matters, falsy never served; off drops all protection",
  },
  G12: {
    ours: "same tick; handed over",
    cockatiel: "returns at 300 ms; newcomer overtakes, aborted waiter unsettled",
    opossum: "-",
  },
};

test("G1 to G12: the defects of cockatiel 4.0.0 and opossum 10.0.0 show, and ours has none of them", async () => {
  const rows = await playDifferential();
  const seen = rows.map(({ id, ours, cockatiel, opossum }) => [id, { ours, cockatiel, opossum }]);
  assert.deepEqual(Object.fromEntries(seen), expected);
});

test("G1 to G12: playing twice gives the same table", async () => {
  assert.deepEqual(await playDifferential(), await playDifferential());
});
