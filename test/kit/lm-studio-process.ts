import { startLmStudio } from "./lm-studio.ts";
import type { Script } from "./lm-studio/modes.ts";

/** The stand-in as a process of its own, so that it can be killed: script as JSON argument, `{"port":n}` on stdout. */
const studio = await startLmStudio(JSON.parse(process.argv[2] ?? "{}") as Script);
process.stdout.write(`${JSON.stringify({ port: studio.port })}\n`);
// The test's end closes our input: the stand-in must not outlive it.
process.stdin.on("end", () => process.exit(0));
process.stdin.resume();
