// The flow diagram: inputs, rules, outputs. SPDX-License-Identifier: GPL-3.0-or-later

import { sankey } from "d3-sankey";
import { linkHorizontal } from "d3-shape";
import { $, drawn, keep, say, set } from "./dom.js";
import { bitsText, classOf, known, lostIn, lostText, number, worst } from "./model.js";

const CARD = 42; // pixels, the lowest
const PADDING = CARD + 12;
const FLOWS = 150; // pixels for the widths of all flows
const SMOOTH = 0.5; // how fast widths follow; what is written is exact

const STEP = 125; // milliseconds between two places of what flows; the browser draws no more often
const SPEED = 0.02; // pixels in a millisecond
const MOVING_MOST = 24; // flows: what moves costs as much as all the rest

const widths = new Map();
const path = linkHorizontal().x((point) => point[0]).y((point) => point[1])
  .source((link) => [link.source.x1, link.y0]).target((link) => [link.target.x0, link.y1]);

/** Draws what is shown; `pick` is called with a card that was chosen. */
export function draw(shown, pick) {
  const svg = $("diagram");
  const width = Math.max(320, $("flows").clientWidth);
  const graph = graphOf(shown);
  $("nothing").hidden = shown.length > 0;
  svg.toggleAttribute("hidden", shown.length === 0);
  if (!shown.length) return keep(svg, [], null, null);
  const columns = [0, 1, 2].map((layer) => graph.nodes.filter((node) => node.column === layer).length);
  const height = Math.max(...columns) * PADDING + FLOWS + 16;
  const card = Math.min(230, Math.max(92, width * 0.25));
  sankey().nodeId((node) => node.id).nodeWidth(card).nodePadding(PADDING)
    .nodeAlign((node) => node.column).nodeSort((one, other) => one.order - other.order)
    .linkSort(null).iterations(1)
    .extent([[1, CARD / 2], [width - 1, height - CARD / 2 - 16]])(graph);
  set(svg, { viewBox: `0 0 ${width} ${height}`, width, height });
  const links = new Map(graph.links.map((link) => [`l:${link.id}`, link]));
  const nodes = new Map(graph.nodes.map((node) => [node.id, node]));
  keep(svg, [...links.keys(), ...nodes.keys()],
    (key) => (links.has(key) ? makeLink() : makeCard(nodes.get(key), pick)),
    (child, key) => (links.has(key) ? updateLink(child, links.get(key)) : updateCard(child, nodes.get(key), card)));
  for (const key of widths.keys()) if (!links.has(`l:${key}`)) widths.delete(key);
}

/** Moves what flows, unless there is much of it, or somebody does not want to see it move. */
export function begin() {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  setInterval(() => {
    if (document.hidden || still.matches || widths.size > MOVING_MOST || document.body.classList.contains("stale")) return;
    $("diagram").style.strokeDashoffset = -(performance.now() * SPEED) % 24; // inherited
  }, STEP);
}

function graphOf(shown) {
  const nodes = new Map();
  const links = new Map();
  const node = (id, column, name, order) => {
    if (!nodes.has(id)) nodes.set(id, { id, column, name, order, bits: 0, packets: 0, lost: {} });
    return nodes.get(id);
  };
  const link = (source, target, flow) => {
    const id = `${source}>${target}`;
    if (!links.has(id)) links.set(id, { id, source, target, bits: 0, packets: 0, states: [] });
    const found = links.get(id);
    found.bits += flow.bits;
    found.packets += flow.packets;
    found.states.push(flow);
  };
  const sorted = [...shown].sort((one, other) => {
    const [first, second] = [one.rules[0].interface, other.rules[0].interface];
    return first === second ? 0 : first < second ? -1 : 1;
  });
  sorted.forEach((each, at) => {
    const middle = node(each.id, 1, each.rule ? each.rule.name : each.rest ? `${number(each.rules.length)} more` : each.stream || `${each.group}… (${number(each.rules.length)})`, at);
    Object.assign(middle, { each, state: worst(each.rules), lost: {}, before: 0 });
    for (const rule of each.rules) {
      middle.bits += rule.bits;
      middle.packets += rule.packets;
      middle.before += rule.before;
      for (const [why, count] of Object.entries(lostIn(rule))) middle.lost[why] = (middle.lost[why] || 0) + count;
      const from = node(`i:${rule.interface}`, 0, rule.interface || "(none)", nodes.size);
      from.bits += rule.bits;
      from.packets += rule.packets;
      from.lost = (known.interfaces[rule.interface] || {}).lost || {};
      link(from.id, each.id, rule);
      for (const output of rule.outputs) {
        const to = node(`o:${output.interface}`, 2, output.interface || "(none)", 0);
        to.bits += output.bits;
        to.packets += output.packets;
        link(each.id, to.id, output);
      }
    }
  });
  const found = [...links.values()];
  const most = Math.max(1, ...found.map((each) => each.bits));
  for (const each of found) {
    const wanted = Math.max(each.bits, most / 60);
    const before = widths.get(each.id) || wanted;
    each.value = before + SMOOTH * (wanted - before);
    widths.set(each.id, each.value);
    each.state = worst(each.states);
  }
  for (const each of nodes.values()) {
    const of = known.interfaces[each.id.slice(2)];
    each.queriers = each.column !== 1 && of && of.queriers ? of.queriers : [];
  }
  const outputs = [...nodes.values()].filter((each) => each.column === 2);
  outputs.sort((one, other) => (one.name < other.name ? -1 : 1)).forEach((each, at) => { each.order = at; });
  return { nodes: [...nodes.values()], links: found };
}

function makeLink() {
  return drawn("g", { "aria-hidden": "true" }, drawn("path", { class: "ribbon" }), drawn("path", { class: "pulse" }));
}

function updateLink(group, link) {
  const [ribbon, pulse] = group.children;
  const d = path(link);
  set(group, { class: `link ${link.state}${link.bits ? " flows" : ""}` });
  set(ribbon, { d, "stroke-width": Math.max(1.5, link.width).toFixed(1) });
  set(pulse, { d, "stroke-width": Math.max(1, Math.min(4, link.width / 4)).toFixed(1) });
}

function makeCard(node, pick) {
  const made = drawn("g", { class: "card" }, drawn("title"), drawn("rect", { class: "box", rx: 9 }),
    drawn("rect", { class: "mark", rx: 2, width: 5 }), drawn("text", { class: "name" }),
    drawn("text", { class: "small" }), drawn("text", { class: "lost" }));
  set(made, { role: "button", tabindex: 0 });
  made.addEventListener("click", () => pick(made.node));
  made.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      pick(made.node);
    }
  });
  return made;
}

function updateCard(made, node, width) {
  made.node = node;
  const [title, box, mark, name, small, lost] = made.children;
  const height = Math.max(CARD, node.y1 - node.y0 + 8);
  const middle = (node.y0 + node.y1) / 2;
  const top = middle - height / 2;
  const before = node.before ? `${number(node.before)} lost before` : "";
  const losses = [lostText(node.lost), before].filter(Boolean).join(", ");
  const state = node.state || "";
  const used = node.each && node.each.stream && node.each.rules.find((rule) => rule.used);
  const label = [node.name, state, used && `${used.interface} in use`, `${number(node.packets)} packets/s`, bitsText(node.bits), losses && `lost: ${losses}`, ...node.queriers].filter(Boolean).join(", ");
  set(made, { class: `card ${state} ${["input", "rule", "output"][node.column]}`, });
  say(title, label);
  set(box, { x: node.x0, y: top, width, height });
  set(mark, { x: node.x0, y: top, height });
  const x = node.x0 + 14;
  const letters = Math.floor((width - 20) / 7);
  set(name, { x, y: middle - 3 });
  say(name, cut(node.name, letters));
  set(small, { x, y: middle + 13 });
  const packets = width > 170 && node.column === 1 ? `${number(node.packets)}/s, ` : "";
  const shown = node.bits ? packets + bitsText(node.bits) : state && classOf(state) !== "active" ? state : "0 bit/s";
  say(small, cut(shown, letters + 3));
  set(lost, { x: x - 12, y: top + height + 11 });
  say(lost, cut(losses, letters + 4));
}

function cut(text, most) {
  const letters = [...text];
  return letters.length <= most ? text : `${letters.slice(0, Math.max(1, most - 1)).join("")}…`;
}
