// Waiting for what must come to hold, and for what must stay so.

import assert from "node:assert/strict";

export async function until(what: string, holds: () => boolean, atMostMs = 40_000): Promise<void> {
  const end = Date.now() + atMostMs;
  while (!holds()) {
    assert.ok(Date.now() < end, `waited too long for: ${what}`);
    await sleep(10);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
