import type { Evidence, Tag } from "./evidence.ts";

/** Words and a sentence made from evidence alone. */
export type Description = { tags: Tag[]; sentence: string };

/** OKLab chroma of the most vivid colours a screen can show; scales saturation to a score of 0 to 1. */
const fullChroma = 0.32;

/**
 * Says in at most 25 words what the numbers carry, and no more: it names light, shape, colours, places and texture,
 * never a thing. Tags come strongest colour first, then place, light, detail and shape.
 */
export function describe(evidence: Evidence): Description {
  return { tags: tagsOf(evidence), sentence: sentenceOf(evidence) };
}

function tagsOf({ frame, colours, layout, light, detail }: Evidence): Tag[] {
  const tags: Tag[] = colours.map(({ term, share }) => ({ label: term, score: share }));
  const tag = (label: string, score: number): void => {
    tags.push({ label, score: Math.min(1, Math.max(0, Math.round(score * 1000) / 1000)) });
  };
  if (layout !== null) tag(layoutPhrase(layout), layoutScore(layout, colours));
  for (const word of light.words) {
    switch (word) {
      case "dark":
        tag(word, 1 - light.brightness);
        break;
      case "bright":
        tag(word, light.brightness);
        break;
      case "low contrast":
        tag(word, 1 - light.contrast);
        break;
      case "high contrast":
        tag(word, light.contrast);
        break;
      case "vivid":
        tag(word, light.saturation / fullChroma);
        break;
      case "without colour":
        tag(word, 1 - light.saturation / fullChroma);
        break;
    }
  }
  for (const word of detail.words) {
    switch (word) {
      case "large plain areas":
        tag(word, 1 - detail.edges);
        break;
      case "fine detail":
        tag(word, detail.edges);
        break;
      case "soft":
        tag(word, 1 - detail.sharpness);
        break;
      case "crisp":
        tag(word, detail.sharpness);
        break;
    }
  }
  if (detail.lines !== null) tag(`mainly ${detail.lines} lines`, detail.edges);
  if (detail.symmetry !== null) tag(`nearly symmetrical ${detail.symmetry}`, 1);
  tag(frame.shape, 1);
  return tags;
}

function sentenceOf({ frame, colours, layout, light, detail }: Evidence): string {
  const adjectives = light.words.filter((word) => word !== "without colour").slice(0, 2);
  const head = ["A", adjectives.join(", "), frame.shape, "image"].filter((part) => part !== "").join(" ");
  const tone = light.words.includes("without colour") ? `${head} without colour` : head;
  const parts = [tone];
  const halves = layout !== null && layout.kind !== "middle";
  const named = halves ? "" : coloursPhrase(colours);
  if (named !== "") parts.push(named);
  if (layout !== null) parts.push(layoutPhrase(layout));
  const texture = detailPhrase(detail);
  if (texture !== "") parts.push(texture);
  return `${parts.join(", ")}.`;
}

function coloursPhrase(colours: Evidence["colours"]): string {
  const [first, second, ...more] = colours;
  if (first === undefined) return "";
  const some = (rest: Evidence["colours"]): string =>
    rest.length === 0 ? "" : ` with some ${listOf(rest.map(({ term }) => term))}`;
  const others = second === undefined ? [] : [second, ...more];
  if (first.share >= 0.5) return `mostly ${first.term}${some(others)}`;
  if (second !== undefined && second.share >= 0.25) return `${first.term} and ${second.term}${some(more)}`;
  if (first.share >= 0.25) return `partly ${first.term}${some(others)}`;
  return `in ${listOf(colours.map(({ term }) => term))}`;
}

function layoutPhrase(layout: NonNullable<Evidence["layout"]>): string {
  switch (layout.kind) {
    case "above_below":
      return `${layout.first} above, ${layout.second} below`;
    case "left_right":
      return `${layout.first} on the left, ${layout.second} on the right`;
    case "middle":
      return `${layout.first} in the middle`;
  }
}

function layoutScore(layout: NonNullable<Evidence["layout"]>, colours: Evidence["colours"]): number {
  const named = layout.kind === "middle" ? [layout.first] : [layout.first, layout.second];
  return colours.filter(({ term }) => named.includes(term)).reduce((total, { share }) => total + share, 0);
}

function detailPhrase({ lines, symmetry, words }: Evidence["detail"]): string {
  if (lines !== null) return `with mainly ${lines} lines`;
  if (symmetry !== null) return `nearly symmetrical ${symmetry}`;
  const [word] = words;
  if (word === undefined) return "";
  return word === "soft" || word === "crisp" ? `with ${word} edges` : `with ${word}`;
}

function listOf(words: readonly string[]): string {
  const last = words.at(-1) ?? "";
  return words.length < 2 ? last : `${words.slice(0, -1).join(", ")} and ${last}`;
}
