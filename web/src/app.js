// The page of mcrd-web. SPDX-License-Identifier: GPL-3.0-or-later

import "uplot/dist/uPlot.min.css";
import "./app.css";
import { begin, draw } from "./diagram.js";
import { $, element, keep, say } from "./dom.js";
import { bitsText, chosen, folded, foremost, known, largest, number, take } from "./model.js";
import * as panel from "./panel.js";
import * as table from "./table.js";

const SILENCE = 10000; // milliseconds without an event after which the page says so
let last = Date.now();
let wanted = false;

function pick(node) {
  const each = node.each || node;
  if (each.rule) return panel.show(each.rule.name);
  if (each.stream) return panel.show(foremost(each.rules).name);
  if (each.group) table.choose("group", each.group);
  else if (node.column !== undefined && node.column !== 1) table.choose("interface", node.id.slice(2));
  show();
}

function pickRow(each) {
  if (each.rule) return panel.show(each.rule.name);
  table.open[table.open.has(each.id) ? "delete" : "add"](each.id);
  show();
}

/** Draws soon; once, however often it is asked for. */
function show() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => {
    wanted = false;
    const rules = chosen(table.filter);
    const shown = folded(rules, table.open);
    table.fillChoices();
    table.fillTable(shown, pickRow, rules.length);
    draw(largest(shown), pick);
    head();
    happenings();
    panel.update();
  });
}

function head() {
  const rules = [...known.rules.values()];
  const sum = (name) => rules.reduce((all, rule) => all + rule[name], 0);
  const { trouble, problems = [], version, summary } = known.head;
  say($("summary"), trouble ? "mcrd does not answer" : `${summary || ""}`);
  const totals = { Rules: number(rules.length), "packets/s": number(sum("packets")), Rate: bitsText(sum("bits")), Version: version || "" };
  keep($("totals"), Object.keys(totals),
    (name) => element("div", {}, element("dt", {}, name), element("dd")), (each, name) => say(each.lastChild, totals[name]));
  const silent = Date.now() - last > SILENCE ? "The connection to mcrd-web is lost." : "";
  const text = silent || trouble || problems.map((each) => `Rule file: ${each}`).join("\n");
  document.body.classList.toggle("stale", Boolean(silent || trouble));
  $("trouble").hidden = !text;
  say($("trouble"), text);
}

function happenings() {
  const lines = [...known.happenings].reverse();
  $("quiet").hidden = lines.length > 0;
  const byKey = new Map(lines.map((each) => [`${each.at} ${each.text}`, each]));
  keep($("happenings"), [...byKey.keys()], (key) => {
    const each = byKey.get(key);
    const at = new Date(each.at * 1000);
    return element("li", { class: each.kind }, element("time", { datetime: at.toISOString() }, at.toLocaleTimeString("sv")), " ", each.text);
  }, () => {});
}

function listen() {
  const source = new EventSource("events");
  source.addEventListener("message", (event) => {
    last = Date.now();
    take(JSON.parse(event.data));
    show();
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
}

begin();
table.begin(show);
panel.begin();
listen();
setInterval(show, SILENCE / 2);
new ResizeObserver(show).observe($("flows"));
