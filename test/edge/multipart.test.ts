import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { readBoundary, readForm, partText } from "../../edge/multipart.ts";
import { isPixelLLMError } from "../../shared/errors.ts";

const bytesOf = (text: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(text, (letter) => letter.charCodeAt(0) & 255);
const disposition = (name: string): string => `Content-Disposition: form-data; name="${name}"`;

test("a form's parts are windows into its own buffer, byte for byte", () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 5 }),
      fc.stringMatching(/^[a-zA-Z0-9'()+_.-]{1,40}$/),
      (contents, boundary) => {
        fc.pre(!contents.some((content) => Buffer.from(content).includes(`--${boundary}`)));
        const pieces = contents.flatMap((content, index) => [
          bytesOf(`--${boundary}\r\n${disposition(`p${index}`)}\r\n\r\n`),
          content,
          bytesOf("\r\n"),
        ]);
        const body = new Uint8Array(Buffer.concat([...pieces, bytesOf(`--${boundary}--\r\n`)]));
        const parts = readForm(body, boundary);
        assert.deepEqual(
          parts.map(({ bytes }) => [...bytes]),
          contents.map((content) => [...content]),
        );
        for (const part of parts) assert.equal(part.bytes.buffer, body.buffer);
      },
    ),
  );
});

test("a form that is cut anywhere is refused, never misread", () => {
  const whole = bytesOf(
    `--b\r\n${disposition("image")}\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n\x1a\n\r\n--b--\r\n`,
  );
  const end = Buffer.from(whole).indexOf("--b--") + 5;
  for (let length = 0; length < end; length += 1) {
    assert.throws(
      () => readForm(whole.slice(0, length), "b"),
      (error: unknown) => isPixelLLMError(error) && error.status === 400,
    );
  }
  assert.equal(readForm(whole.slice(0, end), "b").length, 1);
});

test("random bytes never make the reader throw anything but its own error", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (noise) => {
      try {
        readForm(new Uint8Array(noise), "b");
      } catch (error) {
        assert.ok(isPixelLLMError(error));
      }
    }),
  );
});

const hostile: readonly [string, string][] = [
  ["a part without a name", "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--"],
  [
    "a form inside a form",
    `--b\r\n${disposition("image")}\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\nx\r\n--b--`,
  ],
  ["a transfer encoding", `--b\r\n${disposition("image")}\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--b--`],
  ["headers without end", `--b\r\n${disposition("image")}\r\n${"X: y\r\n".repeat(2000)}`],
  ["too many parts", `${`--b\r\n${disposition("a")}\r\n\r\nx\r\n`.repeat(40)}--b--`],
  ["another boundary", `--c\r\n${disposition("a")}\r\n\r\nx\r\n--c--`],
];

for (const [name, body] of hostile) {
  test(`${name} is refused`, () => {
    assert.throws(() => readForm(bytesOf(body), "b"), { code: "ERR_VAL_INVALID_RANGE", status: 400 });
  });
}

test("a boundary is what RFC 2046 allows", () => {
  assert.equal(readBoundary('multipart/form-data; boundary="a b"'), "a b");
  assert.equal(readBoundary("multipart/form-data; boundary=----WebKitFormBoundaryx"), "----WebKitFormBoundaryx");
  for (const bad of ["", "; boundary=", `; boundary=${"x".repeat(71)}`, '; boundary="a\u0000"', "; boundary=a\u00e9"]) {
    assert.throws(() => readBoundary(`multipart/form-data${bad}`), { code: "ERR_VAL_INVALID_RANGE" });
  }
});

test("text that is not UTF-8 is refused by the part's name", () => {
  assert.throws(() => partText({ name: "prompt", contentType: null, bytes: new Uint8Array([0xff, 0xfe]) }), {
    param: "prompt",
  });
});

const names: readonly [string, string | null][] = [
  ['form-data; name="image"', "image"],
  ["form-data; name=image", "image"],
  ["form-data; name=image; filename=a.png", "image"],
  ['form-data; filename="x; name=\\"no\\"; name=evil"; name="Image"', "Image"],
  ['form-data; filename="; name=evil"', null],
  ["form-data", null],
];

for (const [value, name] of names) {
  test(`the name in ${value} is ${name}`, () => {
    const form = bytesOf(`--b\r\nContent-Disposition: ${value}\r\n\r\nx\r\n--b--\r\n`);
    if (name === null) assert.throws(() => readForm(form, "b"), /no name/);
    else assert.equal(readForm(form, "b")[0]?.name, name);
  });
}

test("a part full of false starts is read to its true end", () => {
  const noise = "\r\n--bb".repeat(2) + "\r".repeat(10_000) + "\r\n--ba".repeat(3000);
  const form = bytesOf(`--bab\r\n${disposition("image")}\r\n\r\n${noise}\r\n--bab--\r\n`);
  assert.equal(readForm(form, "bab")[0]?.bytes.length, noise.length);
});
