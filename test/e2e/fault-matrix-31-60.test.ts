import { runRows } from "./fault-matrix/row.ts";
import { boundRows } from "./fault-matrix/rows-31-60-bounds.ts";
import { callerRows } from "./fault-matrix/rows-31-60-callers.ts";
import { clockRows } from "./fault-matrix/rows-31-60-clocks.ts";
import { doorRows } from "./fault-matrix/rows-31-60-door.ts";
import { encoderRows } from "./fault-matrix/rows-31-60-encoder.ts";
import { lmStudioRows } from "./fault-matrix/rows-31-60-lm-studio.ts";
import { processRows } from "./fault-matrix/rows-31-60-process.ts";
import { storeRows } from "./fault-matrix/rows-31-60-stores.ts";

// Rows that mostly wait have begun in worlds of their own when the others run: they are waited for last.
const [first, last] = [[...(await lmStudioRows()), ...(await encoderRows())], await processRows()];
const waiting = new Set(["F33", "F37"]);
runRows([
  ...first.filter(({ id }) => !waiting.has(id)),
  ...callerRows,
  ...storeRows,
  ...clockRows,
  ...doorRows,
  ...(await boundRows()),
  ...last,
  ...first.filter(({ id }) => waiting.has(id)),
]);
