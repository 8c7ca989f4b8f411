/** How a half ends when it cannot start; numbers of BSD's sysexits where they fit. */
export const exitCodes = {
  /** A bug: an exception nobody caught. */
  bug: 70,
  /** The port is taken or may not be opened (EX_UNAVAILABLE): starting again changes nothing. */
  unavailable: 69,
  /** The configuration or a file that it names is wrong (EX_CONFIG). */
  configuration: 78,
} as const;

/** What the sidecar tells the process that started it. */
export type SidecarReport = { kind: "listening"; port: number };
