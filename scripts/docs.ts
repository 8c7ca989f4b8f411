import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { configKeys, environmentPrefix, profiles } from "../shared/config.ts";
import { errorTable } from "../shared/errors.ts";

const readme = new URL("../README.md", import.meta.url);

/** The tables of the README that are made from the code's own, by the name in their markers. */
export const tables: Readonly<Record<string, () => string>> = {
  configuration: renderConfiguration,
  profiles: renderProfiles,
  errors: renderErrors,
};

/** A README with every marked table made anew; throws when a marker is missing. */
export function renderReadme(text: string): string {
  let result = text;
  for (const [name, render] of Object.entries(tables)) {
    const pattern = new RegExp(`(<!-- table: ${name} -->\\n)(?:(?!<!--)[\\s\\S])*?(\\n<!-- end -->)`);
    if (!pattern.test(result)) throw new Error(`README.md has no table ${name}`);
    result = result.replace(pattern, (_, start: string, end: string) => `${start}${render()}${end}`);
  }
  return result;
}

function renderConfiguration(): string {
  const rows = Object.entries(configKeys).map(([key, row]) => [
    `\`${key}\``,
    showDefault(row.default),
    row.unit,
    row.doc,
  ]);
  return renderTable(["key", "default", "unit", "meaning"], rows);
}

function renderProfiles(): string {
  const names = Object.keys(profiles);
  const keys = [...new Set(Object.values(profiles).flatMap((values) => Object.keys(values)))];
  const rows = keys.map((key) => {
    const cells = Object.values(profiles).map((values) => {
      const own = new Map<string, unknown>(Object.entries(values));
      return showDefault(own.has(key) ? own.get(key) : configKeys[key as keyof typeof configKeys].default);
    });
    return [`\`${key}\``].concat(cells);
  });
  return renderTable(["key", ...names], rows);
}

function renderErrors(): string {
  const rows = Object.entries(errorTable).map(([code, row]) => [
    `\`${code}\``,
    row.statuses.join(", "),
    row.severity,
    row.retryable ? "yes" : "no",
    row.message,
    row.remedy,
  ]);
  return renderTable(["code", "HTTP", "severity", "retryable", "message", "what to do"], rows);
}

function showDefault(value: unknown): string {
  if (value === null || (Array.isArray(value) && value.length === 0)) return "none";
  return Array.isArray(value) ? value.join(",") : typeof value === "string" ? value : JSON.stringify(value);
}

function renderTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(readme, renderReadme(readFileSync(readme, "utf8")));
  console.log(`README.md: ${Object.keys(tables).join(", ")} (environment prefix ${environmentPrefix})`);
}
