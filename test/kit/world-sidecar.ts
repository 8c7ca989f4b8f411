import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { superviseHalf } from "../../scripts/supervised-half.ts";
import { environmentOf, type Settings } from "./environment.ts";
import { temporaryFolder } from "./folders.ts";
import { startSidecarInProcess, type SidecarInProcess, type SidecarInProcessOptions } from "./sidecar-in-process.ts";
import { signedCall, type SignedCall } from "./signed-call.ts";
import { secret } from "./stack.ts";
import { createWatch } from "./watch.ts";
import { within } from "./within.ts";

/** A sidecar that edges under test share. */
export type WorldSidecar = {
  port: number;
  /** The parts behind the port; null when it runs as a process of its own. */
  inside: SidecarInProcess | null;
  /** Id of its process, undefined between two runs of it; the test's own for one that runs inside. */
  pid(): number | undefined;
  /** A call signed with the kit's secret, straight to it. */
  call(call: SignedCall): Promise<Response>;
  log(): string;
  /** Resolves once its supervisor has told people this, as in "the sidecar is back"; rejects after 15 seconds. */
  noticed(text: string): Promise<void>;
  close(): Promise<void>;
};

/** Starts the real sidecar inside the test's process, with whatever is injected. */
export async function startInside(
  settings: Settings,
  inject: Pick<SidecarInProcessOptions, "hostModule" | "memory" | "now" | "wallNow">,
): Promise<WorldSidecar> {
  const inside = await startSidecarInProcess({ settings, ...inject });
  return {
    port: inside.port,
    inside,
    pid: () => process.pid,
    call: (call) => inside.call(call),
    log: () => inside.lines.join("\n"),
    noticed: () => Promise.reject(new Error("a sidecar inside the test's process has no supervisor")),
    close: () => inside.close(),
  };
}

/** Starts the real sidecar as `npm start` does: a process that is brought back on its port when it dies. */
export async function startOutside(settings: Settings): Promise<WorldSidecar> {
  const folder = temporaryFolder();
  const file = join(folder, "sidecar.log");
  const output = openSync(file, "a");
  const notices: string[] = [];
  const { changed, until } = createWatch();
  const notice = (line: string): void => {
    notices.push(line);
    changed();
  };
  const half = await superviseHalf({
    name: "sidecar",
    module: new URL("../../sidecar/main.ts", import.meta.url),
    port: 0,
    environment: (port) => ({
      PATH: process.env["PATH"] ?? "",
      ...environmentOf({ state_dir: folder, ...settings, sidecar_port: port, sidecar_secret: secret }),
    }),
    output,
    notice,
    onGivenUp: (code) => notice(`given up: ${code}`),
    graceMs: 8000,
  });
  return {
    port: half.port,
    inside: null,
    pid: () => half.pid(),
    call: (call) => signedCall(`http://127.0.0.1:${half.port}`, secret, call),
    log: () => readFileSync(file, "utf8"),
    noticed: (text) =>
      within(
        15_000,
        () => `no "${text}" in ${notices.join("; ")}`,
        until(() => notices.some((line) => line.includes(text))),
      ),
    async close() {
      await half.stop();
      closeSync(output);
    },
  };
}
