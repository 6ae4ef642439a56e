// Commands: what each will do in words, the buttons, and the dialog that asks once more.
//
// Names get into statements in quotes only, by `quoted`.

import { ask, lookAgain, state, told } from "./asking.js";
import { byId, element, ofMillis, say, setAttributes, sync } from "./elements.js";

// -- Statements -------------------------------------------------------------------------------------------------------

/** A name as the console's parser takes it, whatever is in it. */
function quoted(name) {
  return `"${name.replaceAll('"', '""')}"`;
}

function quotedNode(node) {
  return `${quoted(node.service)}.${quoted(node.node)}`;
}

// -- Buttons ----------------------------------------------------------------------------------------------------------

/** Why no command may be given; empty if it may. */
function whyNot() {
  if (state.caller.role === "admin") return "";
  if (state.caller.role === "nobody") return "There is no [[admin.user]] in the configuration, so that nobody may give commands.";
  if (state.caller.name) return `${state.caller.name} is a viewer: commands need an [[admin.user]] with the role admin.`;
  return "Log in as an admin to give commands.";
}

/** A button that opens a dialog about an order; where none may be given, the dialog says why, and the button looks so. */
function orderButton(word, of, order) {
  const button = element("button", { type: "button", "aria-haspopup": "dialog" }, `${word}…`);
  if (of) button.append(element("span", { class: "unseen" }, ` ${of}`));
  button.addEventListener("click", () => {
    openOrder(order());
  });
  allow(button);
  return button;
}

function allow(button) {
  const why = whyNot();
  setAttributes(button, { "aria-disabled": why ? "true" : null, "aria-describedby": why ? "why-not" : null, title: why || null });
}

export function allowAll() {
  say(byId("why-not"), whyNot());
  document.querySelectorAll('button[aria-haspopup="dialog"]:not(#log-in)').forEach(allow);
}

/** Shows the buttons that `wanted` lists as `[word, order]`; `of` names for the ear what they are about. */
export function syncButtons(parent, of, wanted) {
  sync(parent, wanted, ([word]) => word, ([word]) => orderButton(word, of, () => parent.orders[word]()), () => {});
  parent.orders = Object.fromEntries(wanted);
}

// -- What each will do, in words --------------------------------------------------------------------------------------

export function switchover(service, chosen = "") {
  const candidates = state.shown.nodes.filter((node) => node.service === service.service && node.node !== service.primary && node.role === "replica");
  const targets = [["", "the replica that is suited best"], ...candidates.map((node) => [node.node, node.node])];
  const isRedis = service.kind === "redis";
  return {
    title: `Switch over ${service.service}`,
    button: "Switch over",
    choices: [
      { name: "to", label: "New primary", options: targets, value: chosen },
      { name: "mode", label: "Mode", options: isRedis ? REDIS_MODES : POSTGRES_MODES, value: "" },
    ],
    sql: ({ to, mode }) => `SWITCHOVER ${quoted(service.service)}${to ? ` TO ${quoted(to)}` : ""}${mode ? ` MODE ${mode}` : ""}`,
    hasDryRun: true,
    effects: ({ to, mode }) => [
      `Writes move from ${service.primary ?? "the present primary"} to ${to || "the replica that is suited best"}.`,
      ...(isRedis ? redisSwitchover(service, mode) : postgresSwitchover(service, mode)),
      "If it cannot be finished, it is undone before anything is promoted, and the reason is told.",
    ],
  };
}

const POSTGRES_MODES = [["", "fast"], ["clean", "clean: the old primary follows without pg_rewind"]];
const REDIS_MODES = [["", "fast"], ["clean", "clean: transactions on watched keys may end first"]];

function postgresSwitchover(service, mode) {
  const after = mode === "clean"
    ? `${service.primary} is restarted as a standby first, which takes as long as a restart of the server, and follows the new primary afterwards.`
    : `${service.primary} needs pg_rewind afterwards before it can follow the new primary (or choose the mode clean); until then it is not used.`;
  return [
    `Clients stay connected and wait, ${mode === "clean" ? "as long as the restart takes" : "usually well below a second"}. Transactions that have begun have ${ofMillis(service.drain_ms)} to end; those that do not end in time make the switchover give up.`,
    "Reads on replicas go on. Sessions that go around Forebay to the old primary are ended.",
    after,
  ];
}

function redisSwitchover(service, mode) {
  const transactions = mode === "clean"
    ? "Transactions on watched keys that have begun may end first."
    : "A client between WATCH and EXEC gets no result from EXEC and begins anew, as after any change of a watched key.";
  return [
    `Writes are held, usually well below a second and ${ofMillis(service.hold_ms)} at the longest. Clients stay connected.`,
    transactions,
    `${service.primary} becomes a replica of the new primary at once.`,
  ];
}

function nodeOrder(word, node, effects, more = "") {
  const name = `${node.service}.${node.node}`;
  return { title: `${word} ${name}`, button: word, sql: () => `${word.toUpperCase()} NODE ${quotedNode(node)}${more}`, effects: () => effects };
}

export function isPrimary(node) {
  return state.shown.services.some((service) => service.service === node.service && service.primary === node.node);
}

function withoutPrimary(node) {
  return isPrimary(node)
    ? [`${node.node} is the primary: without it ${node.service} has none, and clients wait until it is attached again or another node is promoted. Switch over first.`]
    : [];
}

const ATTACH_AGAIN = "This holds over a restart of Forebay, until the node is attached again.";

export function detach(node) {
  return nodeOrder("Detach", node, [
    ...withoutPrimary(node),
    `${node.node} is taken out of service at once: what runs there is cancelled. Reads whose answer had not begun run on another node; open transactions and writes on it fail.`,
    ATTACH_AGAIN,
  ]);
}

export function drain(node) {
  return nodeOrder("Drain", node, [
    ...withoutPrimary(node),
    `${node.node} gets nothing new. What runs there may end, and its connections are closed as they become free.`,
    ATTACH_AGAIN,
  ]);
}

export function attach(node) {
  return nodeOrder("Attach", node, [
    `${node.node} is put back: it is probed, and takes traffic again when it is well.`,
    ...(node.state === "fenced" ? ["It is fenced: that is refused unless it is proven safe, and the reason is told."] : []),
  ]);
}

export function pause(database) {
  const whose = database === null ? "all databases" : `database ${database}`;
  return {
    title: `Pause ${whose}`,
    button: "Pause",
    sql: () => (database === null ? "PAUSE" : `PAUSE ${quoted(database)}`),
    effects: () => [
      `New requests to ${whose} of PostgreSQL wait; clients stay connected, and who waits longer than queue_timeout gets an error.`,
      "Server connections are closed as they become free; the answer comes when all are closed, in session mode when the clients have left. “Stop waiting” takes the pause back.",
      "Resume lets everything go on.",
    ],
  };
}

export function resume(database) {
  const whose = database === null ? "all databases" : `database ${database}`;
  return {
    title: `Resume ${whose}`,
    button: "Resume",
    sql: () => (database === null ? "RESUME" : `RESUME ${quoted(database)}`),
    effects: () => [`Requests to ${whose} that wait go on, and so do new ones.`],
  };
}

export function pauseFailover(service) {
  return {
    title: `Pause failover of ${service.service}`,
    button: "Pause failover",
    sql: () => `PAUSE FAILOVER ${quoted(service.service)}`,
    effects: () => [
      "Forebay goes on watching and decides nothing: the present primary stays the primary.",
      "If it is lost, writes wait until it is back or failover is resumed. This holds over a restart of Forebay.",
    ],
  };
}

export function resumeFailover(service) {
  return {
    title: `Resume failover of ${service.service}`,
    button: "Resume failover",
    sql: () => `RESUME FAILOVER ${quoted(service.service)}`,
    effects: () => ["Forebay decides again. If the primary is lost already, that may mean a failover at once."],
  };
}

// -- The dialog -------------------------------------------------------------------------------------------------------

/** The order in the dialog, what was chosen, and what may still be called off. */
let open = null;

function openOrder(order) {
  open = { order, chosen: {}, dryRun: null, running: null };
  say(byId("order-title"), order.title);
  say(byId("order-go"), order.button);
  say(byId("order-cancel"), "Cancel");
  byId("order-go").hidden = whyNot() !== "";
  tell("order-answer", "bad", whyNot());
  byId("order-choices").replaceChildren(...(order.choices ?? []).flatMap(choice));
  considerOrder();
  byId("order").showModal();
  byId("order-cancel").focus();
}

function choice({ name, label, options, value }) {
  const select = element("select", { id: `order-${name}` });
  select.append(...options.map(([key, words]) => element("option", { value: key }, words)));
  select.value = value;
  open.chosen[name] = value;
  select.addEventListener("change", () => {
    open.chosen[name] = select.value;
    considerOrder();
  });
  return [element("label", { for: `order-${name}` }, label), select];
}

/** Says what the order would do as it is chosen now, and has the instance say whether it can. */
function considerOrder() {
  const { order, chosen } = open;
  byId("order-effects").replaceChildren(...order.effects(chosen).map((effect) => element("p", {}, effect)));
  say(byId("order-sql"), order.sql(chosen));
  tell("order-promise", "", "");
  open.dryRun?.abort();
  if (order.hasDryRun && !whyNot()) dryRun(`${order.sql(chosen)} DRY RUN`);
}

async function dryRun(sql) {
  const mine = open;
  const abort = new AbortController();
  mine.dryRun = abort;
  tell("order-promise", "", "Asking whether it is possible (DRY RUN)…");
  try {
    const answer = await ask("admin", { sql, signal: abort.signal });
    if (open === mine && !abort.signal.aborted) tell("order-promise", "good", `DRY RUN: ${told(answer)}`);
  } catch (error) {
    if (open === mine && !abort.signal.aborted) tell("order-promise", "bad", `DRY RUN: ${error.message}`);
  }
}

function tell(id, tone, text) {
  setAttributes(byId(id), { "data-tone": tone });
  say(byId(id), text);
}

export async function carryOut() {
  if (!open || open.running) return;
  const mine = open;
  mine.running = new AbortController();
  mine.dryRun?.abort();
  for (const select of byId("order-choices").querySelectorAll("select")) select.disabled = true;
  tell("order-promise", "", "");
  tell("order-answer", "", "Under way…");
  say(byId("order-cancel"), "Stop waiting");
  byId("order-cancel").focus();
  byId("order-go").hidden = true;
  let tone = "good";
  let text;
  try {
    text = told(await ask("admin", { sql: mine.order.sql(mine.chosen), signal: mine.running.signal }));
  } catch (error) {
    tone = "bad";
    text = error.message;
  }
  mine.running = null;
  if (open !== mine) return;
  tell("order-answer", tone, text);
  say(byId("order-cancel"), "Close");
  lookAgain();
}

/** Closing the dialog calls off what has not been answered yet; a switchover that has begun goes on all the same. */
export function closeOrder() {
  open?.dryRun?.abort();
  open?.running?.abort();
  open = null;
  lookAgain();
}
