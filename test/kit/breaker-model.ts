import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import type { Sample } from "../../shared/breaker-state.ts";

type Ended = { at: number; sample: Sample };
type Ticket = { epoch: number; lease: number | null };

/**
 * The breaker's rules a second time, naively: every call kept in a list, nothing shared with the code it checks.
 * `u` is the random number of the step; times are ms. What a step makes known is in the fields.
 */
export class BreakerModel {
  phase: "closed" | "open" | "half_open" = "closed";
  epoch = 0;
  attempt = 0;
  now = 0;
  ended: Ended[] = [];
  origin = 0;
  lastCall = 0;
  run: Ended[] = [];
  need = 0;
  ramp: { since: number; calls: number[] } | null = null;
  until: number | null = null;
  byHand = false;
  openedAt = 0;
  openMs = 0;
  leases: { id: number; expires: number }[] = [];
  granted = 0;
  verdicts: Sample[] = [];
  trialFrom: number | null = null;
  /** `from>to reason`, in order. */
  moves: string[] = [];
  tally: Record<string, number> = {};
  readonly limits: BreakerLimits;

  constructor(limits: BreakerLimits) {
    this.limits = limits;
  }

  tick(now: number, u: number): void {
    this.now = Math.max(this.now, now);
    if (!this.limits.enabled) return;
    if (this.ramp !== null && this.now >= this.ramp.since + this.limits.rampMs) {
      this.ramp = null;
      this.attempt = 0;
    }
    if (this.phase !== "half_open") return;
    const expiry = Math.min(...this.leases.map(({ expires }) => expires));
    const stall = (this.trialFrom ?? Infinity) + this.limits.maxHalfOpenMs;
    const tooMany = this.verdicts.filter((sample) => sample === "ignored").length >= this.limits.halfOpenMaxCalls;
    if (expiry <= this.now && (expiry <= stall || !tooMany)) {
      this.add("failure");
      this.attempt += 1;
      this.open(expiry, "lease_expired", u, 0);
    } else if (tooMany && stall <= this.now) this.open(Math.max(stall, this.lastCall), "stalled", u, 0);
  }

  ask(now: number, u: number): Ticket | { code: string; phase: string; retryAfterMs: number | null } {
    this.tick(now, u);
    if (!this.limits.enabled) return { epoch: this.epoch, lease: null };
    if (this.phase === "closed") {
      const second = (at: number): number => Math.floor((at - (this.ramp?.since ?? 0)) / 1000);
      const used = this.ramp?.calls.filter((at) => second(at) === second(this.now)).length ?? -1;
      if (used >= this.limits.halfOpenMaxCalls * 2 ** second(this.now)) return this.refuse("HALF_OPEN", "ramp", 1000);
      this.ramp?.calls.push(this.now);
      return { epoch: this.epoch, lease: null };
    }
    if (this.phase === "open") {
      if (this.until === null || this.now < this.until) {
        return this.refuse("OPEN", "open", this.until === null ? null : this.until - this.now);
      }
      this.move("half_open", "cooldown_over");
      [this.leases, this.verdicts, this.granted, this.trialFrom] = [[], [], 0, null];
    }
    if (this.leases.length === this.limits.halfOpenMaxCalls) {
      const left = Math.min(...this.leases.map(({ expires }) => expires)) - this.now;
      return this.refuse("HALF_OPEN", "half_open", Math.min(5000, left));
    }
    this.granted += 1;
    this.trialFrom ??= this.now;
    this.leases.push({ id: this.granted, expires: this.now + this.limits.probeTimeoutMs + 1000 });
    return { epoch: this.epoch, lease: this.granted };
  }

  /** Whether the report came late. */
  report(ticket: Ticket, reported: Sample, now: number, u: number, retryAfterMs: number): boolean {
    this.tick(now, u);
    const sample = reported === "slow" && this.limits.slowCallMs === null ? "success" : reported;
    if (ticket.epoch !== this.epoch) {
      this.add("late");
      return true;
    }
    if (this.phase === "closed") {
      this.add(sample);
      if (sample !== "ignored") this.judge(sample, u, sample === "failure" ? retryAfterMs : 0);
      return false;
    }
    if (!this.leases.some(({ id }) => id === ticket.lease)) return false;
    this.add(sample);
    this.leases = this.leases.filter(({ id }) => id !== ticket.lease);
    this.verdicts.push(sample);
    this.lastCall = this.now;
    if (sample === "failure" || sample === "slow") {
      this.attempt += 1;
      this.open(this.now, "probe_failed", u, sample === "failure" ? retryAfterMs : 0);
    } else if (sample === "ignored") this.tick(now, u);
    else {
      this.trialFrom = null;
      if (this.verdicts.filter((each) => each === "success").length < this.limits.successThreshold) return false;
      this.close("probes_ok");
      if (this.limits.rampMs > 0) this.ramp = { since: this.now, calls: [] };
      else this.attempt = 0;
    }
    return false;
  }

  act(kind: "open" | "close" | "reset", forMs: number | null, now: number): void {
    this.tick(now, 0);
    if (kind === "open") {
      if (!this.limits.enabled) return;
      if (this.phase !== "open") this.openedAt = this.now;
      this.move("open", "manual");
      [this.until, this.byHand] = [forMs === null ? null : this.now + forMs, true];
    } else {
      this.close("manual");
      this.attempt = 0;
      if (kind === "reset") [this.tally, this.openMs] = [{}, 0];
    }
  }

  restart(gap: number): void {
    const { limits, now } = this;
    const passed = Math.max(0, gap);
    const left = (deadline: number, most: number): number => now + Math.min(most, Math.max(0, deadline - now - passed));
    this.openedAt -= passed;
    if (this.until !== null) this.until = left(this.until, this.byHand ? Infinity : limits.maxCooldownMs);
    for (const lease of this.leases) lease.expires = left(lease.expires, limits.probeTimeoutMs + 1000);
    if (this.trialFrom !== null) {
      this.trialFrom = left(this.trialFrom + limits.maxHalfOpenMs, limits.maxHalfOpenMs) - limits.maxHalfOpenMs;
    }
    if (this.ramp !== null) this.ramp = { since: now, calls: [] };
    if (this.phase === "half_open") this.lastCall = now;
    if (this.phase !== "closed") return;
    if (gap < 0 || gap >= limits.windowMs) this.forget(now);
    else {
      this.ended = this.ended.map(({ at, sample }) => ({ at: at - gap, sample }));
      this.origin -= gap;
      this.lastCall -= gap;
    }
  }

  /** Calls the window holds. */
  inWindow(): Ended[] {
    return this.ended.filter(({ at }) => this.bucket(at) > this.bucket(this.now) - 10);
  }

  private judge(sample: Sample, u: number, retryAfterMs: number): void {
    const { failureThreshold: threshold, minimumCalls, failureRatio, slowCallMs, slowRatio, windowMs } = this.limits;
    if (this.now - this.lastCall >= windowMs) this.forget(this.now);
    else if (this.bucket(this.now) - this.bucket(this.lastCall) > 9) [this.ended, this.origin] = [[], this.now];
    if (sample !== "failure") this.run = [];
    else if (this.run.length === 0) {
      const failed = this.inWindow().filter((call) => call.sample === "failure").length;
      const share = failed / this.inWindow().length;
      const noise = share === 1 ? Infinity : Math.ceil(Math.log(1e-8) / Math.log(share) - 1e-9);
      const noisy = this.inWindow().length >= minimumCalls && share > 0;
      this.need = Math.max(threshold, noisy ? Math.min(4 * threshold, noise) : 0);
    }
    this.lastCall = this.now;
    this.ended.push({ at: this.now, sample });
    if (sample === "failure") this.run.push({ at: this.now, sample });
    const calls = this.inWindow();
    const share = (which: Sample): number => calls.filter((call) => call.sample === which).length / calls.length;
    const reason =
      this.run.length > 0 && this.run.length >= this.need
        ? "run"
        : calls.length < minimumCalls
          ? null
          : failureRatio !== null && share("failure") >= failureRatio
            ? "ratio"
            : slowCallMs !== null && share("slow") >= slowRatio
              ? "slow"
              : null;
    if (reason === null || !this.limits.enabled) return;
    if (this.ramp !== null) this.attempt += 1;
    this.open(this.now, reason, u, retryAfterMs);
  }

  private open(at: number, reason: string, u: number, retryAfterMs: number): void {
    const { cooldownMs: base, maxCooldownMs: cap } = this.limits;
    const lo = Math.max(base, Math.min(cap / 1.2, base * 2 ** this.attempt));
    const length = Math.min(cap, Math.max(lo * (1 + 0.2 * u), retryAfterMs));
    [this.until, this.byHand, this.openedAt] = [at + length, false, at];
    this.move("open", reason);
  }

  private close(reason: string): void {
    this.move("closed", reason);
    this.forget(this.now);
  }

  private forget(now: number): void {
    [this.ended, this.run, this.origin, this.lastCall] = [[], [], now, now];
  }

  private move(to: "closed" | "open" | "half_open", reason: string): void {
    this.moves.push(`${this.phase}>${to} ${reason}`);
    if (this.phase !== to) this.add({ closed: "closes", open: "opens", half_open: "half_opens" }[to]);
    if (this.phase === "open" && to !== "open") this.openMs += this.now - this.openedAt;
    [this.phase, this.ramp, this.leases] = [to, null, []];
    this.epoch += 1;
  }

  private refuse(code: string, phase: string, retryAfterMs: number | null) {
    this.add("not_permitted");
    return { code: `ERR_CB_${code}`, phase, retryAfterMs };
  }

  private add(key: string): void {
    this.tally[key] = (this.tally[key] ?? 0) + 1;
  }

  private bucket(at: number): number {
    return Math.floor((at - this.origin) / (this.limits.windowMs / 10));
  }
}
