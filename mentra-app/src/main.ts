// The program: environment in, signals out.

import { startApp } from "./app.js";
import { ConfigError, readConfig } from "./config.js";
import { log, reasonOf } from "./log.js";

const BAD_CONFIG = 78;

try {
  const config = readConfig(process.env);
  const app = await startApp(config, log);
  log.info("spotter's app for MentraOS is ready", { port: app.port, sse_port: app.ssePort });
  // To standard error beside the log, which may be collected: who knows it can end sessions.
  process.stderr.write(`in the MentraOS console: public URL https://<your tunnel>/${config.webhookKey}, webview URL https://<your tunnel>/webview\n`);
  let ending = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (ending) {
        process.exit(1);
      }
      ending = true;
      log.info("ending", { signal });
      void app.close().finally(() => process.exit(0));
    });
  }
} catch (error) {
  if (error instanceof ConfigError) {
    error.problems.forEach((problem) => process.stderr.write(`spotter-mentra-app: ${problem}\n`));
    process.exit(BAD_CONFIG);
  }
  log.warn("cannot start", { reason: reasonOf(error) });
  process.exit(1);
}
