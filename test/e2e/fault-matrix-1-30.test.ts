import { after } from "node:test";
import { startEdgeWorld } from "../kit/whole.ts";
import { quickSettings } from "./fault-matrix/observe.ts";
import { rowsOf1To30, rowsElsewhere, worldEdges } from "./fault-matrix/rows-1-30.ts";
import { runRows } from "./fault-matrix/row.ts";

const world = await startEdgeWorld({ settings: quickSettings, edges: worldEdges });
after(() => world[Symbol.asyncDispose]());

runRows(rowsOf1To30(world), rowsElsewhere);
