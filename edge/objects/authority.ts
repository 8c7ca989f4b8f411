import { DurableObject } from "cloudflare:workers";
import { readBreakerLimits } from "../../shared/breaker-limits.ts";
import type { BreakerName } from "../../shared/breaker-state.ts";
import type { Act } from "../../shared/breaker.ts";
import { startClock, tick } from "../../shared/clock.ts";
import { readConfig, renderProblems } from "../../shared/config.ts";
import { createLog, type Log } from "../log.ts";
import { platform } from "../platform.ts";
import { createAuthorityCore, type AuthorityCore } from "./authority-core.ts";
import { logBreakerEvent } from "./authority-log.ts";
import { createProbe } from "./authority-probe.ts";
import type {
  AcquireReply,
  ActReply,
  Ask,
  Batch,
  CacheEpochReply,
  ReadReply,
  ReportReply,
  Unavailable,
} from "./authority-protocol.ts";

/** Writes the one row, and one row only: an index or a text key would make it two. */
export const saveStatement = "INSERT INTO memory VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body";

/**
 * The Durable Object that holds both breakers of one upstream (named `upstream:main`), in one row of SQLite. Its
 * methods answer with unions and never throw: a throw would break the caller's stub, and an `alarm` that throws is lost.
 */
export class Authority extends DurableObject<object> {
  readonly #core: AuthorityCore | string;

  constructor(state: DurableObjectState, env: object) {
    super(state, env);
    try {
      this.#core = startCore(state.storage, env);
    } catch (error) {
      // An uncaught throw here would crash the object again on every call.
      this.#core = error instanceof Error ? error.message : String(error);
    }
  }

  report(batch: Batch): ReportReply {
    return this.#answer((core) => core.report(batch));
  }

  acquire(name: BreakerName, isolate: string, ask: Ask): AcquireReply {
    return this.#answer((core) => core.acquire(name, isolate, ask));
  }

  act(name: BreakerName, deed: Act, keyId: string): ActReply {
    return this.#answer((core) => core.act(name, deed, keyId));
  }

  read(): ReadReply {
    return this.#answer((core) => core.read());
  }

  bumpCacheEpoch(): CacheEpochReply {
    return this.#answer((core) => core.bumpCacheEpoch());
  }

  override async alarm(): Promise<void> {
    if (typeof this.#core !== "string") await this.#core.alarm();
  }

  #answer<Reply>(work: (core: AuthorityCore) => Reply): Reply | Unavailable {
    if (typeof this.#core === "string") return broken(this.#core);
    try {
      return work(this.#core);
    } catch (error) {
      return broken(error instanceof Error ? error.message : String(error));
    }
  }
}

function broken(detail: string): Unavailable {
  return { ok: false, code: "broken", detail };
}

function startCore(storage: DurableObjectStorage, env: object): AuthorityCore {
  const reading = readConfig({ ...env });
  if (!reading.ok) throw new Error(`bad configuration:\n${renderProblems(reading.problems)}`);
  const { config } = reading;
  const log = createLog(platform, config.log_level, { operation: "breaker" });
  /** The object counts what fails here and goes on; why it failed is for the log. */
  const telling = <T>(op: string, work: () => T): T => {
    try {
      return work();
    } catch (error) {
      log("WARNING", "breaker storage failed", { exception: error, extra: { op } });
      throw error;
    }
  };
  let clock = startClock(platform.now());
  return createAuthorityCore({
    now: () => {
      clock = tick(clock, platform.now());
      return clock.elapsedMs;
    },
    wallNow: () => platform.now(),
    random: () => Math.random(),
    limits: readBreakerLimits(config),
    load: () =>
      telling("load", () => {
        createTable(storage.sql, log);
        return storage.sql.exec<{ body: string }>("SELECT body FROM memory WHERE id = 1").toArray()[0]?.body;
      }),
    save: (body) => telling("save", () => void storage.sql.exec(saveStatement, body)),
    setAlarm: (at) => {
      const set = at === null ? storage.deleteAlarm() : storage.setAlarm(at);
      set.catch((error: unknown) => log("WARNING", "breaker alarm not set", { exception: error }));
    },
    probe: createProbe(platform, config),
    emit: (event) => logBreakerEvent(log, event, "upstream"),
  });
}

function createTable(sql: SqlStorage, log: Log): void {
  try {
    sql.exec("CREATE TABLE IF NOT EXISTS memory (id INTEGER PRIMARY KEY CHECK (id = 1), body TEXT NOT NULL)");
  } catch (error) {
    // With the day's writes spent even this fails; what an earlier day stored can still be read.
    log("WARNING", "breaker storage takes no writes", { exception: error });
  }
}
