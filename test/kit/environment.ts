/** Configuration keys and their values, as a test names them. */
export type Settings = Readonly<Record<string, string | number>>;

/** Settings as the environment spells them. */
export function environmentOf(settings: Settings): Record<string, string> {
  return Object.fromEntries(
    Object.entries(settings).map(([key, value]) => [`PIXEL_LLM_${key.toUpperCase()}`, String(value)]),
  );
}
