// The API of the admin server, and small helpers.

const KEY = "tunnel-agent-token";

export class ApiError extends Error {
  constructor(status, body) {
    super(body.error || `status ${status}`);
    this.status = status;
    this.code = body.code;
  }
}

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

export async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers || {}) });
  if (response.status === 401) {
    await askForToken();
    return ask(path, options);
  }
  if (!response.ok) {
    throw new ApiError(response.status, await response.json().catch(() => ({})));
  }
  return response;
}

export async function json(path, options) {
  return (await ask(path, options)).json();
}

/** A request that changes something. */
export function change(method, path, body) {
  const fields = { "x-tunnel-inspector": "1", "content-type": "application/json" };
  return json(path, { method, headers: fields, body: body === undefined ? undefined : JSON.stringify(body) });
}

export async function bytesOf(id, of) {
  return new Uint8Array(await (await ask(`/api/exchanges/${id}/body?of=${of}`)).arrayBuffer());
}

const seen = () => new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));

/** Calls `take` with each event, and `state` when the connection comes and goes; for ever. */
export async function follow(take, state) {
  for (let pause = 500; ; pause = Math.min(pause * 2, 10000)) {
    try {
      // A browser has few connections for one server: a page that is not seen keeps none.
      while (document.hidden) await seen();
      const stop = new AbortController();
      const hide = () => document.hidden && stop.abort();
      document.addEventListener("visibilitychange", hide, { signal: stop.signal });
      const response = await ask("/api/events", { signal: stop.signal });
      state(true);
      pause = 500;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events) if (event.startsWith("data: ")) take(JSON.parse(event.slice(6)));
      }
    } catch (error) {
      console.debug(error);
    }
    if (document.hidden) continue;
    state(false);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

let asking = null;

function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("dialog");
    const input = el("input", { type: "password", autocomplete: "off", required: true, "aria-label": "Admin token" });
    const form = el("form", { method: "dialog" },
      el("h2", {}, "Admin token"),
      el("p", { class: "soft" }, sessionStorage.getItem(KEY) ? "That was another token. Which one has the agent (--admin-token-file)?" : "The agent runs with --admin-token-file. The token stays in this tab."),
      input, el("button", { class: "main" }, "Open"));
    form.addEventListener("submit", () => {
      sessionStorage.setItem(KEY, input.value.trim());
      asking = null;
      resolve();
    });
    dialog.replaceChildren(form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
  });
  return asking;
}

/** An element. What is given as text is text, whatever is in it. */
export function el(tag, properties = {}, ...children) {
  const element = tag === "svg" || tag === "path" || tag === "polyline" || tag === "polygon"
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    bytes /= 1000;
    if (bytes < 999.5) return `${bytes.toFixed(bytes < 10 ? 1 : 0)} ${unit}`;
  }
  return `${bytes.toFixed(0)} GB`;
}

export function time(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${(ms / 60000).toFixed(1)} min`;
}

/** The words and the class for what became of an exchange. */
export function state(exchange) {
  const { outcome, status } = exchange;
  if (outcome === "pending") return [status ? `${status} …` : "…", "soft"];
  if (outcome === "cancelled") return ["cancelled", "warn"];
  if (outcome === "failed") return ["failed", "bad"];
  const kind = status >= 500 ? "bad" : status >= 400 ? "warn" : "good";
  return [outcome === "refused" ? `${status} refused` : `${status}`, kind];
}

let hiding = 0;

export function toast(text) {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (toast.hidden = true), 4000);
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
