import { parentPort } from "node:worker_threads";
import { scenarios } from "./simulate.ts";
import type { Asked, Played } from "./apart.ts";

/** The other side of `openThread`: plays what it is asked for, one after the other. */
const port = parentPort;
if (port === null) throw new Error("this module is the body of a worker thread");
port.on("message", (asked: Asked) => void play(asked));

async function play({ id, scenario, options }: Asked): Promise<void> {
  let played: Played;
  try {
    played = { id, outcome: await scenarios[scenario](options) };
  } catch (thrown) {
    played = { id, thrown };
  }
  port?.postMessage(played);
}
