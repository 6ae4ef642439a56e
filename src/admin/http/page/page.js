// The status page: asks the instance for everything in one request, again and again, and has the answer drawn.

import { ask, basic, Refused, state } from "./asking.js";
import {
  byId, clockOf, element, listed, ofMillis, plural, say, setAttributes, sync, SYMBOLS,
} from "./elements.js";
import { allowAll, carryOut, closeOrder } from "./orders.js";
import { day, minutes } from "./plots.js";
import { lists, showLists, showPools, showServices } from "./sections.js";

const REFRESH_MS = 2000;
/** The longest time between two tries while there is no answer. */
const PATIENCE_MS = 15000;
/** For one answer. */
const TIMEOUT_MS = 10000;
/** Between two looks when somebody has to log in first. */
const LOCKED_MS = 15000;
const DAY_REFRESH_MS = 60000;

// -- Logging in -------------------------------------------------------------------------------------------------------

function openLogin() {
  say(byId("login-error"), "");
  byId("login").showModal();
  byId("user").focus();
}

async function logIn(event) {
  event.preventDefault();
  const tried = basic(byId("user").value, byId("password").value);
  say(byId("login-error"), "");
  try {
    await ask("version", { shown: tried });
  } catch (error) {
    say(byId("login-error"), error.message);
    byId("password").select();
    return;
  }
  state.credentials = tried;
  byId("password").value = "";
  byId("login").close();
  refreshNow();
}

function logOut() {
  state.credentials = null;
  byId("login-form").reset();
  byId("log-in").hidden = false;
  byId("log-in").focus();
  refreshNow();
}

function showCaller() {
  const { name, role } = state.caller;
  say(byId("account"), name ? `${name} (${role})${state.credentials ? "" : ", known to the browser"}` : "");
  byId("log-in").hidden = state.credentials !== null || role === "nobody";
  byId("log-out").hidden = state.credentials === null;
  allowAll();
}

// -- Header -----------------------------------------------------------------------------------------------------------

function fateOfClients({ phase, hold_ms: hold, without_primary_ms: since }) {
  if (phase === "changing") return "Forebay is changing it, clients wait";
  if (since !== null && since > hold) return `who has waited ${ofMillis(hold)} got an error, and new requests wait as long before they get one`;
  return `clients wait, ${ofMillis(hold)} at the longest`;
}

/** What is wrong, the worst first, as [tone, sentence]. */
function remarks(all) {
  const { instance, services, nodes, queue } = all;
  const found = [];
  if (instance.state === "stopping") found.push(["bad", "This instance is stopping: it takes no new clients."]);
  for (const service of services) {
    const since = service.without_primary_ms;
    if (service.primary === null) {
      found.push(["bad", `${service.service} has no primary${since === null ? "" : ` for ${ofMillis(since)}`}: ${fateOfClients(service)}.`]);
    }
  }
  if (instance.state === "suspended") found.push(["careful", "Everything is suspended: clients wait until RESUME."]);
  if (instance.state === "paused") found.push(["careful", "All databases are paused: clients wait until RESUME."]);
  else if (instance.paused.length) found.push(["careful", `${plural(instance.paused.length, "database")} paused: ${listed(instance.paused)}. Clients wait.`]);
  if (instance.disabled.length) found.push(["careful", `${plural(instance.disabled.length, "database")} disabled: ${listed(instance.disabled)}.`]);
  for (const state of ["down", "fenced", "detached", "draining"]) {
    const names = nodes.filter((node) => node.state === state).map((node) => `${node.service}.${node.node}`);
    if (names.length) found.push(["careful", `${listed(names)} ${names.length === 1 ? "is" : "are"} ${state}.`]);
  }
  const waiting = queue.rows.reduce((sum, row) => sum + row.waiting, 0);
  if (waiting) found.push(["careful", `${plural(waiting, "client")} ${waiting === 1 ? "waits" : "wait"} for a server connection.`]);
  for (const service of services) {
    if (service.failover_paused_by) found.push(["careful", `Failover of ${service.service} is paused by ${service.failover_paused_by}.`]);
  }
  if (!instance.good_config) found.push(["careful", "The configuration file has errors: the one before is in force."]);
  return found;
}

function headlineOf(all, found) {
  const { services, nodes } = all;
  if (!services.length) return ["careful", "No service is configured"];
  if (found[0]?.[0] === "bad") return ["bad", found.shift()[1]];
  const good = services.length === 1 ? `${services[0].service} has its primary` : "All services have a primary";
  if (!found.length) return ["good", `${good}, and all ${nodes.length} nodes are up`];
  return ["careful", `${good}, but:`];
}

function showHeader(all) {
  const { instance } = all;
  const found = remarks(all);
  const [tone, headline] = headlineOf(all, found);
  setAttributes(byId("verdict"), { "data-tone": tone });
  say(byId("verdict").querySelector(".symbol"), SYMBOLS[tone]);
  say(byId("headline"), headline);
  byId("remarks").hidden = found.length === 0;
  const numbered = found.map(([, text], n) => ({ n, text }));
  sync(byId("remarks"), numbered, ({ n }) => n, () => element("li"), (item, { text }) => say(item, text));
  say(byId("instance"), `${instance.version} on ${instance.name}, ${instance.state}, up for ${ofMillis(instance.now - instance.started)}`);
  document.title = `${SYMBOLS[tone]} ${headline.replace(", but:", "")} – Forebay`;
}

// -- What is said aloud: changes of primaries and states, and nothing else --------------------------------------------

let heard = null;

function announce(text) {
  // Set anew even if it is the same: it is said again.
  byId("announcer").textContent = "";
  byId("announcer").textContent = text;
}

function announceChanges({ services, nodes }) {
  const now = new Map([
    ...services.map((service) => [`primary ${service.service}`, service.primary ? `${service.service}: ${service.primary} is the primary` : `${service.service} has no primary`]),
    ...nodes.map((node) => [`state ${node.service}.${node.node}`, `${node.service}.${node.node} is ${node.state}`]),
  ]);
  const changes = heard ? [...now].filter(([key, text]) => heard.get(key) !== text).map(([, text]) => text) : [];
  heard = now;
  if (changes.length) announce(`${changes.join(". ")}.`);
}

// -- Asking again and again -------------------------------------------------------------------------------------------

/** The request under way, the timer of the next one, failures in a row, and when the last answer came. */
const turn = { asking: null, timer: 0, failures: 0, answered: Date.now() };

async function refresh() {
  clearTimeout(turn.timer);
  if (turn.asking || document.hidden) return;
  const abort = new AbortController();
  const timeout = setTimeout(() => abort.abort(), TIMEOUT_MS);
  turn.asking = abort;
  let next = REFRESH_MS;
  let all = null;
  try {
    all = await ask(`overview?since=${minutes.until}`, { signal: abort.signal });
    await refreshDay(all.instance.now, abort.signal);
  } catch (error) {
    next = [401, 403].includes(error.status) ? locked(error) : silent(error);
    all = null;
  }
  clearTimeout(timeout);
  turn.asking = null;
  schedule(turn.isWanted ? 0 : next);
  turn.isWanted = false;
  if (all) take(all);
}

function schedule(ms) {
  clearTimeout(turn.timer);
  turn.next = Date.now() + ms;
  if (!document.hidden) turn.timer = setTimeout(refresh, ms);
}

/** At once, or as soon as the request under way has ended. */
function refreshNow() {
  turn.isWanted = turn.asking !== null;
  refresh();
}

function take(all) {
  endSilence();
  // Another life of the instance: it counts from 0 again, and has told all that it remembers.
  if (state.shown && state.shown.instance.started !== all.instance.started) minutes.forget();
  if (all.history.times.length) minutes.take(all.history);
  state.shown = all;
  state.caller = all.caller;
  document.body.classList.remove("is-locked");
  showAll();
  announceChanges(all);
}

function showAll() {
  showHeader(state.shown);
  showServices(state.shown);
  showPools(state.shown);
  showLists(state.shown);
  showCaller();
}

async function refreshDay(now, signal) {
  if (state.span !== "24h" || now - (day.asked ?? 0) < DAY_REFRESH_MS) return;
  const answer = await ask(`history?span=24h&since=${day.until}`, { signal });
  day.asked = now;
  if (answer.times.length) day.take(answer);
}

function chooseSpan() {
  state.span = byId("span").value;
  if (state.shown) showAll();
  refreshNow();
}

/** There is no answer: says so, and since when; returns how long to wait for the next try. */
function silent(error) {
  const wait = Math.min(REFRESH_MS * 2 ** turn.failures, PATIENCE_MS);
  turn.failures += 1;
  const why = error instanceof Refused ? ` (${error.message})` : "";
  const since = state.shown ? " What you see is from then." : "";
  const text = `Forebay has not answered since ${clockOf(turn.answered)}${why}.${since}`;
  if (byId("silence").hidden) doubtVerdict();
  byId("silence").hidden = false;
  say(byId("silence-why"), text);
  document.body.classList.add("is-stale");
  return wait;
}

/** What was true then need not be so now. */
function doubtVerdict() {
  setAttributes(byId("verdict"), { "data-tone": "none" });
  say(byId("verdict").querySelector(".symbol"), "?");
  say(byId("headline"), state.shown ? `When it answered last: ${byId("headline").textContent}` : "Forebay does not answer");
  document.title = "? Forebay does not answer";
}

function endSilence() {
  turn.failures = 0;
  turn.answered = Date.now();
  byId("silence").hidden = true;
  say(byId("silence-why"), "");
  document.body.classList.remove("is-stale");
}

function countDown() {
  if (byId("silence").hidden) return;
  const left = Math.max(0, Math.ceil((turn.next - Date.now()) / 1000));
  say(byId("silence-next"), turn.asking ? "Trying…" : `Next try in ${left} s.`);
}

/** Somebody has to log in first. Wrong credentials are not tried again: that would end in a ban. */
function locked(error) {
  endSilence();
  const hadCredentials = state.credentials !== null;
  state.credentials = null;
  state.caller = { name: "", role: "viewer" };
  state.shown = null;
  heard = null;
  minutes.forget();
  day.forget();
  document.body.classList.add("is-locked");
  showCaller();
  for (const id of ["service-list", "pool-list", "pool-buttons"]) byId(id).replaceChildren();
  for (const list of Object.values(lists)) list({ total: 0, rows: [] });
  for (const id of ["instance", "queue-note", "clients-note", "pools-note"]) say(byId(id), "");
  byId("remarks").hidden = true;
  setAttributes(byId("verdict"), { "data-tone": "none" });
  say(byId("verdict").querySelector(".symbol"), SYMBOLS.fenced);
  say(byId("headline"), hadCredentials ? `Logged out: ${error.message}` : `Nothing to see without a login: ${error.message}`);
  document.title = "Forebay";
  return LOCKED_MS;
}

// -- Begin ------------------------------------------------------------------------------------------------------------

byId("log-in").addEventListener("click", openLogin);
byId("log-out").addEventListener("click", logOut);
byId("login-form").addEventListener("submit", logIn);
byId("login-cancel").addEventListener("click", () => byId("login").close());
byId("login").addEventListener("close", () => byId("password").value = "");
byId("order-go").addEventListener("click", carryOut);
byId("order-cancel").addEventListener("click", () => byId("order").close());
byId("order").addEventListener("close", closeOrder);
byId("try-now").addEventListener("click", refreshNow);
byId("span").addEventListener("change", chooseSpan);
document.addEventListener("lookagain", refreshNow);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(turn.timer) : refresh()));
setInterval(countDown, 1000);
refresh();
