import { fork, type ChildProcess } from "node:child_process";
import { exitCodes } from "../sidecar/exit.ts";

/** What a half reports to the process that started it: the port it listens on. */
export type ListeningReport = { kind: "listening"; port: number };

/** One half that runs as a child process and is brought back when it dies. */
export type SupervisedHalf = {
  /** Port of the first start; every later start listens there too. */
  port: number;
  /** Process id of the current run, undefined between two runs. */
  pid(): number | undefined;
  /** Ends it and everything it started: politely first, by force after `graceMs`. */
  stop(): Promise<void>;
};

/** How to run one half. */
export type HalfOptions = {
  name: string;
  module: URL;
  /** Environment of a run; `port` is 0 or the port of the first start. */
  environment: (port: number) => Record<string, string>;
  port: number;
  /** Sent to each run as its first message. */
  greeting?: string;
  /** Where its output goes: the terminal, or an open file. */
  output: "inherit" | number;
  /** A line for people. */
  notice: (line: string) => void;
  /** It will not be brought back: its exit code, or null when a signal or repeated crashes ended it. */
  onGivenUp: (code: number | null) => void;
  graceMs: number;
};

const firstPauseMs = 250;
const longestPauseMs = 10_000;
/** Deaths before a start has ever come up after which another try would only repeat them. */
const hopelessDeaths = 5;

/** Starts a half and resolves once it listens; rejects when it ends for good before that. */
export async function superviseHalf(options: HalfOptions): Promise<SupervisedHalf> {
  let child: ChildProcess | undefined;
  let pause: NodeJS.Timeout | undefined;
  let pauseMs = firstPauseMs;
  let deaths = 0;
  let stopping = false;
  let port = options.port;
  let gone: Promise<void> = Promise.resolve();
  const first = Promise.withResolvers<void>();
  let everUp = false;

  const run = (): void => {
    const current = fork(options.module, {
      env: options.environment(port),
      stdio: ["ignore", options.output, options.output, "ipc"],
      // A group of its own: Ctrl-C reaches us alone, and what the child leaves behind can be ended with it.
      detached: process.platform !== "win32",
    });
    child = current;
    if (options.greeting !== undefined) current.send(options.greeting);
    current.on("message", (message: ListeningReport) => {
      port = message.port;
      deaths = 0;
      pauseMs = firstPauseMs;
      if (everUp) options.notice(`the ${options.name} is back`);
      everUp = true;
      first.resolve();
    });
    gone = new Promise((resolve) => {
      current.once("exit", (code, signal) => {
        child = undefined;
        endGroup(current.pid);
        resolve();
        if (!stopping) settleDeath(code, signal);
      });
    });
  };

  const settleDeath = (code: number | null, signal: NodeJS.Signals | null): void => {
    deaths += 1;
    if (code === exitCodes.configuration || code === exitCodes.unavailable || deaths >= hopelessDeaths) {
      first.reject(new HalfEnded(options.name, code));
      options.onGivenUp(code);
      return;
    }
    options.notice(`the ${options.name} ended (${signal ?? `exit code ${code}`}); starting it again`);
    pause = setTimeout(run, pauseMs);
    pauseMs = Math.min(longestPauseMs, pauseMs * 2);
  };

  const stop = async (): Promise<void> => {
    stopping = true;
    clearTimeout(pause);
    first.reject(new HalfEnded(options.name, null));
    const { pid } = child ?? {};
    child?.kill("SIGTERM");
    const force = setTimeout(() => endGroup(pid), options.graceMs);
    await gone;
    clearTimeout(force);
  };

  run();
  try {
    await first.promise;
  } catch (error) {
    await stop();
    throw error;
  }
  return { port, pid: () => child?.pid, stop };
}

/** A half ended for good; its own message has been printed by itself. */
export class HalfEnded extends Error {
  readonly exitCode: number | null;

  constructor(name: string, exitCode: number | null) {
    super(`the ${name} did not start`);
    this.exitCode = exitCode;
  }
}

/**
 * Ends by force what is left of the group a detached process began: workerd and the encoder host outlive a parent that
 * was killed, and their group still carries its number.
 */
export function endGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(process.platform === "win32" ? pid : -pid, "SIGKILL");
  } catch (error) {
    // Nobody left in the group is what we want.
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}
