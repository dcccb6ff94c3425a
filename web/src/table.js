// The rules as a table, and the filters. SPDX-License-Identifier: GPL-3.0-or-later

import { $, element, keep, say, set } from "./dom.js";
import { STATES, bitsText, called, known, lostIn, lostText, number, worst } from "./model.js";

const ROWS_MOST = 300;
export const filter = { search: "", interface: "", group: "", states: new Set() };
export const open = new Set();

/** Makes the filters work; `changed` is called when one did. */
export function begin(changed) {
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["search", "interface", "group"]) {
    $(name).addEventListener("input", () => {
      filter[name] = $(name).value;
      changed();
    });
  }
  for (const state of STATES) {
    const box = element("input", { type: "checkbox", value: state });
    box.addEventListener("input", () => {
      filter.states[box.checked ? "add" : "delete"](state);
      changed();
    });
    $("states").append(element("label", { class: state }, box, ` ${state}`));
  }
  $("reset").addEventListener("click", () => {
    Object.assign(filter, { search: "", interface: "", group: "" });
    filter.states.clear();
    open.clear();
    for (const name of ["search", "interface", "group"]) $(name).value = "";
    for (const box of $("states").querySelectorAll("input")) box.checked = false;
    changed();
  });
}

/** Sets one filter, as if it was chosen. */
export function choose(name, value) {
  filter[name] = value;
}

export function fillChoices() {
  const interfaces = new Set(Object.keys(known.interfaces));
  const groups = new Map();
  for (const rule of known.rules.values()) {
    interfaces.add(rule.interface);
    for (const output of rule.outputs) interfaces.add(output.interface);
    groups.set(rule.group, (groups.get(rule.group) || 0) + 1);
  }
  choices("interface", [...interfaces].sort());
  choices("group", [...groups].filter(([, count]) => count > 1).map(([name]) => name).sort().slice(0, 500));
}

/** What is chosen stays a choice, though it may be gone. */
function choices(id, names) {
  const select = $(id);
  keep(select, [...new Set(["", ...names, filter[id]])], (name) => element("option", { value: name }, name || "all"), () => {});
  if (select.value !== filter[id]) select.value = filter[id];
}

/** Shows as many rows as there is room for. */
export function fillTable(shown, pick, total) {
  const rows = shown.slice(0, ROWS_MOST);
  const byId = new Map(rows.map((each) => [each.id, each]));
  keep($("rows"), [...byId.keys()], (id) => makeRow(byId.get(id), pick), (row, id) => updateRow(row, byId.get(id)));
  const left = shown.length - rows.length;
  $("more").hidden = left <= 0 && total;
  say($("more"), left > 0 ? `${number(left)} more. Search, or choose a group, to see them.` : "No rule passes the filter.");
  if (total) $("more").hidden = left <= 0;
}

function makeRow(each, pick) {
  const button = element("button", { type: "button" });
  const row = element("tr", {}, element("th", { scope: "row" }, button));
  for (const name of ["from", "to", "state", "number", "number", "lost"]) row.append(element("td", { class: name }));
  row.children[3].append(element("span", { class: "badge" }));
  button.addEventListener("click", () => pick(row.each));
  return row;
}

function updateRow(row, each) {
  row.each = each;
  const [head, from, to, state, packets, bits, lost] = row.children;
  const sum = (name) => each.rules.reduce((all, rule) => all + rule[name], 0);
  const losses = {};
  for (const rule of each.rules) {
    for (const [why, count] of Object.entries(lostIn(rule))) losses[why] = (losses[why] || 0) + count;
  }
  const badge = state.firstChild;
  if (each.rule) {
    const { rule } = each;
    set(row, { class: each.inner ? "inner" : "" });
    say(head.firstChild, rule.name);
    say(from, `${rule.interface} ${rule.source}`);
    say(to, rule.outputs.map((output) => `${output.interface} ${output.to}`).join(", "));
    say(badge, rule.state + (rule.used === true ? ", in use" : ""));
    set(badge, { title: rule.reason });
  } else {
    const is = open.has(each.id);
    set(row, { class: each.inner ? "inner" : "" });
    set(head.firstChild, { "aria-expanded": is });
    say(head.firstChild, `${is ? "▾" : "▸"} ${called(each)}`);
    say(from, few(each.rules.map((rule) => rule.interface)));
    say(to, few(each.rules.flatMap((rule) => rule.outputs.map((output) => output.interface))));
    say(badge, worst(each.rules));
  }
  set(badge, { class: `badge ${worst(each.rules)}` });
  say(packets, number(sum("packets")));
  say(bits, bitsText(sum("bits")));
  const before = sum("before");
  say(lost, [lostText(losses), before ? `${number(before)} before` : ""].filter(Boolean).join(", "));
}

function few(names) {
  const found = [...new Set(names)];
  return found.length > 4 ? `${found.slice(0, 3).join(", ")} and ${found.length - 3} more` : found.join(", ");
}
