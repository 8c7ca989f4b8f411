/** A place to wait for something that is told of by events: nothing here ever sleeps. */
export type Watch = {
  /** Something may have changed. */
  changed: () => void;
  /** Resolves once `test` holds; looked at now and after every change. */
  until: (test: () => boolean) => Promise<void>;
};

/** A new watch. */
export function createWatch(): Watch {
  const watchers = new Set<() => void>();
  return {
    changed() {
      for (const watcher of watchers) watcher();
    },
    until: (test) =>
      new Promise((resolve) => {
        const look = (): void => {
          if (!test()) return;
          watchers.delete(look);
          resolve();
        };
        watchers.add(look);
        look();
      }),
  };
}
