/** Waits for work that must come to its end: after `ms` it rejects and says what was still missing. */
export function within<T>(ms: number, missing: () => string, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`after ${ms} ms: ${missing()}`)), ms);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
