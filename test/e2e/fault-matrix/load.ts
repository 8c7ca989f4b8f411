/** Work `times` times, `lanes` at once. */
export async function inLanes<T>(lanes: number, times: number, work: () => Promise<T>): Promise<T[]> {
  const done: T[] = [];
  let begun = 0;
  const lane = async (): Promise<void> => {
    while (begun < times) {
      begun += 1;
      done.push(await work());
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return done;
}

/** Work `times` times, one begun every `everyMs` whatever became of those before. */
export async function openLoop<T>(times: number, everyMs: number, work: () => Promise<T>): Promise<T[]> {
  const startedAt = performance.now();
  return Promise.all(
    Array.from({ length: times }, async (_, at) => {
      const dueMs = startedAt + at * everyMs - performance.now();
      await new Promise((resolve) => {
        setTimeout(resolve, Math.max(0, dueMs));
      });
      return work();
    }),
  );
}

/** How often each text stands there. */
export function count(texts: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return counts;
}
