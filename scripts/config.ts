import { showConfig, type Profile } from "../shared/config.ts";
import { readSettings } from "./settings.ts";

/** Prints the effective configuration as one JSON object, secrets masked: `npm run -s config`. */
const { profile, config } = readSettings(process.argv.slice(2));
console.log(JSON.stringify(showConfig(profile as Profile, config), null, 2));
