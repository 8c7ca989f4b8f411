import { renderPicture } from "../rendered-picture.ts";
import { measureLoad, startBenchStack } from "./bench-stack.ts";
import { boundedFigure, ms, plain, type Figure, type Progress } from "./figure.ts";
import { startBenchLmStudio } from "./lm-studio.ts";

const callers = 20;
/** A caller without an answer after this is hung: the request's own deadline and some. */
const hungMs = 12_000;

/** SIGKILL while 20 callers wait for it: how long until it works again, and whether everybody is answered. */
export async function measureKilledSidecar(progress: Progress): Promise<Figure[]> {
  progress("sidecar: how long it takes to start");
  await using studio = await startBenchLmStudio();
  const loadMs = await measureLoad({ log_level: "CRITICAL" });
  progress(`sidecar: killed with ${callers} in flight`);
  await using bench = await startBenchStack({
    lm_studio_port: studio.port,
    timeout_seconds: 10,
    log_level: "CRITICAL",
  });
  const { stack } = bench;
  const picture = new Uint8Array(renderPicture());
  const ask = async (number: number): Promise<number> => {
    const response = await fetch(`${stack.edgeUrl}/v1/captions?fallback=none&seed=${number}`, {
      method: "POST",
      headers: { "content-type": "image/png" },
      body: picture,
      signal: AbortSignal.timeout(hungMs),
    });
    await response.arrayBuffer();
    return response.status;
  };
  if ((await ask(0)) !== 200) throw new Error("a healthy call fails");
  studio.hold();
  const asked = Array.from({ length: callers }, (_, number) => ask(number + 1));
  const settled = Promise.allSettled(asked);
  await studio.holding(1);
  const { sidecar: pid } = stack.pids();
  if (pid === undefined) throw new Error("the sidecar has no process");
  const killedAt = performance.now();
  process.kill(pid, "SIGKILL");
  const backMs = (await bench.noticed("the sidecar is back")) - killedAt;
  studio.release();
  const outcomes = await settled;
  const hung = outcomes.filter(({ status }) => status === "rejected").length;
  return [
    boundedFigure(
      "kill -9 of the sidecar to ready",
      backMs,
      { atMost: loadMs + 1000 },
      ms,
      `its load takes ${ms(loadMs)}`,
    ),
    boundedFigure(`callers of ${callers} in flight who got no answer`, hung, { atMost: 0 }, plain),
  ];
}
