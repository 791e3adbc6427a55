"use strict";
// Shows what /events tells, and never anything but text: whatever a client chose goes through
// textContent. It asks for /explain when told to, and changes nothing.
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

function show(told) {
  const seconds = before ? (told.millis - before.millis) / 1000 : 0;
  const standing = at("standing");
  standing.textContent = told.phase + (told.enforcing ? "" : ", only reporting");
  standing.classList.toggle("bad", told.phase !== "serving" || !told.enforcing);
  const stale = at("stale");
  stale.hidden = !told.stale;
  stale.textContent = told.stale ? "The policy is stale. What the files say is not in force: " + told.stale : "";
  at("open").textContent = told.open + " of " + told.limit;
  at("generation").textContent = "generation " + told.generation;
  at("version").textContent = "pullgate " + told.version;

  let down = 0, up = 0;
  at("registries").replaceChildren(...told.registries.map((registry) => {
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
  at("sessions").replaceChildren(...told.sessions.map((session) => {
    const then = known.get(session.id);
    const row = made("tr");
    row.append(
      made("td", session.target || "(no request yet)"), made("td", session.client),
      made("td", span(session.seconds), "number"), made("td", bytes(session["bytes-down"]), "number"),
      made("td", bytes(rate(session["bytes-down"], then && then["bytes-down"], seconds)) + "/s", "number"));
    return row;
  }));
  const hidden = told.open - told.sessions.length;
  at("more").textContent = told.open === 0 ? "None." : hidden > 0 ? "and " + hidden + " more: /sessions" : "";

  const denials = told.denials.map((denial) => {
    const item = made("li");
    item.append(made("strong", denial.host), made("span", " " + denial.reason + " ", "code"),
      made("span", denial.count === 1 ? "once" : denial.count + " times"),
      made("span", ", last at " + denial.last + " by " + denial.client + ". "),
      made("span", denial.meaning));
    if (denial.remedy) item.append(made("span", "The client was told: " + denial.remedy + ".", "remedy"));
    return item;
  });
  at("denials").replaceChildren(...(denials.length ? denials : [made("li", "None since the start.")]));

  at("policy").textContent = told.files.length + (told.files.length === 1 ? " registry" : " registries") + ", generation " + told.generation + (told.stale ? ", older than its files" : ", as its files say");
  at("files").replaceChildren(...told.files.map((file) => made("li", file.name + ": " + file.hosts + (file.hosts === 1 ? " host, " : " hosts, ") + file.file)));
  before = told;
}

const events = new EventSource("/events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => {
  const standing = at("standing");
  standing.textContent = "the gate does not answer; trying again";
  standing.classList.add("bad");
};

at("explain").addEventListener("submit", async (event) => {
  event.preventDefault();
  const out = at("explained");
  try {
    const answer = await fetch("/explain?host=" + encodeURIComponent(at("host").value.trim()));
    const told = await answer.json();
    const lines = [made("p", told.target + ": " + told.verdict + (told.reason ? " [" + told.reason + "]" : ""))];
    if (told.registry) lines.push(made("p", "registry " + told.registry + ", " + told.endpoint + " endpoint, by " + told.place));
    if (told.meaning) lines.push(made("p", told.meaning));
    if (told["docker-prints"]) lines.push(made("p", "docker prints: " + told["docker-prints"]));
    out.replaceChildren(...lines);
  } catch (error) {
    out.replaceChildren(made("p", "the gate does not answer"));
  }
});
