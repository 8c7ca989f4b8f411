/** Version of both halves; equal to `package.json`'s. */
export const version = "0.1.0";
