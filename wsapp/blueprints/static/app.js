// The live page, put together: an sdk-profile Socket.IO client as any other would be written (docs/protocol.md).

import { button, byId, clock, datesPassed, element } from "./dom.js";
import { Events } from "./events.js";
import { gapMarker } from "./gaps.js";
import { Identity } from "./identity.js";
import { Link } from "./link.js";
import { notice } from "./notices.js";
import { Positions } from "./positions.js";
import { Rooms, roomOf } from "./rooms.js";
import { Tasks } from "./tasks.js";
import { Thoughts } from "./thoughts.js";

const MAX_IDS = 20000;
const HISTORY = 200;
const ROOMS_AT_ONCE = 100; // of one request
const AWAY_MS = 5000; // an absence that is worth a mark
const OWN_EVENTS = new Set(["session", "shed", "resync", "mode", "server-shutdown", "batch", "beacon", "unsubscribed",
  "session-closed", "token-expiring", "presence"]);
const NEEDS_TOKEN = new Set(["token_missing", "token_invalid", "token_expired", "token_revoked", "unauthorized"]);

const facts = (name) => document.querySelector(`meta[name=${name}]`).content;
const positions = new Positions();
const rooms = new Rooms(left);
const thoughts = new Thoughts(addGap);
const tasks = new Tasks();
const events = new Events();

// --- what arrives

const seenIds = new Set();
function isNew(id) {
  if (id === undefined || id === null) return true;
  if (seenIds.has(id)) return false;
  seenIds.add(id);
  if (seenIds.size > MAX_IDS) seenIds.delete(seenIds.values().next().value);
  return true;
}

// `at`: undefined for live ones, "history", or the marker before which they belong.
function show(name, data, meta = {}, at) {
  positions.came(meta);
  if (!isNew(meta.id)) return;
  if (name === "agent-thought") {
    const some = (Array.isArray(data) ? data : [data]).filter((thought) => thought && typeof thought === "object");
    thoughts.add(some, meta, at);
  } else if (name === "task-update") {
    if (data) tasks.show(data, meta);
  } else events.show(name, data, meta, at);
}

const recorded = (room, epoch) => ({ event, data, id, ts, seq }, at) =>
  show(event, data, { id, ts, epoch, rooms: { [room]: seq } }, at);

function receive(name, data, meta) {
  if (meta && meta.critical) link.socket.emit("ack-event", meta.id);
  show(name, data, meta);
  link.arrived();
}

// --- what did not arrive

async function readHistory(room, since, limit, epoch) {
  const answer = await link.request("history", { room, since, limit, ...(epoch ? { epoch } : {}) });
  if (!answer.ok) throw new Error(answer.error.message);
  return answer;
}

function addGap(gap) {
  const { marker, fill } = gapMarker(gap, readHistory, recorded(gap.room, gap.epoch));
  thoughts.mark(marker);
  return fill;
}

// What was published before this page came: everything up to the position at which live began.
async function showPast(room, epoch, seq) {
  if (!seq) return;
  const answer = await link.request("history", { room, before: seq + 1, limit: HISTORY }).catch(() => null);
  if (!answer || !answer.ok) {
    const from = Math.max(1, seq - HISTORY + 1);
    return void addGap({ room, epoch, from, to: seq, count: seq - from + 1, reason: "past" });
  }
  for (const event of answer.events) recorded(room, epoch)(event, "history");
}

// --- rooms

function left(room, subscribed) {
  positions.forget(room);
  const at = room.indexOf(":");
  if (subscribed && link.connected) link.socket.emit(`unsubscribe-${room.slice(0, at)}`, room.slice(at + 1), () => {});
  for (const panel of [thoughts, tasks, events]) panel.keep(rooms.wanted);
}

async function subscribeAll() {
  const asked = [];
  for (const [kind, names] of rooms.missing()) {
    for (const room of names) rooms.joined.set(room, "asked");
    for (let at = 0; at < names.length; at += ROOMS_AT_ONCE) asked.push(subscribe(kind, names.slice(at, at + ROOMS_AT_ONCE)));
  }
  rooms.show();
  await Promise.all(asked);
  rooms.show();
}

// One request for all rooms of a kind; each room has an answer of its own.
async function subscribe(kind, names) {
  const since = names.map((room) => positions.of(room));
  const items = names.map((room, number) => ({ id: room.slice(kind.length + 1), ...(since[number] ? { since: since[number] } : {}) }));
  const answer = await link.request(`subscribe-${kind}`, items).catch(() => null);
  await Promise.all(names.map((room, number) =>
    subscribed(room, since[number], answer && answer.ok ? answer.rooms[number] : answer)));
}

async function subscribed(room, since, answer) {
  if (!rooms.wanted.has(room)) return;
  if (!answer) {
    rooms.joined.delete(room);
    if (link.connected) notice(`${room}: no answer from the server`, "error");
  } else if (!answer.ok) {
    rooms.refuse(room, answer.error.message);
    notice(`${room}: ${answer.error.message}`, "error");
  } else {
    rooms.joined.set(room, "yes");
    if (!since) {
      positions.begin(room, answer.epoch, answer.seq);
      await showPast(room, answer.epoch, answer.seq);
    } else if (answer.recovered === false) await refill(room, since, answer);
  }
}

// The server cannot replay what was missed: the history is read by position, or the hole is marked where it is.
async function refill(room, since, answer) {
  positions.begin(room, answer.epoch, answer.seq);
  if (answer.epoch !== since.epoch) {
    thoughts.restarted(room);
    await showPast(room, answer.epoch, answer.seq);
  } else if (answer.seq > since.seq) {
    await addGap({ room, epoch: answer.epoch, from: since.seq + 1, to: answer.seq, count: answer.seq - since.seq, reason: answer.reason })();
  }
}

// --- the connection

const WHY_NOT = {
  expired: "the session had ended", epoch: "the history began again", trimmed: "some is no longer kept",
  too_many: "it was too much for a replay", unavailable: "Redis was away", other_user: "it was another user's session",
};

async function settled(session, again) {
  const recovered = Boolean(session && session.recovered);
  const named = (session && session.rooms) || {};
  // Of a session that was not recovered the rooms are joined again, each from where this page stands.
  for (const room of [...rooms.joined.keys()]) if (!recovered || !(room in named)) rooms.joined.delete(room);
  if (session && session.sessionId) link.session = String(session.sessionId).slice(0, 6) + "…";
  for (const room of Object.keys(named)) {
    if (!rooms.wanted.has(room)) left(room, true);
    else if (recovered) rooms.joined.set(room, "yes");
  }
  if (again && session && !recovered && session.reason) {
    notice(`a new session, because ${WHY_NOT[session.reason] || session.reason}; what was missed is read from the history`);
  }
  await subscribeAll();
}

let lostAt = 0;
function lost() {
  rooms.lost();
  lostAt ||= link.asOf;
}

function changed() {
  const { state, text, detail } = link.describe();
  const shown = byId("state");
  if (state === "live" && lostAt) {
    const ago = Date.now() - lostAt;
    if (ago > AWAY_MS) notice(`current again; this page was away since ${clock(lostAt)}`, "good");
    lostAt = 0;
  }
  if (shown.dataset.state !== state) shown.dataset.state = state;
  if (byId("state-text").textContent !== text) byId("state-text").textContent = text;
  const quiet = [link.transport, link.session && "session " + link.session].filter(Boolean).join(" · ");
  const line = detail || (state === "live" ? quiet : "");
  if (byId("facts").textContent !== line) byId("facts").textContent = line;
  document.body.dataset.state = state;
}

function refused(code, text, how) {
  rooms.joined.clear();
  rooms.show();
  if (code === "token_missing") identity.ask(`A token is needed (${code}). Paste one: this tab alone keeps it.`);
  else if (NEEDS_TOKEN.has(code)) identity.ask(how === "closed" ? `${text} Paste a newer token.` : text, "error");
}

const path = new URL(facts("socket-path"), document.baseURI).pathname;
const transport = new URLSearchParams(location.search).get("transport");
const link = new Link(path, {
  auth: () => (identity.token ? { wsapp: 1, token: identity.token } : { wsapp: 1 }),
  settled, lost, changed, refused,
  positions: (at) => positions.confirmed(at),
  back: (asOf) => { if (asOf && Date.now() - asOf > AWAY_MS) thoughts.divide(`New since ${clock(asOf)}`); },
}, transport ? [transport] : undefined);
const identity = new Identity(link);
const { socket } = link;

// The sdk profile: an event comes with its meta, over the rate limit in a batch of [name, data, meta].
socket.onAny((name, data, meta) => { if (!OWN_EVENTS.has(name)) receive(name, data, meta); });
socket.on("batch", (batch) => { for (const event of batch) receive(...event); });
socket.on("shed", (shed) => {
  if (!shed) return;
  const count = shed.count - positions.had(shed);
  positions.skipped(shed);
  if (count > 0) addGap({ ...shed, count, epoch: (positions.of(shed.room) || {}).epoch });
});
socket.on("resync", (what) => {
  if (!what) return;
  positions.begin(what.room, what.epoch, what.seq);
  if (what.reason === "epoch") return thoughts.restarted(what.room);
  const why = WHY_NOT[what.reason] || what.reason;
  thoughts.mark(element("li", `${what.room}: ${what.missed} events were missed and cannot be replayed (${why})`, "gap gone"));
});
socket.on("server-shutdown", () => notice("the server restarts; this page comes back by itself"));
socket.on("token-expiring", (what) => {
  const seconds = Math.max(0, Math.round(((what && what.expiresInMs) || 0) / 1000));
  identity.ask(`This token ends in ${seconds} s. Paste a newer one of the same user to stay connected.`);
});
socket.on("unsubscribed", (what) => {
  if (!what) return;
  if (rooms.wanted.has(what.room)) rooms.refuse(what.room, "not allowed any more");
  notice(`${what.room}: not allowed any more (${what.reason})`, "error");
  rooms.show();
});

// --- the address and the box

function readAddress() {
  const token = rooms.read();
  showCommand();
  rooms.show();
  if (token !== undefined) identity.offered(token);
  if (link.connected) subscribeAll();
}

function showCommand() {
  const id = (kind, standard) => {
    const room = [...rooms.wanted].find((name) => name.startsWith(kind + ":"));
    const value = room ? room.slice(kind.length + 1) : standard;
    return /^[\w.:@-]+$/.test(value) ? value : "'" + value.replaceAll("'", "'\\''") + "'";
  };
  const command = facts("command");
  byId("copy").hidden = !command;
  byId("how").textContent = command ? "Run a command in the directory of the server:"
    : "This server has no Redis, so only its own process can publish: server.broadcast_agent_thought({\"agentId\": …}).";
  byId("hint").textContent = `${command} run --agent ${id("agent", "coder")} --task ${id("task", "t1")}`
    + ` --project ${id("project", "p1")} -- ls -la`;
}

byId("subscribe").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = byId("room");
  rooms.add(roomOf(input.value));
  input.value = "";
  rooms.show();
  if (link.connected) subscribeAll();
});
byId("copy").append(button("Copy", async () => {
  await navigator.clipboard.writeText(byId("hint").textContent);
  notice("copied", "good");
}, "quiet"));
addEventListener("hashchange", readAddress);
setInterval(datesPassed, 60000);

readAddress();
link.start();
