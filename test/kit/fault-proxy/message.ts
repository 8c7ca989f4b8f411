/** What is told of one HTTP message by its bytes as they pass: where its head ends, and how its body is framed. */
export type MessageReader = {
  /** Takes the next bytes and gives how many of them are head. */
  read(bytes: Uint8Array): number;
  /** Bytes of the body that are still to come; null before the head's end, and for bodies of no known length. */
  owed(): number | null;
};

/** A head longer than this is not looked at any further, in bytes. */
const longestHead = 65_536;

/** Reads one message. */
export function createMessageReader(): MessageReader {
  let head = "";
  let owed: number | null = null;
  let inBody = false;
  return {
    read(bytes) {
      if (inBody) {
        if (owed !== null) owed = Math.max(0, owed - bytes.length);
        return 0;
      }
      const before = head.length;
      head += Buffer.from(bytes).toString("latin1");
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) {
        inBody = head.length > longestHead;
        return bytes.length;
      }
      inBody = true;
      const headBytes = end + 4 - before;
      if (!/^transfer-encoding:/im.test(head.slice(0, end))) {
        const length = Number(/^content-length: *(\d+) *$/im.exec(head.slice(0, end + 2))?.[1] ?? 0);
        owed = Math.max(0, length - (bytes.length - headBytes));
      }
      return headBytes;
    },
    owed: () => owed,
  };
}

/** Breaks a chunked body: after `goodChunks` whole chunks the next size becomes a letter that is no digit. */
export function createChunkBreaker(goodChunks: number): (bytes: Uint8Array) => Uint8Array {
  const message = createMessageReader();
  let left = goodChunks;
  let size = "";
  /** Bytes of the current chunk, its line break included, that are still to come; null while its size is read. */
  let inChunk: number | null = null;
  let broken = false;
  return (given) => {
    const bytes = Uint8Array.from(given);
    for (let at = message.read(bytes); at < bytes.length && !broken;) {
      if (inChunk !== null) {
        const step = Math.min(inChunk, bytes.length - at);
        at += step;
        inChunk -= step;
        if (inChunk > 0) continue;
        inChunk = null;
        left -= 1;
      } else if (left === 0 && size === "") {
        bytes[at] = 0x5a;
        broken = true;
      } else {
        size += String.fromCharCode(bytes[at] ?? 0);
        at += 1;
        if (!size.endsWith("\n")) continue;
        inChunk = Number.parseInt(size, 16) + 2;
        size = "";
      }
    }
    return bytes;
  };
}
