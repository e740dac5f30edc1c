// Sending a request again, with changes, and the two answers side by side.

import { bytesOf, change, el, json, state, time, toast } from "/page/api.js";
import { field, textOf, unpacked } from "/page/body.js";

let isSending = false;

/** Sends a request again. Returns the number of the new exchange, or null. */
export async function replay(id, changes) {
  if (isSending) return null;
  isSending = true;
  toast("Sending …");
  try {
    const { id: again, left_out: leftOut } = await change("POST", `/api/exchanges/${id}/replay`, changes);
    toast(leftOut.length ? `Sent again without ${leftOut.join(", ")}: masked when recorded.` : "Sent again.");
    return again;
  } catch (error) {
    toast(`Not sent: ${error.message}`);
    return null;
  } finally {
    isSending = false;
  }
}

/** A form with the request, to be changed and sent. */
export async function editor(exchange, sent, cancel) {
  const body = await bytesOf(exchange.id, "request");
  const text = textOf(body);
  const fields = exchange.request_headers.map(([name, value]) => (value === null ? `${name}: ` : `${name}: ${value}`));
  const method = el("input", { value: exchange.method, "aria-label": "Method", class: "mono", name: "method" });
  const url = el("input", { value: exchange.url, "aria-label": "Path and query", class: "mono", name: "url" });
  const headers = el("textarea", { "aria-label": "Headers", rows: Math.min(16, fields.length + 1), name: "headers", spellcheck: "false" });
  headers.value = fields.join("\n");
  const content = el("textarea", { "aria-label": "Body", rows: 8, name: "body", disabled: text === null, spellcheck: "false" });
  content.value = text ?? "(bytes that are no text: sent as they are)";
  const original = content.value;
  const form = el("form", { class: "editor" },
    el("h2", {}, "Edit and send again"),
    exchange.replay_leaves_out.length
      ? el("p", { class: "note" }, `Masked when recorded, and left out while empty: ${exchange.replay_leaves_out.join(", ")}.`) : null,
    el("label", {}, "Request"), el("div", { class: "line" }, method, url),
    el("label", {}, "Headers, one a line"), headers,
    el("label", {}, "Body"), content,
    el("div", { class: "actions" }, el("button", { class: "main" }, "Send"), el("button", { type: "button", onclick: cancel }, "Cancel")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const masked = new Set(exchange.replay_leaves_out);
    const pairs = headers.value.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => {
      const colon = line.indexOf(":");
      return colon < 0 ? [line, ""] : [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
    });
    const changes = { method: method.value.trim(), url: url.value.trim(), headers: pairs.filter(([name, value]) => value || !masked.has(name.toLowerCase())) };
    // Unchanged bytes stay as they are; a text area knows one kind of line end.
    if (content.value !== original) changes.body = text.includes("\r\n") ? content.value.replaceAll("\n", "\r\n") : content.value;
    const again = await replay(exchange.id, changes);
    if (again !== null) sent(again);
  });
  return form;
}

/** Lines of two texts beside each other: those in common, and those of one alone. */
export function diff(before, after) {
  const [a, b] = [before, after];
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const [x, y] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  const same = (lines) => lines.map((line) => [line, line]);
  const middle = x.length * y.length > 4e6 ? unlike(x, y) : common(x, y);
  return [...same(a.slice(0, start)), ...middle, ...same(a.slice(a.length - end))];
}

function unlike(x, y) {
  return [...x.map((line) => [line, null]), ...y.map((line) => [null, line])];
}

/** The longest common subsequence. */
function common(x, y) {
  const width = y.length + 1;
  const best = new Uint32Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i--) {
    for (let j = y.length - 1; j >= 0; j--) {
      best[i * width + j] = x[i] === y[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  const out = [];
  let i = 0, j = 0;
  while (i < x.length && j < y.length) {
    if (x[i] === y[j]) out.push([x[i++], y[j++]]);
    else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) out.push([x[i++], null]);
    else out.push([null, y[j++]]);
  }
  return [...out, ...unlike(x.slice(i), y.slice(j))];
}

async function lines(exchange) {
  const { bytes, packed } = await unpacked(await bytesOf(exchange.id, "response"), field(exchange.response_headers, "content-encoding"), exchange.response_body.cut);
  const isCut = exchange.response_body.cut;
  let text = packed ? null : textOf(bytes, isCut);
  if (text === null) return [`(${exchange.response_body.length} bytes that are no text)`];
  if (/json/.test(field(exchange.response_headers, "content-type"))) {
    try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* as it is */ }
  }
  return text.split("\n").slice(0, 5000);
}

function block(title, pairs) {
  const row = ([left, right]) => el("div", { class: "line" },
    el("span", { class: left !== right && left !== null ? "del" : "" }, left ?? ""),
    el("span", { class: left !== right && right !== null ? "add" : "" }, right ?? ""));
  return el("div", { class: "diff" }, el("div", { class: "line title" }, el("span", {}, title), el("span", {})), ...pairs.map(row));
}

/** The answers of two exchanges side by side. */
export async function comparison(ofId, id) {
  const [before, after] = await Promise.all([json(`/api/exchanges/${ofId}`), json(`/api/exchanges/${id}`)]);
  const fields = (exchange) => exchange.response_headers.filter(([name]) => name !== "date").map(([name, value]) => `${name}: ${value ?? "(masked)"}`).sort();
  const [first, second] = await Promise.all([lines(before), lines(after)]);
  const status = [[state(before)[0], state(after)[0]]];
  const [kept, keptAfter] = await Promise.all([bytesOf(ofId, "response"), bytesOf(id, "response")]);
  const isEqual = kept.length === keptAfter.length && kept.every((byte, at) => byte === keptAfter[at]);
  const isCut = before.response_body.cut || after.response_body.cut;
  const isSame = fields(before).join("\n") === fields(after).join("\n") && isEqual && before.status === after.status
    && before.response_body.length === after.response_body.length;
  const same = isCut ? "as far as the bodies are kept" : "byte for byte";
  return el("div", { class: "comparison" },
    el("p", { class: "note" }, isSame ? `Request ${id} was answered as request ${ofId} was, ${same}.` : `Left the answer to request ${ofId}, right that to its replay ${id}.`),
    el("p", { class: "note" }, `It took ${time(before.timings_ms.whole)}, and then ${time(after.timings_ms.whole)}.`),
    block("Status", status), block("Headers", diff(fields(before), fields(after))), block("Body", diff(first, second)));
}
