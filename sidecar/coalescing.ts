import { openWorkTime, type Member, type WorkTime } from "./work-time.ts";

/** Work as its beginner hands it over: what has been seen so far, and its end. `done` never rejects. */
export type Begun<Seen, Value> = { seen: Seen; done: Promise<Value> };

/** One caller of a piece of work. */
export type Caller = { limitMs: number; signal: AbortSignal };

/** How it ended for one caller. */
export type Ended<Seen, Value> =
  /** The work is done; `collapsed` = somebody else's answer, shared. */
  | { by: "work"; value: Value; collapsed: boolean }
  /** The caller left before: its time was over, or it is gone. The work goes on while others wait for it. */
  | { by: "caller"; reason: unknown; seen: Seen; lmStudioMs: number };

/** Does equal work once for all who ask for it at the same time. */
export type Coalescing<Seen, Value> = {
  /**
   * Begins work, or joins work under way with the same key; null = never shared. Of those still there at its end the
   * first has the answer as its own, so that exactly one call of a shared work tells how LM Studio did.
   */
  run(key: string | null, caller: Caller, begin: (time: WorkTime) => Begun<Seen, Value>): Promise<Ended<Seen, Value>>;
  /** Ends every wait with this reason, and with it the work. */
  dismiss(reason: Error): void;
  /** Callers who wait now, and those who were given another's answer so far. */
  counts(): { waiting: number; collapsed: number };
};

type Group<Seen, Value> = Begun<Seen, Value> & { time: WorkTime; members: Set<Member> };

/** Shares work among at most `maxFollowers` callers beyond those it was begun for; whoever comes then has work of its own. */
export function createCoalescing<Seen, Value>(maxFollowers: number, now: () => number): Coalescing<Seen, Value> {
  const shared = new Map<string, Group<Seen, Value>>();
  const groups = new Set<Group<Seen, Value>>();
  let followers = 0;
  let collapsed = 0;

  const start = (
    key: string | null,
    caller: Caller,
    begin: (time: WorkTime) => Begun<Seen, Value>,
  ): { group: Group<Seen, Value>; member: Member } => {
    const time = openWorkTime(now);
    const member = time.join(caller.limitMs, caller.signal);
    const group = { ...begin(time), time, members: new Set([member]) };
    groups.add(group);
    if (key !== null && !shared.has(key)) shared.set(key, group);
    const forget = (): void => {
      groups.delete(group);
      if (key !== null && shared.get(key) === group) shared.delete(key);
    };
    // What was ended because nobody waits any more is nothing for a newcomer to join.
    time.signal.addEventListener("abort", forget, { once: true });
    void group.done.finally(forget);
    return { group, member };
  };

  return {
    async run(key, caller, begin) {
      const joined = key === null || followers >= maxFollowers ? undefined : shared.get(key);
      const { group, member } =
        joined === undefined
          ? start(key, caller, begin)
          : { group: joined, member: joined.time.join(caller.limitMs, caller.signal) };
      group.members.add(member);
      if (joined !== undefined) followers += 1;
      try {
        const own = member.left.then((reason) => ({ by: "caller" as const, reason }));
        const end = await Promise.race([own, group.done.then((value) => ({ by: "work" as const, value }))]);
        if (end.by === "caller") {
          group.members.delete(member);
          return { ...end, seen: group.seen, lmStudioMs: group.time.lmStudioMs() };
        }
        const [first] = group.members;
        const isShared = first !== member;
        if (isShared) collapsed += 1;
        return { ...end, collapsed: isShared };
      } finally {
        member.close();
        if (joined !== undefined) followers -= 1;
      }
    },
    dismiss(reason) {
      for (const group of groups) for (const member of group.members) member.dismiss(reason);
    },
    counts: () => ({
      waiting: [...groups].reduce((sum, { members }) => sum + members.size, 0),
      collapsed,
    }),
  };
}
