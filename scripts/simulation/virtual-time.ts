/** Time that passes only when the next thing is due: hours run in seconds, and a seed gives the same run each time. */
export type VirtualTime = {
  /** Virtual milliseconds since the start; only moves forward. */
  now: () => number;
  /** Calls `elapsed` once after `ms` of virtual time, unless the returned function was called before. */
  startTimer: (ms: number, elapsed: () => void) => () => void;
  /** Resolves after `ms` of virtual time. */
  sleep: (ms: number) => Promise<void>;
  /** Lets time pass until `untilMs`, each timer at its moment, in order of being due and then of being started. */
  run: (untilMs: number) => Promise<void>;
  /** Timers that wait. */
  pending: () => number;
};

type Timer = { at: number; order: number; elapsed: (() => void) | null };

/** A fresh clock at zero. */
export function createVirtualTime(): VirtualTime {
  const heap: Timer[] = [];
  let at = 0;
  let order = 0;
  let live = 0;

  const startTimer: VirtualTime["startTimer"] = (ms, elapsed) => {
    const timer: Timer = { at: at + Math.max(0, ms), order, elapsed };
    order += 1;
    live += 1;
    push(heap, timer);
    return () => {
      if (timer.elapsed === null) return;
      timer.elapsed = null;
      live -= 1;
    };
  };

  return {
    now: () => at,
    startTimer,
    sleep: (ms) =>
      new Promise((resolve) => {
        startTimer(ms, resolve);
      }),
    pending: () => live,
    async run(untilMs) {
      await settled();
      for (let next = heap[0]; next !== undefined && next.at <= untilMs; next = heap[0]) {
        pop(heap);
        const { elapsed } = next;
        if (elapsed === null) continue;
        next.elapsed = null;
        live -= 1;
        at = next.at;
        elapsed();
        await settled();
      }
      at = Math.max(at, untilMs);
    },
  };
}

/** Resolves once every promise that can go on has gone on: a turn of the real loop comes after all of them. */
function settled(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

function earlier(left: Timer | undefined, right: Timer | undefined): boolean {
  if (left === undefined || right === undefined) return left !== undefined;
  return left.at === right.at ? left.order < right.order : left.at < right.at;
}

/** A binary heap, the earliest timer first (Williams 1964). */
function push(heap: Timer[], timer: Timer): void {
  let index = heap.length;
  heap.push(timer);
  for (;;) {
    const above = (index - 1) >> 1;
    if (index === 0 || !earlier(timer, heap[above])) break;
    swap(heap, index, above);
    index = above;
  }
}

function pop(heap: Timer[]): void {
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return;
  heap[0] = last;
  for (let index = 0; ;) {
    const left = 2 * index + 1;
    const child = earlier(heap[left + 1], heap[left]) ? left + 1 : left;
    if (!earlier(heap[child], heap[index])) break;
    swap(heap, index, child);
    index = child;
  }
}

function swap(heap: Timer[], left: number, right: number): void {
  const [one, other] = [heap[left], heap[right]];
  if (one === undefined || other === undefined) return;
  heap[left] = other;
  heap[right] = one;
}
