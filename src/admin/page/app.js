// The list of exchanges, and what keys and buttons do.

import { change, el, follow, json, size, state, time, toast } from "/page/api.js";
import * as detail from "/page/detail.js";
import { saveHar } from "/page/export.js";
import { refresh } from "/page/status.js";

const ROW = 52;
const get = (id) => document.getElementById(id);
const [list, rows, search, requests] = ["list", "rows", "search", "requests"].map(get);

/** The URLs of tunnels, by their names. */
const urls = new Map();
/** All exchanges that are known, by number. */
const known = new Map();
/** The numbers of those that match the search, while there is one. */
let found = null;
/** The numbers of the rows, the newest first. */
let order = [];
let pressed = null, selected = null, since = null, oldest = 1, url = "", isDue = false, hasAll = false;

function sorted() {
  const ids = found ?? [...known.keys()];
  return ids.filter((id) => known.has(id)).sort((a, b) => b - a);
}

function draw() {
  isDue = false;
  // A press keeps its element, or there is no click.
  if (pressed !== null) return;
  order = sorted();
  rows.style.height = `${order.length * ROW}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(order.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  const shown = order.slice(first, last).map((id, index) => row(known.get(id), first + index));
  if (order.length === 0) {
    rows.replaceChildren(el("p", { class: "empty" }, found ? "No recorded request matches." : "Nothing has passed yet. Requests appear here as they come."));
  } else {
    rows.replaceChildren(...shown);
  }
  const what = order.length === 1 ? "1 request" : `${order.length} requests`;
  get("count").replaceChildren(found ? `${found.length >= 500 ? "the newest 500" : what} of ${known.size}` : what, " · ", el("a", { href: "#har", onclick: exportAll }, "save all as HAR"));
}

function redraw() {
  // What is pressed stays where it is.
  if (!isDue && pressed === null) {
    isDue = true;
    requestAnimationFrame(draw);
  }
}

function row(exchange, index) {
  const [words, kind] = state(exchange);
  const more = [exchange.replay_of ? `replay of ${exchange.replay_of}` : "", exchange.tunnel || "", (exchange.type || "").split(";")[0], size(exchange.response_bytes)];
  const line = el("div", { class: "row", role: "option", id: `row-${exchange.id}`, "aria-selected": String(exchange.id === selected), "data-id": exchange.id },
    el("span", { class: "method" }, exchange.method), el("span", { class: "path", title: exchange.url.slice(0, 500) }, exchange.url), el("span", { class: `state ${kind}` }, words),
    el("span", { class: "when" }, new Date(exchange.started_ms).toTimeString().slice(0, 8)), el("span", { class: "more" }, more.filter(Boolean).join(" · ")), el("span", { class: "took" }, time(exchange.took_ms)));
  line.style.top = `${index * ROW}px`;
  return line;
}

function select(id) {
  selected = id;
  location.hash = id === null ? "" : String(id);
  requests.classList.toggle("open", id !== null);
  if (id === null) detail.close();
  else detail.open(id);
  list.setAttribute("aria-activedescendant", id === null ? "" : `row-${id}`);
  redraw();
}

function move(step) {
  if (order.length === 0) return;
  const at = order.indexOf(selected);
  const next = at < 0 ? 0 : Math.max(0, Math.min(order.length - 1, at + step));
  select(order[next]);
  const top = next * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

function take({ since_ms: began, oldest: first, exchanges }) {
  if (since !== null && since !== began) {
    // Another agent, whose numbers begin anew.
    known.clear();
    found = null;
    search.value = "";
    select(null);
  }
  [since, oldest] = [began, first];
  for (const exchange of exchanges) {
    known.set(exchange.id, exchange);
    detail.changed(exchange);
  }
  for (const id of known.keys()) if (id < oldest) known.delete(id);
  // Not anew with each event, or it would never come to it.
  if (found && !finding) find(500);
  loadOlder();
  redraw();
}

let isLoading = false;

/** Loads what was recorded before the first event. */
async function loadOlder() {
  const lowest = Math.min(...known.keys());
  if (isLoading || hasAll || known.size === 0 || lowest <= oldest) return;
  isLoading = true;
  try {
    const { exchanges } = await json(`/api/exchanges?before=${lowest}`);
    for (const exchange of exchanges) known.set(exchange.id, exchange);
    hasAll = exchanges.length === 0;
  } finally {
    isLoading = false;
  }
  redraw();
  setTimeout(loadOlder, 50);
}

let finding = 0;

function find(pause = 150) {
  clearTimeout(finding);
  finding = setTimeout(async () => {
    const text = search.value.trim();
    finding = 0;
    if (!text) {
      found = null;
    } else {
      const { exchanges } = await json(`/api/exchanges?q=${encodeURIComponent(text)}`).catch(() => ({ exchanges: [] }));
      if (search.value.trim() !== text) return;
      for (const exchange of exchanges) if (!known.has(exchange.id)) known.set(exchange.id, exchange);
      found = exchanges.map((exchange) => exchange.id);
    }
    redraw();
  }, pause);
}

async function exportAll(event) {
  event.preventDefault();
  toast("Collecting …");
  toast(`Saved ${await saveHar(sorted(), siteOf)} exchanges.`);
}

/** The URL of a tunnel, by its name where there are several. */
function siteOf(tunnel) {
  return tunnel ? urls.get(tunnel) || "" : url;
}

function view(name) {
  for (const other of ["requests", "status"]) {
    get(other).hidden = other !== name;
    get(`show-${other}`).setAttribute("aria-pressed", String(other === name));
  }
  if (name === "status") look();
  else redraw();
}

async function look() {
  try {
    const status = await refresh();
    const tunnels = status.tunnels || [status];
    url = (tunnels[0].url || "").replace(/\/$/, "");
    for (const tunnel of tunnels) urls.set(tunnel.name, (tunnel.url || "").replace(/\/$/, ""));
    const site = get("site");
    site.hidden = !/^https?:\/\//.test(url);
    if (!site.hidden) {
      site.href = url;
      site.textContent = url;
    }
  } catch { /* shown by the light */ }
}

const KEYS = {
  "/": () => { view("requests"); search.focus(); search.select(); },
  j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1),
  r: () => detail.again(), e: () => detail.edit(), c: () => detail.copy(),
  s: () => view(get("status").hidden ? "status" : "requests"),
  Escape: () => { if (!get("status").hidden) view("requests"); else if (!detail.endEditing()) select(null); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || get("dialog").open) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (isTyping && event.key !== "Escape") return;
  if (isTyping) {
    event.target.blur();
    return;
  }
  const arrows = event.key.startsWith("Arrow");
  if (!(event.key in KEYS) || (arrows && document.activeElement !== list)) return;
  event.preventDefault();
  KEYS[event.key]();
});

detail.page.open = (id) => { view("requests"); select(id); };
detail.page.back = () => select(null);
detail.page.site = siteOf;
// A row may be another element between the press and the release.
list.addEventListener("pointerdown", (event) => {
  pressed = Number(event.target.closest(".row")?.dataset.id) || null;
});
list.addEventListener("click", (event) => {
  const id = pressed ?? (Number(event.target.closest(".row")?.dataset.id) || null);
  pressed = null;
  if (id !== null) select(id);
});
for (const name of ["pointerup", "pointercancel"]) {
  // Behind the click that a release makes.
  window.addEventListener(name, () => setTimeout(() => {
    pressed = null;
    redraw();
  }, 60));
}
list.addEventListener("scroll", redraw, { passive: true });
window.addEventListener("resize", redraw);
window.addEventListener("hashchange", () => {
  const id = Number(location.hash.slice(1)) || null;
  if (id !== selected) select(id);
});
search.addEventListener("input", () => find());
get("search-form").addEventListener("submit", (event) => { event.preventDefault(); list.focus(); });
get("show-requests").addEventListener("click", () => view("requests"));
get("show-status").addEventListener("click", () => view("status"));
get("clear").addEventListener("click", async () => {
  await change("DELETE", "/api/exchanges");
  known.clear();
  found = found && [];
  select(null);
});

window.addEventListener("unhandledrejection", (event) => toast(`The agent does not answer: ${event.reason?.message ?? ""}`));
const start = Number(location.hash.slice(1)) || null;
if (start) select(start);
else detail.close();
look();
setInterval(look, 5000);
follow(take, (isOn) => {
  get("live").textContent = isOn ? "live" : "no connection";
  get("live").classList.toggle("on", isOn);
  if (isOn) hasAll = false;
});
