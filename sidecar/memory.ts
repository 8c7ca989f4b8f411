import { totalmem } from "node:os";

/** Memory of the process and what it may use at most, in bytes. */
export type MemoryReading = { used: number; limit: number };

/** A reader of this process's memory; without a configured limit the system's holds: a container's, else the machine's. */
export function createMemoryReader(configuredLimit: number | null): () => MemoryReading {
  const machine = totalmem();
  const constrained = process.constrainedMemory();
  // Where nothing constrains the process, this is 0 or a number no machine has.
  const limit = configuredLimit ?? (constrained > 0 && constrained < machine ? constrained : machine);
  return () => ({ used: process.memoryUsage.rss(), limit });
}
