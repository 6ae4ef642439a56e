// The past, and the plots that are drawn from it.

import { state } from "./asking.js";
import { drawn, element, keyOfNames, say, setAttributes } from "./elements.js";

/** Samples of the last ten minutes. */
const SAMPLES = 300;

const SPANS = {
  "10m": { ms: 600e3, words: "last 10 minutes" },
  "24h": { ms: 86400e3, words: "last 24 hours" },
};

// -- The past ---------------------------------------------------------------------------------------------------------

/** Series of one span, added to with each answer. */
class Past {
  constructor(length) {
    this.length = length;
    this.forget();
  }

  forget() {
    this.times = [];
    this.things = new Map();
  }

  /** The end of the last sample that is known. */
  get until() {
    return this.times.at(-1) ?? 0;
  }

  take({ times, pools, redis, nodes }) {
    const before = this.times.length;
    const seen = new Set();
    for (const [kind, list] of Object.entries({ pools, redis, nodes })) {
      for (const thing of list) seen.add(this.#extend(kind, thing, before));
    }
    this.times.push(...times);
    for (const [key, series] of this.things) {
      if (!seen.has(key) && times.length) this.things.delete(key);
      else for (const name of Object.keys(series)) series[name] = series[name].slice(-this.length);
    }
    this.times = this.times.slice(-this.length);
  }

  #extend(kind, thing, before) {
    const { series, service, database, user, node } = thing;
    const key = keyOfNames(kind, service, database ?? node ?? null, user ?? null);
    const known = this.things.get(key) ?? {};
    for (const [name, values] of Object.entries(series)) {
      known[name] = [...(known[name] ?? Array(before).fill(null)), ...values];
    }
    this.things.set(key, known);
    return key;
  }

  /** The series of a thing, `[]` of what is not there. */
  of(kind, service, first = null, second = null) {
    return this.things.get(keyOfNames(kind, service, first, second)) ?? {};
  }
}

export const minutes = new Past(SAMPLES);
export const day = new Past(1440);

export function past() {
  return state.span === "24h" ? day : minutes;
}

// -- Plots ------------------------------------------------------------------------------------------------------------

const WIDTH = 300;
const HEIGHT = 44;

/** A plot of one or two series: a figure with what it says in words. */
export function plot(title, names, format) {
  const [area, first, second] = ["area", "first", "second"].map((name) => drawn("path", { class: name }));
  const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" };
  const svg = drawn("svg", box, area, first, second);
  const now = element("span", { class: "now" });
  const range = element("span", { class: "range" });
  const caption = title ? element("figcaption", {}, element("span", {}, title), now) : now;
  const figure = element("figure", { class: title ? "plot" : "plot small" }, caption, svg, range);
  figure.draw = (series, of = "") => {
    const columns = names.map(({ key }) => series[key] ?? []);
    const known = columns.map((column) => column.filter((value) => value !== null));
    const top = Math.max(...known.flat(), Number.MIN_VALUE) * 1.05;
    setAttributes(area, { d: columns[0].length ? areaUnder(columns[0], top) : "" });
    setAttributes(first, { d: line(columns[0], top) });
    setAttributes(second, { d: columns[1] ? line(columns[1], top) : "" });
    const last = names.map(({ word }, n) => [word, columns[n].at(-1) ?? null]);
    say(now, last.map(([word, value]) => `${word ? `${word} ` : ""}${value === null ? "–" : format(value)}`).join(", "));
    const extremes = known.flat().length ? `${format(Math.min(...known.flat()))} to ${format(Math.max(...known.flat()))}` : "nothing yet";
    say(range, extremes);
    setAttributes(svg, { "aria-label": inWords([title, of].filter(Boolean).join(" of "), names, columns, known, format) });
  };
  return figure;
}

/** What somebody hears who cannot see the plot. */
function inWords(title, names, columns, known, format) {
  const parts = names.map(({ word }, n) => {
    if (!known[n].length) return `${word ? `${word} ` : ""}nothing yet`;
    const now = columns[n].at(-1);
    const [least, most] = [Math.min(...known[n]), Math.max(...known[n])].map(format);
    return `${word ? `${word} ` : ""}now ${now === null ? "nothing" : format(now)}, lowest ${least}, highest ${most}`;
  });
  return `${title}, ${SPANS[state.span].words}: ${parts.join("; ")}`;
}

/** From left to right by time: the right edge is the last sample. */
function across(n) {
  const { times, until } = past();
  return WIDTH * (1 - (until - times[n]) / SPANS[state.span].ms);
}

function line(column, top) {
  let path = "";
  let goesOn = false;
  column.forEach((value, n) => {
    if (value !== null) path += `${goesOn ? "L" : "M"}${across(n).toFixed(1)} ${(HEIGHT - (HEIGHT * value) / top).toFixed(1)}`;
    goesOn = value !== null;
  });
  return path;
}

function areaUnder(column, top) {
  const filled = column.map((value) => value ?? 0);
  return `${line(filled, top)}L${across(column.length - 1).toFixed(1)} ${HEIGHT}L${across(0).toFixed(1)} ${HEIGHT}Z`;
}
