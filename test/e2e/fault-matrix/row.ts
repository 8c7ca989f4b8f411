import assert from "node:assert/strict";
import { after, test } from "node:test";

/** One row of the fault matrix: a fault, what must be seen of it line by line, and how it is made to happen. */
export type Row = {
  /** `F1` to `F60`. */
  id: string;
  fault: string;
  /** What must be seen, each line a short sentence of facts: `503 ERR_CONN_REFUSED`, `samples: sidecar success, lm_studio_api failure`. */
  expected: readonly string[];
  /** Makes the fault happen and tells what was seen, in the same words and order. */
  run: () => Promise<readonly string[]>;
};

/** A row that cannot run here, or only in part: why, and what is tested instead and where. */
export type RowElsewhere = { id: string; fault: string; why: string };

/** Runs rows one after the other, each as a test of its own, and prints row, expected and seen at the end. */
export function runRows(rows: readonly Row[], elsewhere: readonly RowElsewhere[] = []): void {
  const report: { row: string; expected: readonly string[]; seen: readonly string[] }[] = [];
  after(() => {
    const order = (row: string): number => Number(/\d+/.exec(row)?.[0]);
    for (const { row, expected, seen } of report.sort((left, right) => order(left.row) - order(right.row))) {
      process.stdout.write(
        `${row}\n${compare(expected, seen)
          .map((line) => `  ${line}\n`)
          .join("")}`,
      );
    }
  });
  for (const { id, fault, expected, run } of rows) {
    test(`${id}: ${fault}`, async () => {
      let seen: readonly string[] = ["nothing: it threw"];
      try {
        seen = await run();
      } finally {
        report.push({ row: `${id} ${fault}`, expected, seen });
      }
      assert.deepEqual(seen, expected);
    });
  }
  for (const { id, fault, why } of elsewhere) {
    test(`${id}: ${fault}`, { skip: why }, () => undefined);
    const reason = [`not here: ${why}`];
    report.push({ row: `${id} ${fault}`, expected: reason, seen: reason });
  }
}

/** What was expected and what was seen, fact by fact; `!` marks where they differ. */
function compare(expected: readonly string[], seen: readonly string[]): string[] {
  const length = Math.max(expected.length, seen.length);
  return Array.from({ length }, (_, at) => {
    const [wanted = "nothing", found = "nothing"] = [expected[at], seen[at]];
    const mark = wanted === found ? " " : "!";
    return [`  expected: ${wanted}`, `${mark} seen:     ${found}`];
  }).flat();
}
