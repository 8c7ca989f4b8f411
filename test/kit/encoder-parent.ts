import { readCheckpoint } from "../../sidecar/checkpoint.ts";
import { startEncoder } from "../../sidecar/encoder.ts";
import { childrenOf } from "./processes.ts";
import { listeningLogger } from "./settings.ts";

/** A process that holds an encoder until it is killed; it tells its own parent the host's id. */
await startEncoder({ model: await readCheckpoint(null), logger: listeningLogger() });
process.send?.(childrenOf(process.pid, "encoder-host")[0]);
