// Bodies, shown by their type. Bytes of visitors and servers become text and images, never HTML.

import { el, size } from "/page/api.js";

/** The value of a header field, or an empty string. */
export function field(headers, name) {
  const found = headers.find(([other]) => other === name);
  return (found && found[1]) || "";
}

/** Bytes without gzip or deflate; with a note where they cannot be read whole. */
export async function unpacked(bytes, encoding, isCut) {
  const kind = encoding.trim().toLowerCase();
  if (!kind || kind === "identity") return { bytes, note: "" };
  if (kind !== "gzip" && kind !== "x-gzip" && kind !== "deflate") {
    return { bytes, note: `Compressed with ${kind}, which this page does not unpack.`, packed: true };
  }
  for (const format of kind === "deflate" ? ["deflate", "deflate-raw"] : ["gzip"]) {
    const [out, failed] = await decompress(bytes, format);
    if (!failed || (out.length > 0 && isCut)) return { bytes: out, note: `Unpacked from ${kind}.` };
  }
  return { bytes, note: `Compressed with ${kind}, and broken.`, packed: true };
}

async function decompress(bytes, format) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format));
  const reader = stream.getReader();
  const parts = [];
  let failed = false, length = 0;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      parts.push(value);
      length += value.length;
      // What is small packed may be huge unpacked.
      if (length > 8 << 20) { reader.cancel(); break; }
    }
  } catch {
    failed = true;
  }
  return [new Uint8Array(await new Blob(parts).arrayBuffer()), failed];
}

/** Bytes as text; null where they are none. Of a body that is cut, the last character may be, too. */
export function textOf(bytes, isCut = false) {
  for (let less = 0; less < (isCut ? 4 : 1); less++) {
    try {
      const whole = bytes.subarray(0, Math.max(0, bytes.length - less));
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(whole);
    } catch { /* no text */ }
  }
  return null;
}

/** Shows bytes of this type in an element. Returns what else it could be shown as. */
export function show(bytes, type, into, how = "auto") {
  const name = type.split(";")[0].trim().toLowerCase();
  const text = textOf(bytes, true);
  const isText = text !== null && !text.includes("\0");
  const ways = [];
  if (isText && /json/.test(name)) ways.push("json");
  if (isText && name === "application/x-www-form-urlencoded") ways.push("form");
  if (/^multipart\//.test(name)) ways.push("parts");
  if (/^image\/(png|jpeg|gif|webp|avif|bmp|x-icon|vnd.microsoft.icon)$/.test(name)) ways.push("image");
  if (isText) ways.push("text");
  ways.push("hex");
  const way = ways.includes(how) ? how : ways[0];
  into.replaceChildren(...{ json, form, parts, image, text: plain, hex }[way](bytes, text, type));
  return [way, ways];
}

function plain(_, text) {
  const max = 400000;
  return [el("pre", {}, text.slice(0, max)), text.length > max ? el("p", { class: "note" }, "…") : null].filter(Boolean);
}

export function hex(bytes) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, 16384); at += 16) {
    const row = bytes.subarray(at, at + 16);
    const codes = [...row].map((byte) => byte.toString(16).padStart(2, "0"));
    const shown = [...row].map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${codes.slice(0, 8).join(" ").padEnd(23)}  ${codes.slice(8).join(" ").padEnd(23)}  ${shown}`);
  }
  const pre = el("pre", { class: "hex" }, lines.join("\n"));
  return bytes.length > 16384 ? [pre, el("p", { class: "note" }, `… and ${size(bytes.length - 16384)} more`)] : [pre];
}

function image(bytes, _, type) {
  const url = URL.createObjectURL(new Blob([bytes], { type: type.split(";")[0] }));
  const shown = el("img", { src: url, alt: "the image in this body" });
  shown.addEventListener("load", () => URL.revokeObjectURL(url));
  shown.addEventListener("error", () => shown.replaceWith(el("p", { class: "note" }, "The image is broken, or not all of it is kept.")));
  return [shown];
}

function table(pairs) {
  return el("table", { class: "fields" }, ...pairs.map(([name, value]) => el("tr", {}, el("td", {}, name), el("td", {}, value))));
}

function form(_, text) {
  return [table([...new URLSearchParams(text)])];
}

function json(bytes, text) {
  let value;
  try {
    // Numbers as they came, where the browser tells.
    value = JSON.parse(text, (_, item, context) => (typeof item === "number" && context ? new JsonNumber(context.source) : item));
  } catch {
    return plain(bytes, text);
  }
  const budget = { nodes: 20000 };
  return [el("div", { class: "json" }, node(value, null, 0, budget))];
}

class JsonNumber {
  constructor(source) {
    this.source = source;
  }
}

/** A value of JSON: objects and lists fold. */
function node(value, key, depth, budget) {
  const label = key === null ? "" : el("span", {}, el("span", { class: "key" }, typeof key === "string" ? JSON.stringify(key) : String(key)), ": ");
  if (budget.nodes-- <= 0) return el("div", { class: "entry" }, label, "…");
  if (value instanceof JsonNumber) return el("div", { class: "entry" }, label, el("span", { class: "number" }, value.source));
  if (value === null || typeof value !== "object") {
    const kind = typeof value === "string" ? "string" : typeof value === "number" ? "number" : "word";
    return el("div", { class: "entry" }, label, el("span", { class: kind }, JSON.stringify(value)));
  }
  const isList = Array.isArray(value);
  const entries = isList ? value.map((item, index) => [index, item]) : Object.entries(value);
  const what = isList ? `[${entries.length}]` : `{${entries.length}}`;
  if (entries.length === 0) return el("div", { class: "entry" }, label, isList ? "[]" : "{}");
  const fold = el("details", { open: depth < 2 }, el("summary", {}, label, el("span", { class: "soft" }, what)));
  const fill = () => {
    if (fold.childElementCount === 1) fold.append(...entries.map(([name, item]) => node(item, name, depth + 1, budget)));
  };
  if (fold.open) fill();
  fold.addEventListener("toggle", fill);
  return fold;
}

/** The parts of a multipart body (RFC 2046 §5.1). */
function parts(bytes, _, type) {
  const boundary = /boundary=(?:"([^"]+)"|([^;\s]+))/i.exec(type);
  if (!boundary) return hex(bytes);
  // One character a byte, so that places in the text are places in the bytes.
  const text = Array.from({ length: Math.ceil(bytes.length / 8192) }, (_, at) =>
    String.fromCharCode(...bytes.subarray(at * 8192, at * 8192 + 8192))).join("");
  const mark = `--${boundary[1] || boundary[2]}`;
  const shown = [];
  for (let at = text.indexOf(mark); at >= 0; ) {
    const from = at + mark.length;
    if (text.startsWith("--", from)) break;
    const next = text.indexOf(`\r\n${mark}`, from);
    const head = text.indexOf("\r\n\r\n", from);
    if (head < 0) break;
    const headers = text.slice(from, head).split("\r\n").filter(Boolean).map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim()];
    });
    const into = el("div");
    show(bytes.subarray(head + 4, next < 0 ? bytes.length : next), field(headers, "content-type") || "text/plain", into);
    shown.push(el("div", { class: "part" }, table(headers), into));
    at = next < 0 ? -1 : next + 2;
  }
  return shown.length ? shown : hex(bytes);
}
