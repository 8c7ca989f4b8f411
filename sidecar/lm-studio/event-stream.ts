/** One server-sent event: its name (`message` when not given) and its data lines, joined by line breaks. */
export type StreamEvent = { event: string; data: string };

/** Feeds bytes in, gives events out; cuts may fall anywhere, inside a character too. */
export type EventStreamReader = {
  /** Events completed by these bytes; throws `EventTooLong` past `maxEventBytes`. */
  read(bytes: Uint8Array): StreamEvent[];
  /** The event at the end of the body that no empty line followed, if any. */
  end(): StreamEvent[];
};

/** An event grew past the reader's limit. */
export class EventTooLong extends Error {}

/** A reader of `text/event-stream` (WHATWG HTML, 9.2): CRLF, LF and CR, several data lines, comments ignored. */
export function createEventStreamReader(maxEventBytes: number): EventStreamReader {
  const decoder = new TextDecoder("utf-8");
  let rest = "";
  let event = "";
  let data: string[] = [];
  let held = 0;

  const dispatch = (): StreamEvent[] => {
    const done = data.length === 0 ? [] : [{ event: event === "" ? "message" : event, data: data.join("\n") }];
    event = "";
    data = [];
    held = 0;
    return done;
  };
  const readLine = (line: string): StreamEvent[] => {
    if (line === "") return dispatch();
    if (line.startsWith(":")) return [];
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") event = value;
    if (field === "data") {
      data.push(value);
      held += value.length;
      if (held > maxEventBytes) throw new EventTooLong(`an event has more than ${maxEventBytes} characters`);
    }
    return [];
  };
  const readText = (text: string, last: boolean): StreamEvent[] => {
    rest += text;
    const events: StreamEvent[] = [];
    for (let end = findBreak(rest, last); end !== null; end = findBreak(rest, last)) {
      events.push(...readLine(rest.slice(0, end.at)));
      rest = rest.slice(end.next);
    }
    if (rest.length > maxEventBytes) throw new EventTooLong(`a line has more than ${maxEventBytes} characters`);
    return events;
  };

  return {
    read: (bytes) => readText(decoder.decode(bytes, { stream: true }), false),
    end: () => {
      const events = readText(decoder.decode(), true);
      if (rest !== "") events.push(...readLine(rest));
      rest = "";
      return [...events, ...dispatch()];
    },
  };
}

function findBreak(text: string, last: boolean): { at: number; next: number } | null {
  const at = text.search(/[\r\n]/);
  if (at < 0) return null;
  // A CR at the end may be the first half of a CRLF that was cut in two.
  if (text[at] === "\r" && at === text.length - 1 && !last) return null;
  return { at, next: at + (text[at] === "\r" && text[at + 1] === "\n" ? 2 : 1) };
}
