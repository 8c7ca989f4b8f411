import * as z from "zod";

const resultSchema = z.object({ status: z.int().min(200).max(599), body: z.unknown() });

/** Most bytes of an answer of the sidecar. */
const maxAnswerBytes = 2 ** 20;

/**
 * The sidecar's result: JSON with the response's own status, or the one `result` event of a stream.
 * Throws when the body breaks off, grows past 1 MiB, or is neither.
 */
export async function readResult(response: Response): Promise<{ status: number; body: unknown }> {
  const text = await readText(response);
  if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    return { status: response.status, body: JSON.parse(text) as unknown };
  }
  const event = text.split("\n\n").find((each) => each.startsWith("event: result\n"));
  const data = /^data: (.*)$/m.exec(event ?? "")?.[1];
  // The empty line after an event says that it is whole; without it the stream was cut inside the result.
  if (data === undefined || !text.endsWith("\n\n")) throw new Error("the stream ended without a result");
  const { status, body } = resultSchema.parse(JSON.parse(data));
  return { status, body };
}

async function readText(response: Response): Promise<string> {
  if (response.body === null) return "";
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > maxAnswerBytes) throw new Error(`the answer has more than ${maxAnswerBytes} bytes`);
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}
