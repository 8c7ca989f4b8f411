import type { PixelLLMError } from "../shared/errors.ts";
import { loadFailed } from "./checkpoint.ts";

/** onnxruntime's errors carry no code: its words are all there is to tell them apart by (version 1.30). */
const meanings: readonly (readonly [RegExp, string])[] = [
  [
    /protobuf parsing failed|Model data pointer is null|Failed to load model because/i,
    "The file is no whole ONNX model: it is cut off or something else; download it again.",
  ],
  [
    /External data|external initializer|model_path must not be empty/i,
    "The model keeps its weights in a second file that is missing: put it beside the model.",
  ],
  [
    /No Op registered|is not a registered function\/op|Fatal error: .* is not a registered/i,
    "The model uses an operator this runtime does not have: export it with standard operators.",
  ],
  [
    /under development|No opset import|opset/i,
    "The model's opset is newer than this runtime knows: export it with opset 7 to 26.",
  ],
  [
    /max supported IR version|Unsupported model IR version/i,
    "The model's IR version is newer than this runtime knows: export it with IR version 13 or older.",
  ],
  [/doesn't exist|No such file|is a directory/i, "The model file is gone."],
  [/Permission denied/i, "The model file cannot be read: check its permissions."],
];

/** onnxruntime's refusal to load as `ERR_ENC_LOAD_FAILED` that says what to do; its own words stay in the detail. */
export function readLoadError(file: string, text: string): PixelLLMError {
  const [, hint] = meanings.find(([words]) => words.test(text)) ?? [];
  return loadFailed(file, hint ?? "The runtime cannot load this model; the log has its words.", new Error(text));
}
