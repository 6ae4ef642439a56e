// The parts of the page below its header: services, pools, and lists.
//
// Elements stay as long as what they show is there, so that a refresh takes nobody's focus away.

import { ask, state } from "./asking.js";
import {
  byId, clock, clockOf, element, fillBadge, keyOfNames, listed, moment, ofBytes, ofMillis, part, plural, say, setAttributes,
  shortNumber, inMillis, sync, table, SYMBOLS,
} from "./elements.js";
import {
  attach, detach, drain, isPrimary, pause, pauseFailover, resume, resumeFailover, switchover, syncButtons,
} from "./orders.js";
import { past, plot } from "./plots.js";

// -- Services ---------------------------------------------------------------------------------------------------------

const NODE_COLUMNS = [
  { title: "Node", class: "alone", fill: fillNode },
  { title: "Role", class: "alone", fill: fillRole },
  { title: "State", class: "line alone", fill: (cell, node) => fillBadge(part(cell, "badge", () => element("span")), node.state) },
  { title: "Lag", class: "number", fill: fillLag },
  { title: "Connections", class: "number", text: (node) => node.connections ?? "" },
  { title: "Last change", class: "line", fill: fillSince },
  { title: "Reason", class: "words", text: (node) => node.reason },
  { title: "Commands", class: "commands alone", isUnseen: true, fill: fillNodeButtons },
];

function fillNode(cell, node) {
  say(part(cell, "name", () => element("span")), node.node);
  say(part(cell, "address", () => element("span", { class: "address" })), ` ${node.host}:${node.port}`);
}

function fillRole(cell, node) {
  const isAside = node.role === "primary" && !isPrimary(node);
  const words = `${node.role}${isAside ? ", not in service" : ""}${node.weight === 1 ? "" : `, weight ${node.weight}`}`;
  cell.classList.toggle("role-primary", isPrimary(node));
  say(part(cell, "symbol", () => element("span", { "aria-hidden": "true" })), `${SYMBOLS[node.role] ?? "?"} `);
  say(part(cell, "word", () => element("span")), words);
}

function fillLag(cell, node) {
  const lag = [node.lag_bytes === null ? null : ofBytes(node.lag_bytes), node.lag_ms === null ? null : inMillis(node.lag_ms)];
  const figure = part(cell, "plot", () => plot("", [{ key: "lag_bytes", word: "" }], ofBytes));
  const text = lag.filter((value) => value !== null).join(", ");
  figure.draw(past().of("nodes", node.service, node.node), `Lag of ${node.service}.${node.node} in bytes`);
  figure.hidden = text === "";
  say(figure.querySelector(".now"), text);
  figure.querySelector(".range").hidden = true;
}

function fillSince(cell, node) {
  const ago = state.shown.instance.now - moment(node.last_change);
  setAttributes(cell, { title: node.last_change });
  say(cell, ago < 1000 ? "just now" : `${ofMillis(ago)} ago`);
}

function fillNodeButtons(cell, node) {
  const service = state.shown.services.find((known) => known.service === node.service);
  const current = () => state.shown.nodes.find((known) => known.service === node.service && known.node === node.node) ?? node;
  const wanted = [];
  if (node.role === "replica" && node.state === "up" && service?.primary && node.node !== service.primary) {
    wanted.push(["Make primary", () => switchover(service, node.node)]);
  }
  if (node.state !== "detached") wanted.push(["Detach", () => detach(current())]);
  if (node.state !== "detached" && node.state !== "draining") wanted.push(["Drain", () => drain(current())]);
  if (node.state === "detached" || node.state === "draining" || node.state === "fenced") wanted.push(["Attach", () => attach(current())]);
  syncButtons(part(cell, "buttons", () => element("span", { class: "buttons" })), `${node.service}.${node.node}`, wanted);
}

function fact(list, term) {
  return part(list, term, () => {
    const value = element("dd");
    const pair = element("div", {}, element("dt", {}, term), value);
    pair.value = value;
    return pair;
  });
}

/** Terms and what they are; those without a value are left out. */
function fillFacts(list, facts) {
  for (const [term, value] of Object.entries(facts)) {
    const pair = fact(list, term);
    pair.hidden = value === null || value === "";
    say(pair.value, value ?? "");
  }
}

function serviceCard(service) {
  const title = element("h3", { id: `service-${service.service}` });
  const card = element("article", { class: "card" });
  const buttons = element("span", { class: "buttons" });
  const facts = element("dl", { class: "facts" });
  const guarantee = element("p");
  const nodes = table(`Nodes of ${service.service}`, NODE_COLUMNS, (node) => node.node, { asCards: true });
  const promises = element("details", {}, element("summary", {}, "What survives the loss of which node"), guarantee);
  card.append(element("div", { class: "title" }, title, buttons), facts, nodes);
  const plots = service.kind === "redis" ? redisPlots(service.service) : null;
  if (plots) card.append(plots);
  card.append(promises, checksOf(service.service));
  Object.assign(card, { title_: title, buttons, facts, guarantee, nodes, plots });
  return card;
}

function fillService(card, service) {
  say(card.title_, `${service.service} (${service.kind === "redis" ? "Redis" : "PostgreSQL"})`);
  fillFacts(card.facts, {
    Primary: service.primary ?? `none${service.without_primary_ms === null ? "" : ` for ${ofMillis(service.without_primary_ms)}`}`,
    Phase: service.phase.replace("_", " "),
    Mode: service.mode,
    Durability: service.durability.replace("_", " "),
    Epoch: service.epoch,
    Timeline: service.timeline,
    "Failover paused by": service.failover_paused_by,
  });
  const current = () => state.shown.services.find((known) => known.service === service.service) ?? service;
  syncButtons(card.buttons, service.service, [
    ["Switch over", () => switchover(current())],
    service.failover_paused_by
      ? ["Resume failover", () => resumeFailover(current())]
      : ["Pause failover", () => pauseFailover(current())],
  ]);
  say(card.guarantee, service.guarantee);
  card.nodes.show(state.shown.nodes.filter((node) => node.service === service.service));
  card.plots?.draw();
}

function redisPlots(service) {
  const plots = [
    plot("Commands/s", [{ key: "commands", word: "" }], shortNumber),
    plot("Clients", [{ key: "clients", word: "" }, { key: "waiting", word: "waiting" }], shortNumber),
  ];
  const box = element("div", { class: "plots" }, ...plots);
  box.draw = () => plots.forEach((each) => each.draw(past().of("redis", service), service));
  return box;
}

const CHECK_COLUMNS = [
  { title: "Check", class: "line alone", text: (check) => check.check },
  { title: "Node", class: "line", text: (check) => check.node },
  { title: "Result", class: "line alone", fill: (cell, check) => fillBadge(part(cell, "badge", () => element("span")), check.result) },
  { title: "Detail", class: "words alone", text: (check) => check.detail },
];

/** The checks of a service: the servers are asked when somebody wants to know. */
function checksOf(service) {
  const checks = table(`Checks of ${service}`, CHECK_COLUMNS, (check) => keyOfNames(check.check, check.node), { asCards: true });
  const note = element("p", { class: "quiet", role: "status" });
  const again = element("button", { type: "button" }, "Check again");
  again.append(element("span", { class: "unseen" }, ` ${service}`));
  const details = element("details", {}, element("summary", {}, "Check what would hurt at the next failure"), note, checks, again);
  const run = async () => {
    say(note, "Asking the servers…");
    try {
      const all = (await ask("ha_checks")).filter((check) => check.service === service);
      const order = ["error", "warning", "ok"];
      checks.show(all.toSorted((a, b) => order.indexOf(a.result) - order.indexOf(b.result)));
      say(note, `${plural(all.filter((check) => check.result !== "ok").length, "finding")} among ${plural(all.length, "check")}, at ${clockOf(Date.now())}`);
    } catch (error) {
      say(note, error.message);
    }
  };
  details.addEventListener("toggle", () => details.open && run());
  again.addEventListener("click", run);
  checks.show([]);
  return details;
}

export function showServices({ services }) {
  sync(byId("service-list"), services, (service) => keyOfNames(service.kind, service.service), serviceCard, fillService);
}

// -- Pools ------------------------------------------------------------------------------------------------------------

const POOL_PLOTS = [
  ["Queries/s", [{ key: "queries", word: "" }], shortNumber],
  ["Transactions/s", [{ key: "transactions", word: "" }], shortNumber],
  ["Query time", [{ key: "p50_ms", word: "p50" }, { key: "p99_ms", word: "p99" }], inMillis],
  ["Clients", [{ key: "clients", word: "" }, { key: "waiting", word: "waiting" }], shortNumber],
  ["Active server connections", [{ key: "servers", word: "" }], shortNumber],
  ["Errors/s", [{ key: "errors", word: "" }], shortNumber],
];

function poolCard(pool) {
  const title = element("h3", {}, `${pool.database} / ${pool.user}`);
  const badge = element("span");
  const buttons = element("span", { class: "buttons" });
  const facts = element("dl", { class: "facts" });
  const plots = POOL_PLOTS.map((about) => plot(...about));
  const heading = element("div", { class: "title" }, title, badge, buttons);
  const card = element("article", { class: "card" }, heading, facts, element("div", { class: "plots" }, ...plots));
  return Object.assign(card, { badge, buttons, facts, plots });
}

function fillPool(card, pool) {
  const { clients, servers } = pool;
  const state = pool.paused ? "paused" : pool.disabled ? "disabled" : "";
  if (state) fillBadge(card.badge, state);
  card.badge.hidden = !state;
  fillFacts(card.facts, {
    Service: pool.service,
    Mode: pool.mode,
    Clients: `${clients.active} active, ${clients.idle} idle, ${clients.waiting} waiting`,
    "Longest wait": clients.waiting && pool.oldest_wait_ms !== null ? ofMillis(pool.oldest_wait_ms) : "",
    Servers: `${servers.active} active, ${servers.idle} idle, ${servers.all} in all; ${pool.size} a node at most`,
    Pinned: pool.pinned || "",
  });
  const wanted = pool.paused ? ["Resume", () => resume(pool.database)] : ["Pause", () => pause(pool.database)];
  syncButtons(card.buttons, `database ${pool.database}`, [wanted]);
  const series = past().of("pools", pool.service, pool.database, pool.user);
  card.plots.forEach((each) => each.draw(series, `${pool.database} / ${pool.user}`));
}

export function showPools({ pools, instance, services }) {
  const hasPostgres = services.some((service) => service.kind === "postgres");
  byId("pools").hidden = !hasPostgres;
  // By name, so that a card does not move while it is read.
  const rows = [...pools.rows].sort((a, b) => (keyOfNames(a.database, a.user) < keyOfNames(b.database, b.user) ? -1 : 1));
  sync(byId("pool-list"), rows, (pool) => keyOfNames(pool.database, pool.user), poolCard, fillPool);
  const isHeld = ["paused", "suspended"].includes(instance.state) || instance.paused.length > 0;
  syncButtons(byId("pool-buttons"), "", [
    ...(instance.state === "paused" || instance.state === "suspended" ? [] : [["Pause all", () => pause(null)]]),
    ...(isHeld ? [["Resume all", () => resume(null)]] : []),
  ]);
  const note = pools.total === 0 ? "No client has asked for a database yet." : pools.total > rows.length ? `The busiest ${rows.length} of ${pools.total}; SHOW POOLS has all.` : "";
  say(byId("pools-note"), note);
  byId("pools-note").hidden = !note;
}

// -- Lists ------------------------------------------------------------------------------------------------------------

/** A place for a table that is there only while it has rows. */
function place(id, caption, columns, keyOf, options) {
  const made = table(caption, columns, keyOf, options);
  byId(id).append(made);
  return (list, text) => {
    made.hidden = list.rows.length === 0;
    made.show(list.rows, text ?? (list.total > list.rows.length ? `${caption}: ${list.rows.length} of ${list.total}` : caption));
  };
}

export const lists = {
  queue: place("queue-table", "Who waits for a server connection, and what became of those who waited", [
    { title: "Service", class: "line", text: (row) => row.service },
    { title: "Database", class: "line", text: (row) => row.database },
    { title: "User", class: "line", text: (row) => row.user },
    { title: "Waiting", class: "number", text: (row) => row.waiting },
    { title: "Longest wait", class: "number", text: (row) => (row.waiting ? ofMillis(row.oldest_wait_ms) : "") },
    { title: "Served", class: "number", text: (row) => row.served },
    { title: "Timed out", class: "number", text: (row) => row.timed_out },
    { title: "Refused", class: "number", text: (row) => row.refused },
  ], (row) => keyOfNames(row.service, row.database, row.user)),

  clients: place("clients-table", "PostgreSQL clients, those that wait or work first", [
    { title: "Id", class: "number", text: (row) => row.id },
    { title: "Application", class: "words", text: (row) => row.application_name },
    { title: "User", class: "line", text: (row) => row.user },
    { title: "Database", class: "line", text: (row) => row.database },
    { title: "State", class: "line", text: (row) => row.state },
    { title: "Address", class: "line", text: (row) => `${row.addr}:${row.port}` },
    { title: "Since", class: "line", text: (row) => clock(row.request_time) },
    { title: "Connected", class: "line", text: (row) => clock(row.connect_time) },
    { title: "TLS", class: "line", text: (row) => row.tls },
  ], (row) => row.id),

  redisClients: place("redis-clients-table", "Redis clients, those active last first", [
    { title: "Id", class: "number", text: (row) => row.id },
    { title: "Service", class: "line", text: (row) => row.service },
    { title: "Name", class: "words", text: (row) => row.name },
    { title: "User", class: "line", text: (row) => row.user },
    { title: "Database", class: "number", text: (row) => row.db },
    { title: "Address", class: "line", text: (row) => `${row.addr}:${row.port}` },
    { title: "In flight", class: "number", text: (row) => row.in_flight },
    { title: "Quiet for", class: "number", text: (row) => ofMillis(row.idle_ms) },
    { title: "Keeps a connection", class: "line", text: (row) => row.pin },
    { title: "Connected", class: "line", text: (row) => clock(row.connected) },
  ], (row) => row.id),

  pins: place("pins-table", "Clients that keep their server connection, and why", [
    { title: "Client", class: "number", text: (row) => row.client_id },
    { title: "Database or service", class: "line", text: (row) => row.database },
    { title: "User", class: "line", text: (row) => row.user },
    { title: "Reason", class: "words", text: (row) => row.reason },
    { title: "Since", class: "line", text: (row) => clock(row.since ?? "") },
  ], (row) => keyOfNames(row.client_id, row.database)),

  bans: place("bans-table", "Addresses that may not connect", [
    { title: "Address", class: "line", text: (row) => row.address },
    { title: "Until", class: "line", text: (row) => clock(row.until) },
    { title: "Reason", class: "words", text: (row) => row.reason },
    { title: "Failed logins", class: "number", text: (row) => row.failures },
  ], (row) => row.address),

  statements: place("statements-table", "Statements that took the most time", [
    { title: "Statement", class: "words", text: (row) => row.sample ?? row.fingerprint },
    { title: "Database", class: "line", text: (row) => row.database },
    { title: "User", class: "line", text: (row) => row.user },
    { title: "Ran on", class: "line", text: (row) => row.target },
    { title: "Calls", class: "number", text: (row) => shortNumber(Number(row.calls)) },
    { title: "Total", class: "number", text: (row) => inMillis(Number(row.total_ms)) },
    { title: "Mean", class: "number", text: (row) => inMillis(Number(row.mean_ms)) },
    { title: "p99", class: "number", text: (row) => inMillis(Number(row.p99_ms)) },
    { title: "Rows", class: "number", text: (row) => shortNumber(Number(row.rows)) },
    { title: "Errors", class: "number", text: (row) => row.errors },
  ], (row) => keyOfNames(row.fingerprint, row.database, row.user, row.target)),

  events: place("events-table", "The last events, the newest first", [
    { title: "Time", class: "line alone", text: (row) => clock(row.time) },
    { title: "Event", class: "line alone", text: (row) => row.event.replaceAll("_", " ") },
    { title: "Service", class: "line", text: (row) => row.service },
    { title: "Node", class: "line", text: (row) => row.node },
    { title: "Detail", class: "words alone", text: (row) => row.detail },
    { title: "Epoch", class: "number", text: (row) => row.epoch || "" },
  ], (row) => row.key, { asCards: true }),
};

/** Events have no id: equal ones are counted. */
function withKeys(rows) {
  const seen = new Map();
  return rows.toReversed().map((row) => {
    const name = keyOfNames(row.time, row.service, row.event, row.node, row.detail);
    seen.set(name, (seen.get(name) ?? 0) + 1);
    return { ...row, key: `${name} ${seen.get(name)}` };
  }).toReversed();
}

export function showLists(all) {
  const { queue, clients, redis_clients: redisClients, pins, bans, statements, events } = all;
  lists.queue(queue);
  const waiting = queue.rows.reduce((sum, row) => sum + row.waiting, 0);
  say(byId("queue-note"), waiting ? `${plural(waiting, "client")} ${waiting === 1 ? "waits" : "wait"} now.` : "Nobody waits now.");
  say(byId("clients-note"), clientsInWords(all));
  lists.clients(clients);
  lists.redisClients(redisClients);
  lists.pins(pins);
  lists.bans(bans);
  lists.events({ ...events, rows: withKeys(events.rows) });
  byId("statements").hidden = !statements;
  byId("to-statements").hidden = !statements;
  if (statements) lists.statements(statements);
}

function clientsInWords({ clients, redis_clients: redisClients, pools, services }) {
  const parts = [];
  if (services.some((service) => service.kind === "postgres")) {
    const sum = (state) => pools.rows.reduce((all, pool) => all + pool.clients[state], 0);
    parts.push(`${clients.total} of PostgreSQL, the console's included (${sum("active")} active, ${sum("waiting")} waiting)`);
  }
  if (services.some((service) => service.kind === "redis")) parts.push(`${redisClients.total} of Redis`);
  return parts.length ? `${listed(parts)}.` : "";
}
