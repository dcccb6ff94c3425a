// What a click on a rule shows. SPDX-License-Identifier: GPL-3.0-or-later

import uPlot from "uplot";
import { $, element, say } from "./dom.js";
import { bitsText, known, lostText, number, withGaps } from "./model.js";

const EVERY = 5000; // milliseconds between two looks at the past
let name = null;
let timer = 0;
let turn = 0; // of what is shown: answers for an earlier one come too late
const charts = {};

export function begin() {
  $("close").addEventListener("click", () => $("panel").close());
  $("panel").addEventListener("close", () => {
    name = null;
    turn += 1;
    clearTimeout(timer);
    for (const each of Object.keys(charts)) drop(each);
  });
  $("explain").addEventListener("click", explain);
  $("copy").addEventListener("click", copy);
}

export function show(rule) {
  name = rule;
  turn += 1;
  clearTimeout(timer);
  say($("panel-title"), name);
  say($("explaining"), "");
  for (const id of ["explained", "journal", "panel-outputs", "panel-health"]) $(id).replaceChildren();
  $("explained").hidden = $("copy").hidden = true;
  if (!$("panel").open) $("panel").showModal();
  update();
  refresh(turn);
  journal();
}

/** What the last event says of it. */
export function update() {
  const rule = name === null ? null : known.rules.get(name);
  if (name === null) return;
  if (!rule) return say($("panel-state"), "This rule is gone.");
  say($("panel-about"), rule.about);
  const used = { true: "in use; ", false: "not in use; " }[rule.used] || "";
  say($("panel-state"), `${rule.state}${rule.reason ? `: ${rule.reason}` : ""}; ${used}${number(rule.packets)} packets/s, ${bitsText(rule.bits)}, at most ${number(rule.peak)} packets in 10 ms; from ${rule.interface} ${rule.source}`);
}

async function ask(what, options = {}) {
  const answer = await fetch(`${what}/${encodeURIComponent(name)}`, options);
  if (!answer.ok) throw new Error((await answer.text()).trim() || `the server says ${answer.status}`);
  return answer;
}

async function refresh(mine) {
  try {
    const found = await (await ask("rule")).json();
    if (mine !== turn) return;
    if (found.seconds) chart("chart-seconds", found.seconds, 3);
    if (found.minutes) chart("chart-minutes", found.minutes, 90);
    outputs(found);
    health(found);
  } catch (error) {
    if (mine === turn) say($("panel-health"), String(error.message));
  }
  if (mine === turn) timer = setTimeout(refresh, EVERY, mine);
}

function outputs(found) {
  const lines = [found.trouble || `received ${number(found.received)}${lostOf(found.dropped)}`];
  for (const output of found.outputs) {
    const skipped = Object.keys(output.skipped).length ? `; skipped: ${lostText(output.skipped)}` : "";
    const refused = output.refused ? `; ${number(output.refused)} ICMP errors` : "";
    lines.push(`${output.where}: sent ${number(output.sent)}${lostOf(output.lost)}${skipped}${refused}`);
  }
  $("panel-outputs").replaceChildren(...lines.map((line) => element("li", {}, line)));
}

function lostOf(lost) {
  return Object.keys(lost).length ? `; lost: ${lostText(lost)}` : "; nothing lost";
}

function health(found) {
  const lines = found.health.length ? [element("h3", {}, "Health of the stream"), element("ul", {}, ...found.health.map((line) => element("li", {}, line)))] : [];
  $("panel-health").replaceChildren(...lines);
}

function colour(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

/** Draws it; `away` are seconds without a point in which mcrd was away. */
function chart(id, series, away) {
  const target = $(id);
  const data = withGaps(series, away);
  const most = Math.max(0, ...series.bits);
  const peak = Math.max(0, ...series.peak);
  target.setAttribute("aria-label", `at most ${bitsText(most)}, and ${number(peak)} packets in 10 ms`);
  if (charts[id]) return charts[id].setData(data);
  const span = id === "chart-seconds" ? 600 : 86400;
  const clock = (_, marks) => marks.map((at) => new Date(at * 1000).toLocaleTimeString("sv").slice(0, 5));
  const axis = { stroke: colour("--text"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  charts[id] = new uPlot({
    width: target.clientWidth || 480,
    height: 150,
    cursor: { y: false },
    scales: { x: { time: true, range: (_, low, high) => [(high || 0) - span, high || 0] }, peak: { range: (_, low, high) => [0, Math.max(1, high)] }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    series: [{ value: (_, at) => (at ? new Date(at * 1000).toLocaleTimeString("sv") : "") }, { label: "rate", stroke: colour("--active"), fill: colour("--fill"), width: 2, points: { show: series.at.length < 3 }, value: (_, bits) => (bits === null ? "" : bitsText(bits)) },
      { label: "peak in 10 ms", scale: "peak", stroke: colour("--waiting"), width: 1, points: { show: false }, value: (_, count) => (count === null ? "" : number(count)) }],
    axes: [{ ...axis, values: clock }, { ...axis, size: 76, values: (_, marks) => marks.map(bitsText) }, { ...axis, scale: "peak", side: 1, grid: { show: false } }],
  }, data, target);
}

function drop(id) {
  charts[id].destroy();
  delete charts[id];
}

async function journal() {
  const asked = name;
  let text;
  try {
    const lines = await (await ask("journal")).json();
    text = lines.map(([at, , line]) => `${new Date(at * 1000).toLocaleString("sv")}  ${line}`).join("\n") || "No lines about this rule.";
  } catch (error) {
    text = error.message;
  }
  if (asked === name) say($("journal"), text);
}

async function explain() {
  const button = $("explain");
  if (button.getAttribute("aria-disabled") === "true") return;
  const asked = name;
  button.setAttribute("aria-disabled", "true"); // `disabled` would take the focus away
  say($("explaining"), "Looking for some seconds…");
  let text;
  try {
    text = await (await ask("explain", { method: "POST", headers: { "X-Mcrd": "1" } })).text();
  } catch (error) {
    text = error.message;
  }
  button.removeAttribute("aria-disabled");
  if (asked !== name) return;
  say($("explaining"), "Done: see below.");
  $("explained").hidden = $("copy").hidden = false;
  say($("explained"), text);
}

async function copy() {
  const text = $("explained").textContent;
  try {
    await navigator.clipboard.writeText(text); // over https, or from this host
  } catch {
    const range = document.createRange();
    range.selectNodeContents($("explained"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }
}
