// A minute of the wearer's hour: the app, a real spotter with its detector and recordings, and the glasses twin on a link of
// its own that falls silent, drops pictures and breaks. How long recovery takes is for scripts/wearers-hour.sh to judge.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT, SPOTTER } from "./support/spotter.js";

const CANNOT = 77;

test("a link that fails, and nothing false or left behind", { timeout: 600_000 }, async (context) => {
  const env = { ...process.env, SPOTTER_BIN: SPOTTER };
  const hour = spawn(join(ROOT, "scripts/wearers-hour.sh"), ["--minute"], { env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  hour.stdout.on("data", (text: Buffer) => { said += text.toString(); });
  hour.stderr.on("data", (text: Buffer) => { said += text.toString(); });
  const code = await new Promise((resolve) => hour.on("close", resolve));
  if (code === CANNOT) {
    // As the service's own tests say it: test.sh sums these up.
    console.log(said.trim());
    context.skip(said.trim());
    return;
  }
  assert.equal(code, 0, said);
});
