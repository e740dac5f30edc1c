// Exchanges for other programs: a command line of curl, and HAR 1.2.

import { bytesOf, download, json } from "/page/api.js";
import { field, textOf } from "/page/body.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Fields that curl makes itself, or that were for one connection. */
const OWN = new Set(["host", "content-length", "connection", "transfer-encoding", "expect"]);

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

/** The line that sends a request again. Everything that came from a visitor is in single quotes. */
export function curlLine(exchange, body, site) {
  const words = ["curl", "--path-as-is", "-g", "-X", quoted(exchange.method), quoted(site + exchange.url)];
  for (const [name, value] of exchange.request_headers) {
    if (value !== null && !OWN.has(name)) words.push("-H", quoted(value === "" ? `${name};` : `${name}: ${value}`));
  }
  if (body.length === 0) return words.join(" ");
  const text = textOf(body);
  if (text !== null && !text.includes("\0")) return [...words, "--data-raw", quoted(text)].join(" ");
  return `printf %s ${quoted(base64(body))} | base64 -d | ${[...words, "--data-binary", "@-"].join(" ")}`;
}

function harBody(exchange, headers, bytes) {
  const text = textOf(bytes);
  const content = { size: bytes.length, mimeType: field(headers, "content-type") || "application/octet-stream" };
  return text === null ? { ...content, text: base64(bytes), encoding: "base64" } : { ...content, text };
}

function harEntry(exchange, request, response, site) {
  const list = (headers) => headers.map(([name, value]) => ({ name, value: value ?? "(masked)" }));
  const url = site + exchange.url;
  const query = exchange.url.includes("?") ? [...new URLSearchParams(exchange.url.slice(exchange.url.indexOf("?") + 1))] : [];
  const { queue, connect, first_byte: first, whole } = exchange.timings_ms;
  const wait = Math.max(0, (first ?? 0) - (connect ?? 0));
  const posted = harBody(exchange, exchange.request_headers, request);
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
      content: harBody(exchange, exchange.response_headers, response), redirectURL: field(exchange.response_headers, "location"),
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

export async function har(ids, site) {
  const entries = [];
  for (const id of ids) {
    try {
      const exchange = await json(`/api/exchanges/${id}`);
      entries.push(harEntry(exchange, await bytesOf(id, "request"), await bytesOf(id, "response"), site));
    } catch { /* it is not kept any more */ }
  }
  return { log: { version: "1.2", creator: { name: "tunnel-agent", version: "1" }, entries } };
}

export async function saveHar(ids, site) {
  const log = await har(ids, site);
  download(ids.length === 1 ? `exchange-${ids[0]}.har` : "exchanges.har", "application/json", JSON.stringify(log, null, 1));
  return log.log.entries.length;
}
