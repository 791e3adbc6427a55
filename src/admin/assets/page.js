"use strict";
// Shows the data of /events. Text from clients is set only through textContent. Queries /explain
// when the form is submitted. Changes nothing.
const at = (id) => document.getElementById(id);
const SAMPLES = 120;
const SVG = "http://www.w3.org/2000/svg";
const history = new Map();
let before = null;

function made(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
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
  return Math.floor(seconds / 3600) + " h " + Math.floor(seconds % 3600 / 60) + " min";
}

function sparkline(samples, name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 " + (SAMPLES - 1) + " 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const most = Math.max(1, ...samples);
  svg.setAttribute("aria-label", name + ": at most " + bytes(Math.max(0, ...samples)) + " a second, now " + bytes(samples[samples.length - 1] || 0));
  const line = document.createElementNS(SVG, "polyline");
  const start = SAMPLES - samples.length;
  line.setAttribute("points", samples.map((value, index) => (start + index) + "," + (19 - 18 * value / most).toFixed(1)).join(" "));
  svg.append(line);
  return svg;
}

function rate(now, then, seconds) {
  return then === undefined || seconds <= 0 ? 0 : Math.max(0, (now - then) / seconds);
}

function show(state) {
  const seconds = before ? (state.millis - before.millis) / 1000 : 0;
  const standing = at("standing");
  standing.textContent = state.phase + (state.enforcing ? "" : ", report mode");
  standing.classList.toggle("bad", state.phase !== "serving" || !state.enforcing);
  const stale = at("stale");
  stale.hidden = !state.stale;
  stale.textContent = state.stale ? "The policy is stale. The current files were not loaded: " + state.stale : "";
  at("open").textContent = state.open + " of " + state.limit;
  at("generation").textContent = "generation " + state.generation;
  at("version").textContent = "pullgate " + state.version;

  let down = 0, up = 0;
  at("registries").replaceChildren(...state.registries.map((registry) => {
    const then = before && before.registries.find((one) => one.name === registry.name);
    const now = rate(registry.down, then && then.down, seconds);
    down += now;
    up += rate(registry.up, then && then.up, seconds);
    const samples = history.get(registry.name) || [];
    samples.push(now);
    if (samples.length > SAMPLES) samples.shift();
    history.set(registry.name, samples);
    const row = made("tr");
    const name = made("th", registry.name);
    name.scope = "row";
    const drawn = made("td");
    drawn.append(sparkline(samples, registry.name));
    row.append(name, made("td", bytes(registry.down), "number"), made("td", bytes(registry.up), "number"), drawn);
    return row;
  }));
  at("rate-down").textContent = bytes(down) + "/s";
  at("rate-up").textContent = bytes(up) + "/s";

  const known = new Map(before ? before.sessions.map((one) => [one.id, one]) : []);
  at("sessions").replaceChildren(...state.sessions.map((session) => {
    const then = known.get(session.id);
    const row = made("tr");
    row.append(
      made("td", session.target || "(no request yet)"), made("td", session.client),
      made("td", span(session.seconds), "number"), made("td", bytes(session["bytes-down"]), "number"),
      made("td", bytes(rate(session["bytes-down"], then && then["bytes-down"], seconds)) + "/s", "number"));
    return row;
  }));
  const hidden = state.open - state.sessions.length;
  at("more").textContent = state.open === 0 ? "None." : hidden > 0 ? "and " + hidden + " more: /sessions" : "";

  const denials = state.denials.map((denial) => {
    const item = made("li");
    item.append(made("strong", denial.host), made("span", " " + denial.reason + " ", "code"),
      made("span", denial.count === 1 ? "once" : denial.count + " times"),
      made("span", ", last at " + denial.last + " by " + denial.client + ". "),
      made("span", denial.meaning));
    if (denial.remedy) item.append(made("span", "Advice to the client: " + denial.remedy + ".", "remedy"));
    return item;
  });
  at("denials").replaceChildren(...(denials.length ? denials : [made("li", "None since the start.")]));

  at("policy").textContent = state.files.length + (state.files.length === 1 ? " registry" : " registries") + ", generation " + state.generation + (state.stale ? ", older than its files" : ", as its files say");
  at("files").replaceChildren(...state.files.map((file) => made("li", file.name + ": " + file.hosts + (file.hosts === 1 ? " host, " : " hosts, ") + file.file + (file.route === "direct" ? "" : ", " + file.route + (state.parents.some((one) => !one.up && file.route.startsWith("parent " + one.name + " ")) ? ", which cannot be reached" : "")))));
  before = state;
}

const events = new EventSource("/events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => {
  const standing = at("standing");
  standing.textContent = "the gate does not answer; retrying";
  standing.classList.add("bad");
};

at("explain").addEventListener("submit", async (event) => {
  event.preventDefault();
  const out = at("explained");
  try {
    const answer = await fetch("/explain?host=" + encodeURIComponent(at("host").value.trim()));
    const report = await answer.json();
    const lines = [made("p", report.target + ": " + report.verdict + (report.reason ? " [" + report.reason + "]" : ""))];
    if (report.registry) lines.push(made("p", "registry " + report.registry + ", " + report.endpoint + " endpoint, by " + report.place));
    if (report.meaning) lines.push(made("p", report.meaning));
    if (report["docker-prints"]) lines.push(made("p", "docker prints: " + report["docker-prints"]));
    out.replaceChildren(...lines);
  } catch (error) {
    out.replaceChildren(made("p", "the gate does not answer"));
  }
});
