/** A named stop in a scripted answer; it stays shut until the test steps or opens it, so nothing here ever sleeps. */
export interface Gate {
  readonly name: string;
  /** How many answers stand before the gate now. */
  readonly waiting: number;
  /** How many times the gate was reached, those that passed or left included. */
  readonly reached: number;
  /** Lets everyone through, now and later. */
  open(): void;
  /** Lets exactly `count` (default 1) through, now or later. */
  step(count?: number): void;
  /** Shuts an open gate and forgets unused steps. */
  shut(): void;
  /** Resolves once the gate was reached `count` times in all (default 1). */
  arrived(count?: number): Promise<void>;
  /** Waits to be let through; rejects with the signal's reason when that comes first. */
  pass(signal?: AbortSignal): Promise<void>;
}

/** A new gate, shut. */
export function createGate(name: string): Gate {
  const waiters = new Set<() => void>();
  const watchers = new Set<() => void>();
  let isOpen = false;
  let steps = 0;
  let reached = 0;

  const release = (): void => {
    for (const waiter of waiters) {
      if (!isOpen && steps === 0) return;
      if (!isOpen) steps -= 1;
      waiters.delete(waiter);
      waiter();
    }
  };

  return {
    name,
    get waiting() {
      return waiters.size;
    },
    get reached() {
      return reached;
    },
    open() {
      isOpen = true;
      release();
    },
    step(count = 1) {
      steps += count;
      release();
    },
    shut() {
      isOpen = false;
      steps = 0;
    },
    arrived(count = 1) {
      return new Promise((resolve) => {
        const look = (): void => {
          if (reached < count) return;
          watchers.delete(look);
          resolve();
        };
        watchers.add(look);
        look();
      });
    },
    pass(signal) {
      return new Promise((resolve, reject) => {
        if (signal?.aborted) {
          reject(signal.reason as Error);
          return;
        }
        const leave = (): void => {
          waiters.delete(enter);
          reject(signal?.reason as Error);
        };
        const enter = (): void => {
          signal?.removeEventListener("abort", leave);
          resolve();
        };
        signal?.addEventListener("abort", leave, { once: true });
        waiters.add(enter);
        reached += 1;
        for (const watcher of watchers) watcher();
        release();
      });
    },
  };
}

/** The gates of one stand-in by name; a gate is made the first time it is named, by the script or by the test. */
export type Gates = (name: string) => Gate;

/** An empty set of gates. */
export function createGates(): Gates {
  const known = new Map<string, Gate>();
  return (name) => {
    const gate = known.get(name) ?? createGate(name);
    known.set(name, gate);
    return gate;
  };
}
