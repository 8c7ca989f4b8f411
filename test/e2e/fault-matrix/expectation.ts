import { breakerNames, type BreakerName } from "../../../shared/breaker-state.ts";
import type { ErrorCode } from "../../../shared/errors.ts";

/** What one call taught a breaker; `none` = nothing, a token that it held was given back. */
export type Sampled = "success" | "failure" | "slow" | "ignored" | "none";

/** What the matrix says of a fault. */
export type Expectation = {
  /** Asked once, without a retry and with `fallback=none`; code null = a caption. */
  status: number;
  code: ErrorCode | null;
  samples: Readonly<Record<BreakerName, Sampled>>;
  /**
   * Asked with three attempts while the fault lasts. `yes`: all three are made, and the fifth failure in a row opens;
   * `no`: one call; `once`: two; `-`: not asked, the row says more itself.
   */
  retry: "yes" | "no" | "once" | "-";
  /** Rungs of the default chain that answer: `C` where an entry is stored, `D` where none is; `-` = the error stays. */
  ladder: "C D" | "C" | "-";
};

/** The lines a row must show for it. */
export function expectedLines({ status, code, samples, retry, ladder }: Expectation): string[] {
  const told = `${status} ${code ?? "caption"}`;
  const lines = [`once: ${told}`, `samples: ${breakerNames.map((name) => `${name} ${samples[name]}`).join(", ")}`];
  switch (retry) {
    case "yes":
      lines.push(`three attempts: 503 ERR_RETRY_EXHAUSTED of ${code} after 3 calls`);
      if (Object.values(samples).includes("failure")) lines.push(`next: 503 ERR_CB_OPEN of ${code} after 2 calls`);
      break;
    case "no":
      lines.push(`three attempts: ${told} after 1 call`);
      break;
    case "once":
      lines.push(`three attempts: ${told} after 2 calls`);
      break;
    case "-":
      break;
  }
  if (code !== null) {
    const [stored, bare] = { "C D": ["cache", "describe"], C: ["cache", told], "-": [told, told] }[ladder];
    lines.push(`ladder: with an entry ${stored}, without ${bare}`);
  }
  return lines;
}
