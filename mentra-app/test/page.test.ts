// The page in a real browser: a wearer opens it from MentraOS, sees the picture, stops, starts and chooses.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { startApp } from "../src/app.js";
import { readConfig } from "../src/config.js";
import { silent } from "../src/log.js";
import { streamOf } from "../src/wearers.js";
import { FakeBox } from "./support/box.js";
import { Cloud } from "./support/cloud.js";
import { until } from "./support/until.js";

const ANNA = "anna@example.org";
/** The driver that the viewer's tests have anyway. */
const DRIVER = fileURLToPath(new URL("../../../tests/viewer/node_modules/playwright-core", import.meta.url));
const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path));

/** What is used of it. */
interface Page {
  on(event: "console" | "pageerror", listener: (what: { text?: () => string; type?: () => string; message?: string }) => void): void;
  goto(url: string): Promise<unknown>;
  url(): string;
  click(selector: string): Promise<void>;
  fill(selector: string, text: string): Promise<void>;
  waitForFunction<A>(holds: (arg: A) => boolean, arg: A): Promise<unknown>;
}
interface Driver {
  chromium: {
    launch(options: { executablePath: string; args: string[] }): Promise<{
      newPage(options: { viewport: { width: number; height: number } }): Promise<Page>;
      close(): Promise<void>;
    }>;
  };
}

const missing = CHROMIUM !== undefined && existsSync(DRIVER) ? false : "no chromium or no tests/viewer/node_modules; run ./setup.sh --test";
if (missing !== false) {
  console.log(`SKIPPED: the app's page in a browser: ${missing}`);
}

test("the page in a browser", { skip: missing, timeout: 120_000 }, async () => {
  const { chromium } = createRequire(import.meta.url)(DRIVER) as Driver;
  const cloud = new Cloud("org.example.page", "key");
  const box = new FakeBox();
  await cloud.listen();
  await box.up();
  cloud.ways.onStream = () => { box.see(streamOf(ANNA), "online"); };
  cloud.ways.onStop = () => { box.see(streamOf(ANNA), "offline"); };
  const config = readConfig({
    PACKAGE_NAME: "org.example.page",
    MENTRAOS_API_KEY: "key",
    PORT: "0",
    BOX_URL: box.url,
    BOX_TOKEN: box.token,
    CLOUD_HOSTS: "ws://127.0.0.1",
    DATA_DIR: await mkdtemp(join(tmpdir(), "spotter-app-")),
  });
  const app = await startApp(config, silent, {});
  const browser = await chromium.launch({ executablePath: CHROMIUM ?? "", args: ["--no-sandbox"] });
  try {
    await cloud.start(`http://127.0.0.1:${app.port}/${config.webhookKey}`, ANNA);
    await until("live", () => app.wearers.get(ANNA)?.view().phase === "live");
    const page = await browser.newPage({ viewport: { width: 390, height: 844 } });
    const complaints: string[] = [];
    page.on("pageerror", (error) => complaints.push(error.message ?? ""));
    page.on("console", (line) => {
      if (line.type?.() === "error") {
        complaints.push(line.text?.() ?? "");
      }
    });
    const key = createHash("sha256").update("key").digest("hex");
    const token = `${ANNA}:${createHash("sha256").update(ANNA).update(key).digest("hex")}`;
    await page.goto(`http://127.0.0.1:${app.port}/webview?aos_frontend_token=${encodeURIComponent(token)}`);
    const reads = (id: string, begin: string): Promise<unknown> =>
      page.waitForFunction(([i, b]) => document.getElementById(i)?.textContent.startsWith(b) === true, [id, begin] as const);
    const pictured = (width: number): Promise<unknown> =>
      page.waitForFunction((w) => {
        const image = document.getElementById("picture") as HTMLImageElement;
        return image.hidden ? w === 0 : image.naturalWidth === w;
      }, width);
    await reads("phase", "Live");
    await pictured(1);
    assert.doesNotMatch(page.url(), /token/, "the token does not stay in the address");

    await page.click("#stop");
    await reads("phase", "Stopped");
    await pictured(0);
    await page.click("#start");
    await reads("phase", "Live");

    await page.fill("input[name=sentence]", "Da ist {what}");
    await page.fill("input[name=quiet]", "22:00-07:00");
    await page.fill("input[name=words]", "dog=ein Hund");
    await page.click("form button");
    await reads("saved", "Saved.");
    const { sentence, quiet, words } = app.wearers.get(ANNA)?.settings ?? {};
    assert.deepEqual([sentence, quiet, words], ["Da ist {what}", { from: "22:00", to: "07:00" }, { dog: "ein Hund" }]);
    await page.fill("input[name=sentence]", "nothing to fill in");
    await page.click("form button");
    await reads("saved", "sentence is");
    // The browser itself reports the refusal; nothing else is wrong with the page.
    assert.deepEqual(complaints.filter((text) => !text.includes("400")), []);
    await cloud.stop(`http://127.0.0.1:${app.port}/${config.webhookKey}`, [...cloud.apps.values()][0] ?? assert.fail());
    await reads("phase", "The app does not run on your glasses");
  } finally {
    await browser.close();
    await app.close();
    await cloud.close();
    await box.down();
  }
});
