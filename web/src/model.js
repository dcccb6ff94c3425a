// What is known of the daemon, and which part of it is shown. SPDX-License-Identifier: GPL-3.0-or-later

const HAPPENINGS_MOST = 200;
export const FOLD_FROM = 40; // rules
const GROUPS_MOST = 40; // in the diagram
export const STATES = ["active", "standby", "idle", "silent", "waiting", "failed", "disabled"];

export const known = { rules: new Map(), interfaces: {}, happenings: [], head: {} };

/** Takes what the server sends: all of the picture, or what changed. */
export function take(message) {
  if (message.whole) {
    known.rules = new Map();
    known.happenings = [];
  }
  for (const [name, rule] of Object.entries(message.rules || {})) {
    known.rules.set(name, filled(name, rule));
  }
  for (const [name, [packets, bits, peak, outputs]] of Object.entries(message.numbers || {})) {
    const rule = known.rules.get(name);
    if (!rule) continue;
    Object.assign(rule, { packets, bits, peak });
    outputs.forEach(([sent, bits], at) => Object.assign(rule.outputs[at] || {}, { packets: sent, bits }));
  }
  for (const name of message.gone || []) known.rules.delete(name);
  known.interfaces = message.interfaces || {};
  known.happenings = [...known.happenings, ...(message.happenings || [])].slice(-HAPPENINGS_MOST);
  known.head = message;
  delete known.head.rules;
  delete known.head.numbers;
}

function filled(name, rule) {
  const outputs = (rule.outputs || []).map((output) => ({
    packets: 0, bits: 0, lost: {}, to: "", interface: "", state: "", reason: "", ...output,
  }));
  const none = { packets: 0, bits: 0, lost: {}, interface: "", source: "", state: "", reason: "", about: "", peak: 0, before: 0, stream: "", used: null };
  return { ...none, ...rule, outputs, name, group: groupOf(name) };
}

/** How names begin that belong together: cam-1 and cam-2 are of cam. */
export function groupOf(name) {
  return name.replace(/@[^@]*$/, "").split(/[-_./:]/)[0].replace(/\d+$/, "") || name;
}

export function classOf(state) {
  return STATES.includes(state) ? state : "other";
}

export function lostIn(rule) {
  const sum = {};
  for (const lost of [rule.lost, ...rule.outputs.map((output) => output.lost)]) {
    for (const [why, count] of Object.entries(lost)) sum[why] = (sum[why] || 0) + count;
  }
  return sum;
}

export function lostText(lost) {
  return Object.entries(lost).map(([why, count]) => `${number(count)} ${why}`).join(", ");
}

export function number(value) {
  return Number(value).toLocaleString("en");
}

export function bitsText(bits) {
  for (const [unit, size] of [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3]]) {
    if (bits >= size) return `${Number((bits / size).toPrecision(3))} ${unit}`;
  }
  return `${Math.round(bits)} bit/s`;
}

/** The rules that pass the filter, in the order of their names. */
export function chosen(filter) {
  const words = filter.search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  for (const rule of known.rules.values()) {
    if (filter.group && rule.group !== filter.group) continue;
    if (filter.states.size && !filter.states.has(classOf(rule.state))) continue;
    if (filter.interface && rule.interface !== filter.interface
      && !rule.outputs.some((output) => output.interface === filter.interface)) continue;
    if (words.length) {
      const text = [rule.name, rule.source, rule.about, rule.interface,
        ...rule.outputs.map((output) => `${output.interface} ${output.to}`)].join(" ").toLowerCase();
      if (!words.every((word) => text.includes(word))) continue;
    }
    found.push(rule);
  }
  return found.sort((one, other) => (one.name < other.name ? -1 : 1));
}

/** One by one, but for the inputs of one rule: these are one, and may be open below it. */
function streams(rules, open) {
  const alone = (rule) => ({ id: `r:${rule.name}`, rules: [rule], rule });
  const legs = new Map();
  for (const rule of rules) if (rule.stream) legs.set(rule.stream, [...(legs.get(rule.stream) || []), rule]);
  const shown = [];
  for (const rule of rules) {
    const inputs = legs.get(rule.stream) || [];
    if (inputs.length < 2) shown.push(alone(rule));
    else if (inputs[0] === rule) {
      shown.push({ id: `s:${rule.stream}`, rules: inputs, stream: rule.stream });
      if (open.has(`s:${rule.stream}`)) shown.push(...inputs.map((leg) => ({ ...alone(leg), inner: true })));
    }
  }
  return shown;
}

/** What a group or a stream is called. */
export function called(each) {
  return each.stream ? `${each.stream} (${number(each.rules.length)} inputs)` : `${each.group} (${number(each.rules.length)} rules)`;
}

/** That of its inputs which is in use, or brings most. */
export function foremost(rules) {
  const by = (rule) => (rule.used ? Infinity : rule.packets);
  return rules.reduce((first, rule) => (by(rule) > by(first) ? rule : first));
}

/** Rules as they are shown: each alone when they are few, otherwise folded by their group. */
export function folded(rules, open) {
  if (rules.length <= FOLD_FROM) return streams(rules, open);
  const groups = new Map();
  for (const rule of rules) {
    if (!groups.has(rule.group)) groups.set(rule.group, []);
    groups.get(rule.group).push(rule);
  }
  if (groups.size === 1) return streams(rules, open);
  const shown = [];
  for (const [name, members] of groups) {
    const found = streams(members, open);
    if (found.filter((each) => !each.inner).length === 1) shown.push(...found);
    else {
      shown.push({ id: `g:${name}`, rules: members, group: name });
      if (open.has(`g:${name}`)) shown.push(...found.map((each) => ({ ...each, inner: true })));
    }
  }
  return shown;
}

/** The largest groups; all others together as one. */
export function largest(shown) {
  const outer = shown.filter((each) => !each.inner);
  if (outer.length <= GROUPS_MOST) return outer;
  const bits = (each) => each.rules.reduce((sum, rule) => sum + rule.bits, 0);
  const sorted = [...outer].sort((one, other) => bits(other) - bits(one));
  const rest = sorted.slice(GROUPS_MOST - 1);
  const first = new Set(sorted.slice(0, GROUPS_MOST - 1));
  return [...outer.filter((each) => first.has(each)), { id: "rest", rules: rest.flatMap((each) => each.rules), rest: true }];
}

const WORST = ["failed", "waiting", "silent", "other", "standby", "active", "idle", "disabled"];

/** The state of a group: its worst. */
export function worst(rules) {
  const found = new Set(rules.map((rule) => classOf(rule.state)));
  return WORST.find((state) => found.has(state)) || "other";
}

/** Times, bits and peaks, with nothing between points that are far apart: more than `away` seconds. */
export function withGaps({ at, bits, peak }, away) {
  const steps = at.slice(1).map((time, index) => time - at[index]).sort((one, other) => one - other);
  const most = Math.max(away, 1.5 * (steps[steps.length >> 1] || 0)); // polls may be seldom
  const found = [[], [], []];
  at.forEach((time, index) => {
    if (index && time - at[index - 1] > most) [at[index - 1] + 1, null, null].forEach((none, row) => found[row].push(none));
    [time, bits[index], peak[index]].forEach((value, row) => found[row].push(value));
  });
  return found;
}
