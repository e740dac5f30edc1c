// How the tunnel is doing.

import { el, json, size, time } from "/page/api.js";

const view = document.getElementById("status");
const STEPS = 90;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

function facts(rows) {
  return el("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

function qr(rows) {
  const margin = 3, side = rows.length + 2 * margin;
  const cells = rows.flatMap((row, y) => [...row].map((cell, x) => (cell === "1" ? `M${x + margin} ${y + margin}h1v1h-1z` : ""))).join("");
  return el("svg", { class: "qr", viewBox: `0 0 ${side} ${side}`, "shape-rendering": "crispEdges", role: "img", "aria-label": "The URL as a QR code" }, el("path", { d: cells }));
}

function tunnel(tunnel) {
  const isWeb = /^https?:\/\//.test(tunnel.url || "");
  const link = isWeb ? el("a", { class: "big", href: tunnel.url, rel: "noreferrer", target: "_blank" }, tunnel.url) : el("p", { class: "big" }, tunnel.url || "no URL");
  return el("div", { class: "card" }, el("h2", {}, tunnel.name ? `Tunnel ${tunnel.name}` : "Tunnel"), link,
    facts([
      ["Sessions", tunnel.sessions], ["Connected", duration(tunnel.connected_seconds)],
      ["Ping", tunnel.ping_seconds === null ? "–" : time(tunnel.ping_seconds * 1000)], ["In flight", tunnel.in_flight],
      ["Retries", tunnel.totals.retries],
    ]),
    tunnel.qr ? qr(tunnel.qr) : null);
}

function servers(tunnels) {
  const rows = tunnels.flatMap((tunnel) => tunnel.upstreams.map((server) => el("div", { class: "server-line" },
    el("span", { class: server.up ? "light" : "light down" }),
    el("span", {}, `${server.url}${server.route && server.route !== "/" ? ` for ${server.route}` : ""}`),
    el("span", { class: "soft" }, server.up ? "up" : server.circuit === "closed" ? "down" : `circuit ${server.circuit}`))));
  return el("div", { class: "card" }, el("h2", {}, "Local servers"), ...(rows.length ? rows : [el("p", { class: "soft" }, "Requests are answered by the program itself.")]));
}

function totals(status, tunnels) {
  const sum = (name) => tunnels.reduce((all, tunnel) => all + tunnel.totals[name], 0);
  const { inspector } = status;
  return el("div", { class: "card" }, el("h2", {}, "Since the start"), el("p", { class: "big" }, `${sum("served")} served`),
    facts([
      ["Failed", sum("failed")], ["Refused", sum("refused")], ["Cancelled", sum("cancelled")], ["Replays", inspector.replays],
      ["Queued", status.queued], ["Up", duration(status.uptime_seconds)], ["Version", status.version],
      ["Records", `${size(inspector.memory_used)} of ${size(inspector.memory)}`],
    ]));
}

/** The samples as a series of 15 minutes, the oldest first. */
function series(history, value) {
  const out = new Array(STEPS).fill(0);
  for (const sample of history) out[STEPS - 1 - sample.age_seconds / 10] = value(sample) ?? 0;
  return out;
}

function graph(title, unit, lines) {
  const top = Math.max(...lines.flatMap(([, values]) => values), 0);
  const scale = top || 1;
  const points = (values) => values.map((value, index) => `${index},${(100 - (value / scale) * 94).toFixed(2)}`);
  const drawn = lines.map(([, values], index) => el("polyline", { class: `line ${["", "two", "three"][index]}`, points: points(values).join(" ") }));
  const area = lines.length === 1 ? [el("polygon", { class: "area", points: `0,100 ${points(lines[0][1]).join(" ")} ${STEPS - 1},100` })] : [];
  const names = lines.length > 1 ? el("div", { class: "names" }, ...lines.map(([name], index) => el("b", { class: ["", "two", "three"][index] }, name))) : null;
  return el("div", { class: "card graph" }, el("h2", {}, title), names,
    el("svg", { viewBox: `0 0 ${STEPS - 1} 100`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}, at most ${unit(top)}` }, ...area, ...drawn),
    el("div", { class: "axis" }, el("span", {}, "15 min ago"), el("span", {}, `at most ${unit(top)}`), el("span", {}, "now")));
}

function draw(status) {
  const tunnels = status.tunnels || [status];
  const { history } = status;
  const rate = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)}/s`;
  view.replaceChildren(
    el("div", { class: "cards" }, ...tunnels.map(tunnel), servers(tunnels), totals(status, tunnels)),
    el("div", { class: "cards graphs" },
      graph("Requests per second", rate, [["", series(history, (sample) => sample.requests / 10)]]),
      graph("Latency", time, [["p50", series(history, (s) => s.p50_ms)], ["p95", series(history, (s) => s.p95_ms)], ["p99", series(history, (s) => s.p99_ms)]]),
      graph("Failures per second", rate, [["", series(history, (sample) => sample.failures / 10)]]),
      graph("Bytes per second", (value) => `${size(Math.round(value))}/s`, [["", series(history, (sample) => (sample.request_bytes + sample.response_bytes) / 10)]])));
}

/** The agent's status, drawn where the view is open. */
export async function refresh() {
  const status = await json("/api/status");
  if (!view.hidden) draw(status);
  return status;
}
