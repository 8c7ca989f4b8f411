import type { Evidence } from "../../shared/evidence.ts";

/** Evidence of a plain picture, mostly blue, some grey at the bottom. */
export const blueEvidence: Evidence = {
  frame: { width: 1600, height: 1200, shape: "landscape" },
  colours: [
    { term: "blue", share: 0.6, where: "top" },
    { term: "grey", share: 0.3, where: "bottom" },
  ],
  layout: null,
  light: { brightness: 0.3, contrast: 0.12, saturation: 0.06, words: ["dark"] },
  detail: { edges: 0.02, sharpness: 0.2, lines: null, symmetry: null, words: ["large plain areas"] },
  labels: [],
};
