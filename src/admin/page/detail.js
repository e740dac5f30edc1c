// One exchange.

import { bytesOf, el, json, size, state, time, toast } from "/page/api.js";
import { field, hex, show, unpacked } from "/page/body.js";
import { curlLine, saveHar } from "/page/export.js";
import { comparison, editor, replay } from "/page/replay.js";

const panel = document.getElementById("detail");
let shown = null, wanted = null, tab = "response", drawing = 0;

/** What else the page does with an exchange: shows another one, goes back to the list, knows the site's URL. */
export const page = { open: () => {}, back: () => {}, site: (_tunnel) => "" };

export function close() {
  shown = wanted = null;
  drawing++;
  panel.replaceChildren(el("p", { class: "empty" }, "Select a request to see it here."));
}

/** Shows an exchange. With `isFresh` it is another one than before. */
export async function open(id, isFresh = true) {
  const turn = ++drawing;
  wanted = id;
  let exchange;
  try {
    exchange = await json(`/api/exchanges/${id}`);
  } catch (error) {
    if (turn === drawing) panel.replaceChildren(back(), el("p", { class: "empty" }, error.status === 404 ? "This request is not kept any more." : error.message));
    return;
  }
  if (turn !== drawing) return;
  if (isFresh) tab = exchange.replay_of ? "compare" : exchange.messages.length ? "messages" : tab === "request" ? "request" : "response";
  const top = panel.scrollTop;
  shown = exchange;
  const content = el("div", { class: "content" });
  panel.replaceChildren(back(), head(exchange), actions(exchange), facts(exchange), ...timing(exchange), tabs(exchange, content), content);
  await fill(exchange, content, turn);
  panel.scrollTop = isFresh ? 0 : top;
}

let isPressed = false, isStale = false;
panel.addEventListener("pointerdown", () => (isPressed = true));
// Behind the click that a release makes.
window.addEventListener("pointerup", () => setTimeout(() => {
  isPressed = false;
  if (isStale && shown) open(shown.id, false);
  isStale = false;
}, 60));
window.addEventListener("pointercancel", () => (isPressed = false));

/** Draws the exchange again when it has changed, unless it is being edited, or pressed. */
export function changed(exchange) {
  if (isPressed) isStale = true;
  else if (shown && wanted === exchange.id && shown.id === wanted && shown.outcome === "pending" && !panel.querySelector(".editor")) open(exchange.id, false);
}

const back = () => el("button", { class: "back", type: "button", onclick: () => page.back() }, "← Requests");

function head(exchange) {
  const [words, kind] = state(exchange);
  return el("div", { class: "head" }, el("h2", {}, `${exchange.method} ${exchange.url}`), el("span", { class: `state ${kind}` }, words));
}

function actions(exchange) {
  const able = exchange.replayable && exchange.outcome !== "pending";
  const why = able ? null : "Its body is cut or not complete, it asked for another protocol, or it was not read";
  return el("div", { class: "actions" },
    el("button", { class: "main", type: "button", disabled: !able, title: why, onclick: again }, "Replay"),
    el("button", { type: "button", disabled: !able, title: why, onclick: edit }, "Edit and replay"),
    el("button", { type: "button", onclick: copy }, "Copy as curl"),
    el("button", { type: "button", onclick: () => saveHar([exchange.id], page.site) }, "HAR"));
}

function facts(exchange) {
  const rows = [
    ["Number", String(exchange.id)], ["Reason", exchange.reason && `${exchange.code ? `${exchange.code}: ` : ""}${exchange.reason}`],
    ["Host", exchange.host], ["Local server", exchange.upstream], ["Rule", exchange.verdict],
    ["Time", new Date(exchange.started_ms).toLocaleString()], ["In the log", exchange.request], ["Tunnel", exchange.tunnel],
  ];
  const list = el("dl", { class: "facts" }, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  if (exchange.replay_of) {
    list.append(el("dt", {}, "Replay of"), el("dd", {}, el("button", { type: "button", onclick: () => page.open(exchange.replay_of) }, `request ${exchange.replay_of}`)));
  }
  return list;
}

function timing(exchange) {
  const { queue, connect, first_byte: first, whole } = exchange.timings_ms;
  if (whole === null || first === null) return [];
  const parts = [
    ["queue", "queue", queue ?? 0], ["connect", "connect", connect ?? 0],
    ["wait", "first byte", Math.max(0, first - (connect ?? 0))], ["rest", "body", Math.max(0, whole - first - (queue ?? 0))],
  ].filter(([kind]) => kind !== "connect" || connect !== null);
  const bar = el("div", { class: "timing" });
  for (const [kind, , took] of parts) {
    const part = el("i", { class: kind });
    part.style.flexGrow = String(took);
    if (took > 0) bar.append(part);
  }
  const legend = parts.map(([kind, name, took]) => el("span", { class: kind }, el("i"), `${name} ${time(took)}`));
  return [bar, el("p", { class: "legend" }, ...legend, el("span", {}, `whole ${time(whole)}`))];
}

function tabs(exchange, content) {
  const names = [["response", "Response"], ["request", "Request"]];
  if (exchange.messages.length) names.push(["messages", `Messages ${exchange.messages.length + exchange.messages_dropped}`]);
  if (exchange.replay_of) names.push(["compare", "Compare"]);
  if (!names.some(([name]) => name === tab)) tab = "response";
  const bar = el("div", { class: "tabs", role: "tablist" });
  for (const [name, title] of names) {
    bar.append(el("button", { type: "button", role: "tab", "data-tab": name, "aria-selected": String(name === tab), onclick: () => {
      tab = name;
      for (const button of bar.children) button.setAttribute("aria-selected", String(button.dataset.tab === tab));
      fill(exchange, content, drawing);
    } }, title));
  }
  return bar;
}

async function fill(exchange, content, turn) {
  const made = tab === "messages" ? messages(exchange) : tab === "compare" ? [await compare(exchange)] : await side(exchange, tab);
  if (turn === drawing) content.replaceChildren(...made);
}

async function compare(exchange) {
  try {
    return await comparison(exchange.replay_of, exchange.id);
  } catch {
    return el("p", { class: "empty" }, "The request that it repeats is not kept any more.");
  }
}

function fields(headers) {
  if (!headers.length) return el("p", { class: "note" }, "No headers are recorded.");
  return el("table", { class: "fields" }, ...headers.map(([name, value]) =>
    el("tr", {}, el("td", {}, name), value === null ? el("td", { class: "masked" }, "masked") : el("td", {}, value))));
}

async function side(exchange, of) {
  const [headers, body] = of === "request" ? [exchange.request_headers, exchange.request_body] : [exchange.response_headers, exchange.response_body];
  if (body.length === 0) return [fields(headers), el("p", { class: "note" }, body.complete ? "No body." : "No body so far.")];
  const got = await unpacked(await bytesOf(exchange.id, of), field(headers, "content-encoding"), body.cut);
  const notes = [got.note, body.cut ? `The first ${size(body.kept)} of ${size(body.length)} are kept.` : "", body.complete ? "" : "The end has not passed."];
  const into = el("div", { class: "body" });
  const bar = el("div", { class: "body-bar" }, el("h3", {}, `Body, ${size(body.length)}`));
  const type = got.packed ? "application/octet-stream" : field(headers, "content-type");
  const draw = (how) => {
    const [way, ways] = show(got.bytes, type, into, how);
    bar.replaceChildren(bar.firstChild, ...(ways.length > 1 ? ways : []).map((name) =>
      el("button", { type: "button", disabled: name === way, onclick: () => draw(name) }, name)));
  };
  draw("auto");
  const note = notes.filter(Boolean).join(" ");
  return [fields(headers), bar, note ? el("p", { class: "note" }, note) : null, into].filter(Boolean);
}

function messages(exchange) {
  const out = exchange.messages_dropped ? [el("p", { class: "note" }, `${exchange.messages_dropped} earlier ones are not kept.`)] : [];
  for (const message of exchange.messages) {
    const what = [message.from === "visitor" ? "→ from the visitor" : "← from the server", message.kind + (message.event ? ` ${message.event}` : ""), size(message.length), time(message.after_ms)];
    const bytes = message.base64 ? Uint8Array.from(atob(message.base64), (c) => c.charCodeAt(0)) : null;
    const cut = message.kept < message.length && message.text !== null ? " …" : "";
    out.push(el("div", { class: `message ${message.from}` }, el("div", { class: "what" }, ...what.map((word) => el("span", {}, word))),
      ...(bytes ? (bytes.length ? hex(bytes) : []) : [el("pre", {}, (message.text ?? "") + cut)])));
  }
  return out;
}

const isEditing = () => panel.querySelector("form.editor") !== null;

/** Ends editing. Whether there was something to end. */
export function endEditing() {
  if (!isEditing()) return false;
  open(shown.id);
  return true;
}

export async function again() {
  if (!shown || isEditing()) return;
  if (!shown.replayable || shown.outcome === "pending") return toast("This one cannot be sent again.");
  const of = shown.id;
  const id = await replay(of, {});
  // Unless another one is looked at by now.
  if (id !== null && wanted === of) page.open(id);
}

export async function edit() {
  if (!shown || isEditing()) return;
  if (!shown.replayable || shown.outcome === "pending") return toast("This one cannot be sent again.");
  const exchange = shown;
  panel.replaceChildren(await editor(exchange, (id) => page.open(id), () => open(exchange.id)));
  panel.querySelector("input[name=url]").focus();
}

export async function copy() {
  if (!shown) return;
  const site = page.site(shown.tunnel) || shown.upstream || `http://${shown.host}`;
  const [line, lacks] = curlLine(shown, await bytesOf(shown.id, "request"), site);
  try {
    await navigator.clipboard.writeText(line);
    toast(lacks.length ? `Copied as a line of curl, without ${lacks.join(", ")}.` : "Copied as a line of curl.");
  } catch {
    const area = el("textarea", { rows: 8, readonly: true, "aria-label": "curl" });
    area.value = line;
    panel.prepend(el("div", { class: "editor" }, area));
    area.select();
  }
}
