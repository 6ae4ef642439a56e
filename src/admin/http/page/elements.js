// Elements, words and tables: what the page is made of. Nothing here knows an instance.
//
// Whatever comes from the instance is somebody's text: it is put into the page as text only, by `say` and `element`.

export const SYMBOLS = {
  up: "✔", ok: "✔", down: "✖", error: "✖", draining: "▼", detached: "■", disabled: "■", fenced: "⚠", warning: "⚠",
  paused: "❚❚", waiting: "…", primary: "★", replica: "○", good: "✔", careful: "⚠", bad: "✖",
};

// -- Elements ---------------------------------------------------------------------------------------------------------

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; texts become text nodes. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  setAttributes(made, attributes);
  made.append(...children);
  return made;
}

export function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  setAttributes(made, attributes);
  made.append(...children);
  return made;
}

/** Leaves alone what is so already: a screen reader would notice. */
export function setAttributes(of, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    const text = value === true ? "" : String(value);
    if (value === false || value == null) of.removeAttribute(name);
    else if (of.getAttribute(name) !== text) of.setAttribute(name, text);
  }
}

/** Sets the text of an element, if it is another. */
export function say(of, text) {
  if (of.textContent !== String(text)) of.textContent = String(text);
}

/** Gives `parent` one child for each item, in order; a child stays as long as an item has its key. */
export function sync(parent, items, keyOf, make, fill) {
  const keys = new Set(items.map(keyOf));
  for (const child of [...parent.children]) if (!keys.has(child.shownKey)) child.remove();
  const known = new Map([...parent.children].map((child) => [child.shownKey, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    let child = known.get(keyOf(item));
    if (!child) {
      child = make(item);
      child.shownKey = keyOf(item);
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    fill(child, item);
  }
}

export function keyOfNames(...names) {
  return JSON.stringify(names);
}

/** A state or role: symbol, word and colour. */
export function fillBadge(badge, state, word = state) {
  setAttributes(badge, { class: "state", "data-state": state });
  const symbol = SYMBOLS[state] ?? "?";
  if (badge.shownText === symbol + word) return;
  badge.shownText = symbol + word;
  badge.replaceChildren(element("span", { "aria-hidden": "true" }, symbol), ` ${word}`);
}

// -- Words ------------------------------------------------------------------------------------------------------------

export function ofMillis(ms) {
  const seconds = Math.floor(ms / 1000);
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

export function ofBytes(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${shortNumber(bytes)} ${units[unit]}`;
}

export function shortNumber(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (value >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(value >= 10 ? 1 : 2);
}

export const inMillis = (value) => (value >= 1000 ? `${shortNumber(value / 1000)} s` : `${shortNumber(value)} ms`);

/** `2026-08-23 14:03:11.042 UTC` as milliseconds since 1970. */
export function moment(text) {
  return Date.parse(`${String(text).replace(" UTC", "Z").replace(" ", "T")}`);
}

/** The same without parts of seconds and the zone, which is UTC everywhere here, and without today's date. */
export function clock(text) {
  const whole = String(text).replace(" UTC", "").replace(/\.\d+$/, "");
  const today = `${new Date().toISOString().slice(0, 10)} `;
  return whole.startsWith(today) ? whole.slice(today.length) : whole;
}

export function clockOf(ms) {
  return `${new Date(ms).toISOString().slice(11, 19)} UTC`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

export function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

// -- Tables -----------------------------------------------------------------------------------------------------------

/**
 * A table in a box of its own. Columns are `{ title, text(row) }` or `{ title, fill(cell, row) }`, with `class`; the first
 * one heads its row. The roles are spelled out because a phone's layout takes them from the elements.
 */
export function table(caption, columns, keyOf, { asCards = false } = {}) {
  const captionOf = element("caption", {}, caption);
  const heads = columns.map(({ title, class: kind, isUnseen }) => {
    const text = isUnseen ? element("span", { class: "unseen" }, title) : title;
    return element("th", { scope: "col", role: "columnheader", class: kind === "number" ? "number" : null }, text);
  });
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
  const body = element("tbody", { role: "rowgroup" });
  const whole = element("table", { role: "table" }, captionOf, head, body);
  const box = element("div", { class: `scroll${asCards ? " as-cards" : ""}`, role: "group", "aria-label": caption }, whole);
  const make = () => element("tr", { role: "row" }, ...columns.map(cellOf));
  const fill = (row, item) => columns.forEach((column, n) => fillCell(row.children[n], column, item));
  box.show = (items, text = caption) => {
    say(captionOf, text);
    sync(body, items, keyOf, make, fill);
    // What does not fit is reached by the arrow keys, once the box has the focus.
    setAttributes(box, { tabindex: box.scrollWidth > box.clientWidth ? "0" : null });
  };
  return box;
}

function cellOf({ title, class: kind, isUnseen }, n) {
  const attributes = { class: kind, "data-label": isUnseen ? "" : title };
  return n === 0
    ? element("th", { scope: "row", role: "rowheader", ...attributes })
    : element("td", { role: "cell", ...attributes });
}

function fillCell(cell, { text, fill }, item) {
  if (fill) fill(cell, item);
  else say(cell, text(item) ?? "");
  cell.classList.toggle("is-empty", [...cell.childNodes].every((child) => child.hidden || !child.textContent));
}

/** A part of a cell, made when it is needed first. */
export function part(parent, name, make) {
  parent.parts ??= {};
  if (!parent.parts[name]) {
    parent.parts[name] = make();
    parent.append(parent.parts[name]);
  }
  return parent.parts[name];
}
