// The page in the MentraOS web view: shows the wearer's stream and changes settings. It decides nothing.

const byId = (id) => document.getElementById(id);
const form = byId("settings");
const PHASES = {
  stopped: "Stopped",
  requested: "Asking your glasses",
  connecting: "Your glasses connect",
  live: "Live",
  degraded: "Bad connection",
  lost: "Lost; trying again",
};
let pictureOf = null;

async function ask(method, path, body) {
  const options = { method, credentials: "same-origin" };
  if (method !== "GET") {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body ?? {});
  }
  const response = await fetch(`/webview/api/${path}${location.search}`, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `the app answers ${response.status}`);
  return answer;
}

function show(wearer) {
  const phase = wearer?.phase ?? "stopped";
  byId("dot").className = `dot ${phase}`;
  byId("phase").textContent = wearer?.session ? PHASES[phase] ?? phase : "The app does not run on your glasses";
  byId("reason").textContent = [wearer?.reason, ...(wearer?.problems ?? [])].filter(Boolean).join(" · ");
  byId("told").textContent = wearer?.told ? `“${wearer.told.text}”, ${new Date(wearer.told.at).toLocaleTimeString()}` : "";
  byId("start").disabled = !wearer?.session || phase !== "stopped";
  byId("stop").disabled = !wearer?.session || phase === "stopped";
  picture(phase === "live" || phase === "degraded");
  numbers(wearer);
}

function picture(wanted) {
  const image = byId("picture");
  if (wanted && pictureOf === null) {
    pictureOf = Date.now();
    image.src = `/webview/api/live.mjpeg?at=${pictureOf}`;
  } else if (!wanted && pictureOf !== null) {
    pictureOf = null;
    image.removeAttribute("src");
  }
  image.hidden = pictureOf === null;
  byId("no-picture").hidden = pictureOf !== null;
}

// Browsers end an endless picture when the line breaks, and do not come back by themselves.
byId("picture").addEventListener("error", () => {
  byId("picture").hidden = true;
  byId("no-picture").hidden = false;
  setTimeout(() => { pictureOf = null; refresh(); }, 3000);
});

function numbers(wearer) {
  const rows = [];
  const { video, health } = wearer ?? {};
  if (video) rows.push(["Asked for", `${video.width}×${video.height}, ${video.fps}/s, ${(video.bitrateBps / 1e6).toFixed(1)} Mbit/s`]);
  if (health?.link) {
    const { bitrate_bps: bitrate, fps, jitter_ms: jitter } = health.link;
    rows.push(["Arrives", `${fps}/s, ${(bitrate / 1e6).toFixed(2)} Mbit/s, jitter ${Math.round(jitter)} ms`]);
  }
  if (health?.advice?.reason) rows.push(["The box advises", health.advice.reason]);
  if (wearer?.glasses?.model) rows.push(["Glasses", wearer.glasses.model]);
  if (wearer?.restarts) rows.push(["Restarts", wearer.restarts]);
  byId("numbers").replaceChildren(...rows.flatMap(([name, value]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
}

function fill(settings) {
  for (const field of form.elements) {
    const value = settings[field.name];
    if (field.type === "checkbox") field.checked = value;
    else if (field.name === "labels") field.value = value.join(", ");
    else if (field.name === "words") field.value = Object.entries(value).map((pair) => pair.join("=")).join(", ");
    else if (field.name === "quiet") field.value = value ? `${value.from}-${value.to}` : "";
    else if (field.name) field.value = value;
  }
}

async function refresh() {
  try {
    const { wearer } = await ask("GET", "status");
    show(wearer);
  } catch (error) {
    byId("phase").textContent = error.message;
  }
}

async function act(path) {
  try {
    const { wearer } = await ask("POST", path);
    show(wearer);
  } catch (error) {
    byId("reason").textContent = error.message;
  }
}

byId("start").addEventListener("click", () => act("start"));
byId("stop").addEventListener("click", () => act("stop"));
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const wanted = { timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone };
  for (const field of form.elements) {
    if (field.type === "checkbox") wanted[field.name] = field.checked;
    else if (field.name) wanted[field.name] = field.value;
  }
  try {
    const { settings } = await ask("PUT", "settings", wanted);
    fill(settings);
    byId("saved").textContent = "Saved.";
  } catch (error) {
    byId("saved").textContent = error.message;
  }
});

try {
  // The first request trades the web view's token for a cookie.
  const { wearer, settings } = await ask("GET", "status");
  history.replaceState(null, "", "/webview");
  fill(settings);
  show(wearer);
  const events = new EventSource("/webview/api/events");
  events.addEventListener("wearer", (event) => show(JSON.parse(event.data)));
} catch (error) {
  byId("phase").textContent = error.message;
}
