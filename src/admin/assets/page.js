"use strict";
// Shows the data of /events. Text from clients is set only through textContent. Queries /explain
// when the form is submitted. Changes nothing.
const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const STEPS = 120;
let before = null;
let history = { "step-seconds": 30, registries: {} };
const drawn = new Map();

function made(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

// A cell. On a phone its label stands before it.
function cell(label, text, kind, small) {
  const element = made("td", text, kind);
  element.setAttribute("role", "cell");
  element.dataset.label = label;
  if (small) element.append(made("small", small));
  return element;
}

function row(kind, heading, small, ...cells) {
  const element = made("tr", undefined, kind);
  element.setAttribute("role", "row");
  const head = made("th", heading);
  head.scope = "row";
  head.setAttribute("role", "rowheader");
  if (small) head.append(made("small", small));
  element.append(head, ...cells);
  return element;
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return (unit === 0 ? Math.round(count) : count.toFixed(1)) + " " + units[unit];
}

function span(seconds) {
  if (seconds < 60) return seconds + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min";
  if (seconds < 86400) return Math.floor(seconds / 3600) + " h " + Math.floor(seconds % 3600 / 60) + " min";
  return Math.floor(seconds / 86400) + " d " + Math.floor(seconds % 86400 / 3600) + " h";
}

function count(number, one, more) {
  return number + " " + (number === 1 ? one : more);
}

// A text without the marks of code.
function plain(text) {
  return text.replaceAll("`", "");
}

// A file without its folders.
function base(path) {
  return path.slice(path.lastIndexOf("/") + 1);
}

function line(samples, most, kind) {
  const element = document.createElementNS(SVG, "polyline");
  const start = STEPS + 1 - samples.length;
  element.setAttribute("class", kind);
  element.setAttribute("points", samples.map((value, index) => (start + index) + "," + (19 - 18 * value / most).toFixed(1)).join(" "));
  return element;
}

// The throughput of a registry in the last hour: the steps that the gate keeps, and now.
function chart(name, now) {
  const kept = history.registries[name] || { down: [], up: [] };
  const rates = (steps, last) => steps.map((moved) => moved / history["step-seconds"]).concat([last]);
  const down = rates(kept.down, now.down), up = rates(kept.up, now.up);
  const most = Math.max(1, ...down, ...up);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 " + (STEPS + 1) + " 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", name + " in the last hour: download at most " + bytes(Math.max(...down)) + "/s, upload at most " + bytes(Math.max(...up)) + "/s");
  svg.append(line(up, most, "up"), line(down, most, "down"));
  return svg;
}

function rate(now, then, seconds) {
  return then === undefined || seconds <= 0 ? 0 : Math.max(0, (now - then) / seconds);
}

function showHead(state) {
  at("machine").textContent = state.host;
  document.title = "pullgate" + (state.host ? " on " + state.host : "");
  const standing = at("standing");
  standing.textContent = state.phase + ", " + (state.enforcing ? "enforcing" : "report mode: not enforcing");
  standing.classList.toggle("bad", state.phase !== "serving" || !state.enforcing);
  at("about").textContent = "version " + state.version + ", up " + span(state["uptime-seconds"]) + ", policy generation " + state.generation;
  at("stale").hidden = !state.stale;
  at("stale").textContent = state.stale ? "The policy is stale. The current files were not loaded: " + state.stale : "";
  // A refusal concerns one host, and is among the failed sessions.
  const fails = (one) => one.trouble && one.trouble.reason !== "parent-refused";
  const down = state.parents.filter((one) => !one.up || fails(one)).map((one) => one.name
    + (one.up ? "" : ", no address can be reached")
    + (fails(one) ? ", for " + one.trouble.target + ": " + one.trouble.detail + " [" + one.trouble.reason + "]" : ""));
  at("parents").hidden = down.length === 0;
  at("parents").textContent = down.length ? "Parent proxies with failures: " + down.join("; ") : "";
}

function showRegistries(state, seconds) {
  const known = new Map(before ? before.registries.map((one) => [one.name, one.total]) : []);
  const sum = { down: 0, up: 0, hourDown: 0, hourUp: 0 };
  at("registries").replaceChildren(...state.registries.map((registry) => {
    // A registry without traffic before has moved nothing before.
    const then = known.get(registry.name) || (before ? { down: 0, up: 0 } : registry.total);
    const now = { down: rate(registry.total.down, then.down, seconds), up: rate(registry.total.up, then.up, seconds) };
    sum.down += now.down;
    sum.up += now.up;
    sum.hourDown += registry.hour.down;
    sum.hourUp += registry.hour.up;
    const file = registry.policy;
    const about = file ? count(file.hosts, "host", "hosts") + ", " + base(file.file) + (file.parent ? ", " + file.route : "") : "not a registry of the policy";
    const moved = registry.hour.down + registry.hour.up > 0;
    const drawing = cell("last hour", moved ? undefined : "no traffic", moved ? "" : "quiet");
    if (moved) drawing.append(chart(registry.name, now));
    return row("", registry.name, about,
      cell("download", bytes(now.down) + "/s", "number", bytes(registry.hour.down) + " in the last hour"),
      cell("upload", bytes(now.up) + "/s", "number", bytes(registry.hour.up) + " in the last hour"),
      drawing);
  }));
  at("rate-down").textContent = bytes(sum.down) + "/s";
  at("rate-up").textContent = bytes(sum.up) + "/s";
  at("hour-down").textContent = bytes(sum.hourDown) + " in the last hour";
  at("hour-up").textContent = bytes(sum.hourUp) + " in the last hour";
  const shown = state.registries.filter((one) => one.policy).length;
  const hidden = state["registries-count"] - shown;
  at("policy").textContent = count(state["registries-count"], "registry", "registries") + " in the policy, generation " + state.generation + (state.stale ? ", older than its files" : ", as its files say") + (hidden > 0 ? "; " + hidden + " are not shown: /policy" : "") + ".";
}

function showSessions(state, seconds) {
  const known = new Map(before ? before.sessions.map((one) => [one.id, one]) : []);
  at("sessions").replaceChildren(...state.sessions.map((session) => {
    const then = known.get(session.id) || {};
    const moved = (label, key) => cell(label, bytes(session[key]), "number", bytes(rate(session[key], then[key], seconds)) + "/s");
    return row("", session.target || "(no request yet)", session.registry,
      cell("client", session.client, "", session["client-name"]),
      cell("age", span(session.seconds), "number"),
      moved("download", "bytes-down"), moved("upload", "bytes-up"));
  }));
  const hidden = state.open - state.sessions.length;
  at("open").textContent = state.open;
  at("open-limit").textContent = "of " + state.limit;
  at("more").textContent = state.open === 0 ? "None." : hidden > 0 ? "and " + hidden + " more: /sessions" : "";
}

const REQUESTS = 20;

// The latest requests to the mirror, and of inspected tunnels.
function showRequests(state) {
  at("requests-section").hidden = state.requests.length === 0;
  const text = JSON.stringify(state.requests);
  if (drawn.get("requests") === text) return;
  drawn.set("requests", text);
  at("requests").replaceChildren(...state.requests.slice(0, REQUESTS).map((one) => {
    const digest = (one.reference || "").includes(":");
    const reference = one.reference ? (digest ? "@" + one.reference.slice(0, 19) + "\u2026" : ":" + one.reference) : "";
    const image = one.repository ? one.repository + reference : "-";
    const answer = one.outcome + (one.reason ? " [" + one.reason + "]" : "");
    return row(one.outcome, image, one.registry,
      cell("client", one.client, "", one["client-name"]), cell("time", one.time.slice(11, 19), "when"),
      cell("request", (one.method || "?") + " " + one.operation, "", one.via),
      cell("answer", answer, one.outcome === "relayed" ? "" : "code", "status " + one.status + ", " + Math.round(one.ms) + " ms"),
      cell("download", bytes(one["bytes-down"]), "number"));
  }));
  const hidden = state.requests.length - REQUESTS;
  at("more-requests").textContent = hidden > 0 ? "and " + hidden + " more: /requests" : "";
}

const INCIDENT_COLUMNS = [["time", "when"], ["host", "host"], ["client", "client"], ["reason", "reason"], ["count", "number"], ["id", "id"], ["what to do", "remedy"]];

function incident(one) {
  const when = cell("time", one.last.slice(11, 19), "when", one.last.slice(0, 10) + " UTC");
  when.title = one.last;
  const reason = cell("reason", undefined, "");
  reason.append(made("span", one.reason, "code"), made("small", one.meaning));
  if (one.detail) reason.append(made("small", one.outcome === "failed" ? "Seen: " + one.detail : "The answer said: " + one.detail));
  const id = cell("id", undefined, "");
  id.append(made("code", one.id || "-"));
  const element = row(one.outcome, one.host.replace(/:443$/, ""), undefined,
    cell("client", one.client, "", one["client-name"]), reason, cell("count", one.count, "number"), id, cell("what to do", plain(one.remedy), "remedy"));
  element.prepend(when);
  return element;
}

// Rows are made anew only if they changed, so that an id can be selected and copied.
function showIncidents(state) {
  for (const outcome of ["denied", "would-deny", "failed"]) {
    const rows = state.incidents.filter((one) => one.outcome === outcome);
    const text = JSON.stringify(rows);
    if (drawn.get(outcome) === text) continue;
    drawn.set(outcome, text);
    const head = made("thead");
    const titles = made("tr");
    for (const [title, kind] of INCIDENT_COLUMNS) {
      const element = made("th", title, kind);
      element.scope = "col";
      titles.append(element);
    }
    head.append(titles);
    const body = made("tbody");
    body.append(...rows.map(incident));
    const none = made("caption", "None.", "quiet");
    at(outcome + "-table").replaceChildren(...(rows.length ? [head, body] : [none]));
  }
  at("would-deny-section").hidden = state.enforcing && !state.incidents.some((one) => one.outcome === "would-deny");
  at("would-deny-figure").hidden = state.enforcing && state.ends["would-deny"] === 0;
  at("denied").textContent = state.ends.denied;
  at("would-deny").textContent = state.ends["would-deny"];
  at("failed").textContent = state.ends.failed;
  at("failed").classList.toggle("bad", state.ends.failed > 0);
}

function show(state) {
  const seconds = before ? (state.millis - before.millis) / 1000 : 0;
  if (state.history) history = state.history;
  showHead(state);
  showRegistries(state, seconds);
  showSessions(state, seconds);
  showRequests(state);
  showIncidents(state);
  before = state;
}

const events = new EventSource("/events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => {
  const standing = at("standing");
  standing.textContent = "the gate does not answer; retrying";
  standing.classList.add("bad");
};

const VERDICTS = { allowed: "\u2713 Allowed", "would-deny": "! Passes in report mode, would be denied", denied: "\u2717 Denied" };

function explained(way) {
  const block = made("div", undefined, "verdict " + way.verdict);
  const by = { mirror: " from the mirror", inspect: " in an inspected tunnel" }[way.way] || " through a tunnel";
  block.append(made("p", VERDICTS[way.verdict] + by + ": " + way.target + (way.reason ? " [" + way.reason + "]" : "")));
  if (way.registry) block.append(made("p", "Registry " + way.registry + ", " + way.endpoint + " endpoint, by " + base(way.place) + "."));
  if (way.meaning) block.append(made("p", way.meaning));
  if (way.remedy) block.append(made("p", "What to do: " + plain(way.remedy) + "."));
  if (way["docker-prints"]) block.append(made("p", "docker prints: " + way["docker-prints"]));
  return block;
}

at("explain").addEventListener("submit", async (event) => {
  event.preventDefault();
  const out = at("explained");
  try {
    const answer = await fetch("/explain?host=" + encodeURIComponent(at("host").value));
    const report = await answer.json();
    out.replaceChildren(...report.ways.map((way) => explained(way)));
  } catch (error) {
    out.replaceChildren(made("p", "the gate does not answer"));
  }
});
