import * as z from "zod";
import { lmStudioError } from "../../shared/lm-studio-kinds.ts";
import { usageSchema, type Usage } from "../../shared/wire.ts";

/** Longest answer kept, in characters. */
const maxTextCharacters = 256 * 1024;

const words = z.string().nullish();
const parts = z.object({ content: words, reasoning_content: words, reasoning: words });
const choice = z.object({ delta: parts.optional(), message: parts.optional(), finish_reason: words });
const answerSchema = z.object({
  model: words,
  choices: z.array(choice).optional(),
  usage: usageSchema.nullish().catch(null),
});

/** An answer as it grows. */
export type AnswerText = {
  finish: "stop" | "length" | null;
  /** `[DONE]` was seen. */
  marked: boolean;
  /** Some `choices[0]` was seen. */
  hadChoice: boolean;
  /** Takes one streamed chunk; `grew` = it carried words, thinking included. Throws kinds `malformed`, `too_long`. */
  takeChunk(body: unknown): { grew: boolean; finished: boolean };
  /** Takes a plain answer that came instead of a stream. */
  takeWhole(body: unknown): void;
  /** What may be shown so far of an answer still growing: no thinking, and no text that may turn out to begin it. */
  visible(): string;
  /** Caption and thinking so far, `<think>` blocks moved from the first to the second, both trimmed. */
  words(): { text: string; reasoning: string };
  facts(): { finish: "stop" | "length"; model: string | null; usage: Usage };
};

/** An empty answer. */
export function createAnswer(): AnswerText {
  let content = "";
  let reasoning = "";
  let model: string | null = null;
  let usage: Usage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };

  const take = (body: unknown, where: "delta" | "message"): { grew: boolean; finished: boolean } => {
    const result = answerSchema.safeParse(body);
    if (!result.success) throw lmStudioError("malformed", { detail: result.error.message, cause: result.error });
    model ??= result.data.model ?? null;
    usage = result.data.usage ?? usage;
    const [first] = result.data.choices ?? [];
    if (first === undefined) return { grew: false, finished: false };
    answer.hadChoice = true;
    const said = first[where]?.content ?? "";
    const thought = first[where]?.reasoning_content ?? first[where]?.reasoning ?? "";
    content += said;
    reasoning += thought;
    if (content.length + reasoning.length > maxTextCharacters) {
      throw lmStudioError("too_long", { detail: `more than ${maxTextCharacters} characters` });
    }
    if (typeof first.finish_reason === "string") answer.finish = first.finish_reason === "length" ? "length" : "stop";
    return { grew: said !== "" || thought !== "", finished: typeof first.finish_reason === "string" };
  };

  const answer: AnswerText = {
    finish: null,
    marked: false,
    hadChoice: false,
    takeChunk: (body) => take(body, "delta"),
    takeWhole: (body) => {
      take(body, "message");
      // A plain answer is whole by its length; some servers leave the reason out.
      answer.finish ??= "stop";
    },
    visible: () =>
      content.includes("<")
        ? content.replaceAll(/<think>[\s\S]*?(?:<\/think>|$)/g, "").replace(/<(?:t(?:h(?:i(?:nk?)?)?)?)?$/, "")
        : content,
    words: () => splitThinking(content, reasoning),
    facts: () => ({ finish: answer.finish ?? "stop", model, usage }),
  };
  return answer;
}

function splitThinking(content: string, reasoning: string): { text: string; reasoning: string } {
  let thought = reasoning;
  // A block that was never closed is thinking to its end.
  const text = content.replaceAll(/<think>([\s\S]*?)(?:<\/think>|$)/g, (_, inner: string) => {
    thought += inner;
    return "";
  });
  return { text: text.trim(), reasoning: thought.trim() };
}
