import { crc32, deflateSync } from "node:zlib";

/** Red, green and blue, 0 to 255. */
type Colour = readonly [number, number, number];

const width = 960;
const height = 640;

/** The picture that comes with the project: a lake under evening mountains, drawn by formula, as PNG bytes. */
export function renderPicture(): Uint8Array {
  const rows = Buffer.alloc(height * (1 + width * 3));
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const colour = colourAt(x / width, y / height);
      const at = y * (1 + width * 3) + 1 + x * 3;
      for (let channel = 0; channel < 3; channel += 1) rows[at + channel] = Math.round(colour[channel] ?? 0);
    }
  }
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    pngChunk("IHDR", head),
    pngChunk("IDAT", deflateSync(rows, { level: 9 })),
    pngChunk("IEND", Buffer.alloc(0)),
  ]);
}

function colourAt(x: number, y: number): Colour {
  const shore = 0.62;
  if (y > shore) return lakeAt(x, y, shore);
  return landAt(x, y);
}

function landAt(x: number, y: number): Colour {
  const near = 0.5 - 0.1 * ridge(x * 1.7 + 0.3) + 0.03 * Math.sin(x * 40);
  const far = 0.38 - 0.14 * ridge(x + 0.8);
  if (y > near) return blend([38, 84, 44], [22, 58, 36], (y - near) * 5);
  if (y > far) return blend([96, 112, 150], [70, 92, 122], (y - far) * 5);
  return skyAt(x, y);
}

function skyAt(x: number, y: number): Colour {
  const sun = Math.hypot((x - 0.72) * 1.5, y - 0.2);
  if (sun < 0.06) return [255, 244, 200];
  const glow = Math.exp(-sun * 6);
  return blend(blend([64, 132, 220], [168, 206, 240], y * 2.2), [255, 214, 150], glow);
}

function lakeAt(x: number, y: number, shore: number): Colour {
  const depth = (y - shore) / (1 - shore);
  const ripple = 0.012 * Math.sin(y * 260 + 3 * Math.sin(x * 9));
  const mirrored = landAt(x + ripple, shore - depth * 0.55 + ripple);
  return blend(mirrored, [24, 70, 130], 0.35 + 0.45 * depth);
}

function ridge(x: number): number {
  return Math.abs(Math.sin(x * 7)) * 0.6 + Math.abs(Math.sin(x * 17 + 1)) * 0.3 + Math.abs(Math.sin(x * 41)) * 0.1;
}

function blend(from: Colour, to: Colour, share: number): Colour {
  const part = Math.min(1, Math.max(0, share));
  return [from[0] + (to[0] - from[0]) * part, from[1] + (to[1] - from[1]) * part, from[2] + (to[2] - from[2]) * part];
}

/** One chunk of a PNG file: length, type, data, checksum. */
export function pngChunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}
