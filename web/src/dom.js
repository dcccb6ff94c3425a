// Elements, made without markup: whatever a name says, it stays text. SPDX-License-Identifier: GPL-3.0-or-later

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function drawn(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const child of children) made.append(child); // text becomes a text node
  return made;
}

/** Changes text only where it differs, so that nothing is read aloud or selected anew. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function set(target, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (target.getAttribute(name) !== String(value)) target.setAttribute(name, value);
  }
}

/** Keeps the children of a parent in step with keys: makes, updates, moves and removes. */
export function keep(parent, keys, make, update) {
  const have = parent.kept || (parent.kept = new Map());
  const wanted = new Set(keys);
  for (const [key, child] of have) {
    if (!wanted.has(key)) {
      child.remove();
      have.delete(key);
    }
  }
  let before = parent.firstChild;
  for (const key of keys) {
    let child = have.get(key);
    if (!child) {
      child = make(key);
      have.set(key, child);
    }
    if (child === before) before = before.nextSibling;
    else parent.insertBefore(child, before);
    update(child, key);
  }
}
