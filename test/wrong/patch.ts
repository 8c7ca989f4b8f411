/** One way to be wrong: a piece of source that stands once in its file, what stands there instead, and the laws it breaks. */
export type Patch = { wrong: string; file: string; from: string; to: string; laws: readonly string[] };
