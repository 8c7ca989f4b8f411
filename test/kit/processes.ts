import { execFileSync } from "node:child_process";

/** Ids of a process's children whose command line holds `word`. */
export function childrenOf(parent: number, word: string): number[] {
  return processes()
    .filter((each) => each.parent === parent && each.command.includes(word))
    .map(({ id }) => id);
}

/** Ids of all processes below one, at any depth. */
export function descendantsOf(root: number): number[] {
  const all = processes();
  const found = new Set([root]);
  // A parent may be listed after its children: look again until nobody new turns up.
  for (let size = 0; size < found.size;) {
    size = found.size;
    for (const { id, parent } of all) if (found.has(parent)) found.add(id);
  }
  found.delete(root);
  return [...found];
}

/** Resolves once none of the processes runs any more; rejects after `limitMs`. */
export async function gone(ids: number | readonly number[], limitMs = 15_000): Promise<void> {
  const wanted = new Set(typeof ids === "number" ? [ids] : ids);
  const until = performance.now() + limitMs;
  // There is no event for the end of a process that is not our child: listing them is the wait.
  for (let left = running(wanted); left.length > 0; left = running(wanted)) {
    if (performance.now() > until) throw new Error(`still running: ${left.map(({ command }) => command).join("; ")}`);
  }
}

type Listed = { id: number; parent: number; command: string };

function running(wanted: ReadonlySet<number>): Listed[] {
  return processes().filter(({ id }) => wanted.has(id));
}

/** Every process but those that have ended and only wait to be read out. */
function processes(): Listed[] {
  const lines = execFileSync("ps", ["-A", "-o", "pid=,ppid=,stat=,args="], { encoding: "utf8" }).split("\n");
  return lines.flatMap((line): Listed[] => {
    const [, id, parent, state = "", command = ""] = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? [];
    return id === undefined || state.startsWith("Z") ? [] : [{ id: Number(id), parent: Number(parent), command }];
  });
}
