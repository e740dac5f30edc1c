// Exchanges for other programs: a command line of curl, and HAR 1.2.

import { bytesOf, download, json } from "/page/api.js";
import { field, textOf, unpacked } from "/page/body.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Fields that curl makes itself, or that were for one connection. */
const OWN = new Set(["host", "content-length", "connection", "transfer-encoding", "expect"]);

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

/** Characters that a terminal obeys even where they are pasted in quotes, or that change how a line reads. */
const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;

/**
 * The line that sends a request again, and what it lacks. Everything that came from a visitor is in single quotes, and what a
 * terminal could obey is not in the line as it is.
 */
export function curlLine(exchange, body, site) {
  const lacks = [];
  const url = exchange.url.replace(/[^!-~]/gu, (c) => encodeURIComponent(c));
  const method = exchange.method === "HEAD" ? ["--head"] : ["-X", quoted(exchange.method)];
  const words = ["curl", "--path-as-is", "-g", ...method, quoted(site + url)];
  for (const [name, value] of exchange.request_headers) {
    if (OWN.has(name) || name === "x-real-ip" || name.startsWith("x-forwarded-")) continue;
    if (value === null || UNSAFE.test(value) || value.includes("\n")) lacks.push(name);
    else words.push("-H", quoted(value === "" ? `${name};` : `${name}: ${value}`));
  }
  if (exchange.request_body.cut) lacks.push("the rest of the body");
  if (body.length === 0) return [words.join(" "), lacks];
  const text = textOf(body);
  if (text !== null && !UNSAFE.test(text)) return [[...words, "--data-raw", quoted(text)].join(" "), lacks];
  return [`printf %s ${quoted(base64(body))} | base64 -d | ${[...words, "--data-binary", "@-"].join(" ")}`, lacks];
}

/** The content of a body, unpacked. */
async function harBody(body, headers, packed) {
  const { bytes, note } = await unpacked(packed, field(headers, "content-encoding"), body.cut);
  const text = textOf(bytes);
  const notes = [note, body.cut ? `the first ${body.kept} of ${body.length} bytes` : ""].filter(Boolean).join(" ");
  const content = { size: bytes.length, mimeType: field(headers, "content-type") || "application/octet-stream", ...(notes ? { comment: notes } : {}) };
  return text === null ? { ...content, text: base64(bytes), encoding: "base64" } : { ...content, text };
}

async function harEntry(exchange, request, response, site) {
  const list = (headers) => headers.map(([name, value]) => ({ name, value: value ?? "", ...(value === null ? { comment: "masked" } : {}) }));
  const url = site + exchange.url;
  const query = exchange.url.includes("?") ? [...new URLSearchParams(exchange.url.slice(exchange.url.indexOf("?") + 1))] : [];
  const { queue, connect, first_byte: first, whole } = exchange.timings_ms;
  const wait = Math.max(0, (first ?? 0) - (connect ?? 0));
  const posted = await harBody(exchange.request_body, exchange.request_headers, request);
  const content = await harBody(exchange.response_body, exchange.response_headers, response);
  return {
    startedDateTime: new Date(exchange.started_ms).toISOString(),
    time: whole ?? 0,
    request: {
      method: exchange.method, url, httpVersion: "HTTP/1.1", cookies: [], headers: list(exchange.request_headers),
      queryString: query.map(([name, value]) => ({ name, value })), headersSize: -1, bodySize: exchange.request_body.length,
      ...(request.length ? { postData: { mimeType: posted.mimeType, text: posted.text, ...(posted.encoding ? { comment: "base64" } : {}) } } : {}),
    },
    response: {
      status: exchange.status ?? 0, statusText: "", httpVersion: "HTTP/1.1", cookies: [], headers: list(exchange.response_headers),
      content, redirectURL: field(exchange.response_headers, "location"),
      headersSize: -1, bodySize: exchange.response_body.length,
      ...(exchange.reason ? { comment: `${exchange.code ?? exchange.outcome}: ${exchange.reason}` } : {}),
    },
    cache: {},
    timings: {
      blocked: queue ?? -1, dns: -1, connect: connect ?? -1, ssl: -1, send: 0, wait,
      receive: Math.max(0, (whole ?? 0) - (queue ?? 0) - (first ?? 0)),
    },
    comment: exchange.replay_of ? `a replay of ${exchange.replay_of}` : exchange.request,
  };
}

/** The exchanges as HAR; `site` gives the URL of a tunnel. */
export async function har(ids, site) {
  const entries = [];
  for (const id of ids) {
    try {
      const exchange = await json(`/api/exchanges/${id}`);
      entries.push(await harEntry(exchange, await bytesOf(id, "request"), await bytesOf(id, "response"), site(exchange.tunnel)));
    } catch (error) {
      // It is not kept any more.
      if (error.status !== 404) throw error;
    }
  }
  return { log: { version: "1.2", creator: { name: "tunnel-agent", version: "1" }, entries } };
}

export async function saveHar(ids, site) {
  const log = await har(ids, site);
  download(ids.length === 1 ? `exchange-${ids[0]}.har` : "exchanges.har", "application/json", JSON.stringify(log, null, 1));
  return log.log.entries.length;
}
