// The live page: a plain-profile Socket.IO client, as any other would be written (docs/protocol.md).
"use strict";

(() => {
  const DEFAULT_ROOMS = ["agent:coder", "task:t1", "project:p1"];
  const MAX_THOUGHTS = 500;
  const MAX_TASKS = 100;
  const MAX_EVENTS = 200;
  const MAX_NOTICES = 4;
  const MAX_IDS = 5000;
  const HISTORY = 100;
  const ROOMS_AT_ONCE = 100; // of one request
  const NOTICE_MS = 8000;
  const SESSION_WAIT_MS = 1500;
  const OWN_EVENTS = new Set(["session", "shed", "resync", "mode", "server-shutdown", "batch", "beacon", "unsubscribed",
    "session-closed", "token-expiring", "presence"]);
  const NEEDS_TOKEN = new Set(["token_missing", "token_invalid", "token_expired", "token_revoked", "unauthorized"]);
  const AGAIN_MS = 2000;

  const byId = (id) => document.getElementById(id);
  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const clock = (ms) => new Date(Number.isFinite(ms) ? ms : Date.now()).toLocaleTimeString([], { hour12: false });
  const timeOf = (ms) => element("time", clock(ms));
  const trim = (list, most) => { while (list.children.length > most) list.firstElementChild.remove(); };

  // --- rooms: what the address asks for, and what the server has granted -------------------------------------------

  const wanted = new Set();
  const joined = new Map(); // room -> "yes" | "asked" | "refused"

  function roomsOfAddress() {
    const parts = location.hash.slice(1).split("&").filter((part) => !part.startsWith("token="));
    const rooms = parts.join("&").split(",").map((part) => {
      try { return decodeURIComponent(part).trim(); } catch { return ""; }
    });
    return rooms.filter((room) => /^(agent|task|project):./.test(room));
  }

  function writeAddress() {
    const rooms = [...wanted].map((room) => encodeURIComponent(room).replace("%3A", ":"));
    history.replaceState(null, "", "#" + rooms.join(","));
  }

  function readAddress() {
    const given = location.hash.slice(1).split("&").find((part) => part.startsWith("token="));
    const rooms = roomsOfAddress();
    const next = new Set(rooms.length ? rooms : DEFAULT_ROOMS);
    for (const room of [...wanted]) if (!next.has(room)) leave(room);
    for (const room of next) wanted.add(room);
    writeAddress(); // without the token: an address is copied, shown and kept
    if (given) useToken(decodeURIComponent(given.slice("token=".length)));
    ask();
  }

  function showRooms() {
    byId("rooms").replaceChildren(...[...wanted].map((room) => {
      const item = element("li", undefined, "room");
      item.dataset.joined = joined.get(room) || "no";
      const button = element("button", "×");
      button.type = "button";
      button.setAttribute("aria-label", "stop watching " + room);
      button.addEventListener("click", () => { leave(room); writeAddress(); showRooms(); });
      item.append(element("span", room), button);
      return item;
    }));
    byId("hint").textContent = hint();
  }

  function hint() {
    const id = (kind, standard) => {
      const room = [...wanted].find((name) => name.startsWith(kind + ":"));
      const value = room ? room.slice(kind.length + 1) : standard;
      return /^[\w.:@-]+$/.test(value) ? value : "'" + value.replaceAll("'", "'\\''") + "'";
    };
    return `.venv/bin/wsapp run --agent ${id("agent", "coder")} --task ${id("task", "t1")}`
      + ` --project ${id("project", "p1")} -- ls -la`;
  }

  const request = (verb, room, done) => {
    const at = room.indexOf(":");
    socket.timeout(10000).emit(`${verb}-${room.slice(0, at)}`, room.slice(at + 1), done);
  };

  function ask() {
    showRooms();
    if (!socket.connected || !settled) return;
    const byKind = new Map();
    for (const room of wanted) {
      if (joined.has(room)) continue;
      joined.set(room, "asked");
      const kind = room.slice(0, room.indexOf(":"));
      byKind.set(kind, [...(byKind.get(kind) || []), room]);
    }
    for (const [kind, rooms] of byKind) {
      for (let at = 0; at < rooms.length; at += ROOMS_AT_ONCE) subscribe(kind, rooms.slice(at, at + ROOMS_AT_ONCE));
    }
    showRooms();
  }

  // One request for all rooms of a kind; each room has an answer of its own.
  function subscribe(kind, rooms) {
    const ids = rooms.map((room) => room.slice(kind.length + 1));
    socket.timeout(10000).emit(`subscribe-${kind}`, ids, (lost, answer) => {
      rooms.forEach((room, number) => answered(room, lost, answer && answer.ok ? answer.rooms[number] : answer));
    });
  }

  function answered(room, lost, answer) {
    if (!wanted.has(room)) return;
    if (lost) {
      joined.delete(room);
      if (socket.connected) notice(`${room}: no answer from the server`, "error");
    } else if (answer && answer.ok) {
      joined.set(room, "yes");
      if (answer.seq > 0) showHistory(room, answer.seq);
    } else {
      joined.set(room, "refused");
      notice(`${room}: ${(answer && answer.error && answer.error.message) || "refused"}`, "error");
    }
    showRooms();
  }

  const toldHistory = new Set();

  // What was published before this page came: everything up to the position at which live began.
  function showHistory(room, seq) {
    if (toldHistory.has(room)) return;
    toldHistory.add(room);
    socket.timeout(10000).emit("history", { room, before: seq + 1, limit: HISTORY }, (lost, answer) => {
      if (lost || !answer || !answer.ok) return;
      for (const { event, data } of answer.events) {
        if (event === "agent-thought") addThoughts(data, true);
        else if (event === "task-update") showTask(data, true);
        else showEvent(event, data, true);
      }
    });
  }

  function leave(room) {
    wanted.delete(room);
    if (joined.delete(room) && socket.connected) request("unsubscribe", room, () => {});
  }

  // --- what arrives --------------------------------------------------------------------------------------------------

  const seenIds = new Set();
  function isNew(id) {
    if (id === undefined || id === null) return true;
    if (seenIds.has(id)) return false;
    seenIds.add(id);
    if (seenIds.size > MAX_IDS) seenIds.delete(seenIds.values().next().value);
    return true;
  }

  const scroller = byId("thoughts-scroll");
  const thoughts = byId("thoughts");
  let following = true;
  let total = 0;
  let growing = {}; // the thought whose deltas the newest line takes

  function follow() {
    if (following) scroller.scrollTop = scroller.scrollHeight;
    byId("follow").hidden = following;
  }
  scroller.addEventListener("scroll", () => {
    following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
    byId("follow").hidden = following;
  });
  byId("follow").addEventListener("click", () => { following = true; follow(); });

  // What comes live goes to the end; what comes from history goes where its time is.
  function place(line, old) {
    let before = old ? thoughts.lastElementChild : null;
    while (before && !(Number(before.dataset.ts) < Number(line.dataset.ts))) before = before.previousElementSibling;
    if (before) before.after(line);
    else if (old) thoughts.prepend(line);
    else thoughts.append(line);
  }

  function addThoughts(data, old) {
    // Over the rate limit the thoughts of one agent come together, as an array.
    const fresh = (Array.isArray(data) ? data : [data]).filter((thought) => thought && isNew(thought.id));
    for (const thought of fresh) {
      const text = typeof thought.thought === "string" ? thought.thought : JSON.stringify(thought.thought);
      const begun = !old && thought.delta && thought.thoughtId === growing.id ? growing.text : null;
      if (begun) {
        begun.textContent += text;
        continue;
      }
      const line = element("li");
      const shown = element("p", text);
      if (thought.stream) line.dataset.stream = thought.stream;
      line.append(timeOf(thought.timestamp), element("b", thought.agentId), shown);
      line.dataset.ts = thought.timestamp;
      place(line, old);
      if (!old) growing = thought.delta ? { id: thought.thoughtId, text: shown } : {};
    }
    total += fresh.length;
    byId("thought-count").textContent = String(total);
    byId("empty").hidden = total > 0;
    trim(thoughts, MAX_THOUGHTS);
    follow();
  }

  const tasks = new Map(); // taskId -> its list item

  function taskItem(taskId) {
    let item = tasks.get(taskId);
    if (item) return item;
    item = element("li");
    const top = element("div", undefined, "top");
    const bar = element("progress");
    bar.max = 100;
    bar.setAttribute("aria-label", "progress of " + taskId);
    top.append(element("span", taskId), element("span", "", "status"));
    item.append(top, bar, element("small"));
    if (!tasks.size) byId("tasks").replaceChildren();
    byId("tasks").prepend(item);
    tasks.set(taskId, item);
    if (tasks.size > MAX_TASKS) {
      const [oldest, old] = tasks.entries().next().value;
      tasks.delete(oldest);
      old.remove();
    }
    return item;
  }

  function showTask(update, old) {
    if (!update || !isNew(update.id)) return;
    if (old && tasks.has(String(update.taskId))) return; // the newest comes first
    const item = taskItem(String(update.taskId));
    const bar = item.querySelector("progress");
    const done = update.status === "completed";
    item.dataset.status = update.status;
    if (typeof update.progress === "number") bar.value = update.progress;
    else if (done) bar.value = 100;
    else if (update.status === "pending") bar.value = 0;
    else if (update.status === "in_progress") bar.removeAttribute("value");
    else if (!bar.hasAttribute("value")) bar.value = 0;
    const percent = bar.hasAttribute("value") ? ` · ${Math.round(bar.value)} %` : "";
    item.querySelector(".status").textContent = String(update.status).replace("_", " ") + percent;
    item.querySelector("small").textContent = update.message || "";
  }

  function showEvent(name, data, old) {
    // A publisher may have given its data an `id` of its own: only with the number it is the event's.
    if (data && data.id !== undefined && data.seq !== undefined && !isNew(`${name} ${data.id} ${data.seq}`)) return;
    const list = byId("events");
    list.querySelector(".none")?.remove();
    const line = element("li");
    line.append(timeOf(data && data.timestamp), element("b", name), " " + (data === undefined ? "" : brief(data)));
    if (old) list.append(line);
    else list.prepend(line);
    while (list.children.length > MAX_EVENTS) list.lastElementChild.remove();
  }

  function brief(data) {
    if (data === null || typeof data !== "object" || Array.isArray(data)) return JSON.stringify(data);
    const { id, seq, timestamp, ...rest } = data;
    return Object.entries(rest)
      .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`).join("  ");
  }

  function showShed(shed) {
    if (!shed) return;
    const why = shed.reason ? ` (${shed.reason})` : "";
    const line = element("li", `${shed.count} skipped in ${shed.room}${why}`, "gap");
    thoughts.append(line);
    trim(thoughts, MAX_THOUGHTS);
    byId("empty").hidden = true;
    follow();
  }

  // --- connection ----------------------------------------------------------------------------------------------------

  function notice(text, kind) {
    const item = element("li", text);
    if (kind) item.dataset.kind = kind;
    byId("notices").append(item);
    trim(byId("notices"), MAX_NOTICES);
    setTimeout(() => item.remove(), NOTICE_MS);
  }

  // --- who looks: a token in this tab's memory, sent in `auth` and nowhere else ----------------------------------------

  const KEPT = "wsapp-token";
  let token = sessionStorage.getItem(KEPT) || "";

  function keepToken(given) {
    token = given;
    if (token) sessionStorage.setItem(KEPT, token);
    else sessionStorage.removeItem(KEPT);
    byId("forget").hidden = !token;
    byId("identity-open").textContent = token ? "token of " + holder(token) : "token";
  }

  // Only to be shown: what is in a token is judged by the server.
  function holder(jwt) {
    try {
      const part = jwt.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
      return String(JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (char) => char.charCodeAt(0)))).sub);
    } catch {
      return "?";
    }
  }

  function askForToken(why, kind) {
    byId("identity").hidden = false;
    byId("identity").dataset.kind = kind || "";
    byId("identity-why").textContent = why;
    byId("identity-open").setAttribute("aria-expanded", "true");
  }

  function closeIdentity() {
    byId("identity").hidden = true;
    byId("token").value = "";
    byId("identity-open").setAttribute("aria-expanded", "false");
  }

  function useToken(given) {
    if (!socket.connected || !token) {
      keepToken(given);
      closeIdentity();
      socket.disconnect().connect();
      return;
    }
    socket.timeout(10000).emit("refresh-token", given, (lost, answer) => {
      if (lost) askForToken("no answer from the server; try again", "error");
      else if (answer.ok) {
        keepToken(given);
        closeIdentity();
        notice(`goes on with the new token for ${Math.round(answer.expiresInMs / 1000)} s`, "good");
      } else if (answer.error.code === "forbidden") { // somebody else's: a new session
        keepToken(given);
        closeIdentity();
        socket.disconnect().connect();
      } else askForToken(`refused: ${answer.error.message} (${answer.error.code})`, "error");
    });
  }

  byId("identity-open").addEventListener("click", () => {
    if (byId("identity").hidden) {
      askForToken("The server asks for tokens? Paste one; this tab alone keeps it. "
        + "A link may bring it: #token=…, which is taken out of the address at once.");
      byId("token").focus();
    } else closeIdentity();
  });
  byId("identify").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = byId("token").value.trim();
    if (given) useToken(given);
  });
  byId("forget").addEventListener("click", () => {
    keepToken("");
    closeIdentity();
    socket.disconnect().connect();
  });

  let facts = {};
  function state(name, text) {
    byId("state").dataset.state = name;
    byId("state-text").textContent = text || name;
    const shown = [facts.transport, facts.session && "session " + facts.session, facts.mode];
    byId("facts").textContent = shown.filter(Boolean).join(" · ");
  }

  const path = new URL(document.querySelector("meta[name=socket-path]").content, document.baseURI).pathname;
  const socket = io({ path, auth: (send) => send(token ? { wsapp: 1, token } : { wsapp: 1 }), autoConnect: false, reconnectionDelay: 500, reconnectionDelayMax: 5000 });
  let settled = false; // the server has told whether the session was recovered
  let everConnected = false;
  let shutdownMs = 0;

  function settle(session) {
    if (settled) return;
    settled = true;
    const recovered = Boolean(session && session.recovered);
    if (!recovered) joined.clear(); // a new session, which is in the rooms that the server names
    for (const room of Object.keys((session && session.rooms) || {})) {
      joined.set(room, "yes");
      if (!wanted.has(room)) leave(room);
    }
    state("connected", recovered ? "recovered" : "connected");
    ask();
  }

  socket.on("connect", () => {
    const engine = socket.io.engine;
    facts = { transport: engine.transport.name };
    engine.on("upgrade", (transport) => { facts.transport = transport.name; state("connected", byId("state-text").textContent); });
    settled = false;
    shutdownMs = 0;
    closed = null;
    state("connected");
    setTimeout(() => { if (socket.connected) settle(null); }, SESSION_WAIT_MS);
  });

  socket.on("session", (session) => {
    if (session && session.sessionId) facts.session = String(session.sessionId).slice(0, 6) + "…";
    if (session && everConnected) {
      const missed = Number(session.missed) || 0;
      if (session.recovered) notice(`back; ${missed} missed events replayed`, "good");
      else notice(`back, but what was missed could not be replayed${session.reason ? ": " + session.reason : ""}`);
    }
    everConnected = true;
    settle(session);
  });

  socket.on("disconnect", (reason, details) => {
    const code = details && details.context && details.context.code;
    for (const [room, how] of joined) if (how === "asked") joined.delete(room);
    if (code >= 4500 && code < 5000) {
      socket.disconnect();
      ended({ code, reason: details.context.reason });
      return;
    }
    if (reason === "io client disconnect") return;
    if (closed && closed.code >= 4500) return;
    state("reconnecting");
    // The library does not come back by itself when the server ended the connection in words.
    if (reason === "io server disconnect") setTimeout(() => socket.connect(), shutdownMs || 1000);
  });

  // Polling shows no close code: it is told before. From 4500 on there is no coming back without a change.
  let closed = null;
  function ended(what) {
    closed = what;
    if (!(what.code >= 4500)) return;
    const why = String(what.reason || what.code).replaceAll("_", " ");
    socket.disconnect();
    state("refused", "closed: " + why);
    joined.clear();
    showRooms();
    if (NEEDS_TOKEN.has(what.reason)) askForToken(`The server closed the connection: ${why}. Paste a newer token.`, "error");
  }
  socket.on("session-closed", (what) => { if (what) ended(what); });

  socket.on("connect_error", (error) => {
    if (socket.active) {
      state("reconnecting", everConnected ? "reconnecting" : "connecting");
      return;
    }
    const code = (error.data && error.data.code) || "";
    const missing = code === "token_missing";
    state("refused", missing ? "refused: a token is needed" : `refused: ${error.message}`);
    if (missing) askForToken(`A token is needed (${code}). Paste one: this tab alone keeps it.`);
    else if (error.data && error.data.retryable) setTimeout(() => { if (!socket.active) socket.connect(); }, AGAIN_MS);
    else if (NEEDS_TOKEN.has(code)) askForToken(`The server refused: ${error.message} (${code}).`, "error");
  });

  socket.on("token-expiring", (what) => {
    const seconds = Math.max(0, Math.round(((what && what.expiresInMs) || 0) / 1000));
    askForToken(`This token ends in ${seconds} s. Paste a newer one of the same user to go on.`);
  });

  socket.on("unsubscribed", (what) => {
    if (!what) return;
    if (wanted.has(what.room)) joined.set(what.room, "refused");
    notice(`${what.room}: not allowed any more (${what.reason})`, "error");
    showRooms();
  });

  // The sdk profile: an event comes with its meta, over the rate limit in a batch of [name, data, meta].
  function receive(name, data, meta) {
    if (meta && meta.critical) socket.emit("ack-event", meta.id);
    if (name === "agent-thought") addThoughts(data);
    else if (name === "task-update") showTask(data);
    else showEvent(name, data);
  }
  socket.onAny((name, data, meta) => { if (!OWN_EVENTS.has(name)) receive(name, data, meta); });
  socket.on("batch", (events) => { for (const event of events) receive(...event); });
  socket.on("shed", showShed);
  socket.on("resync", (what) => {
    if (what) notice(`${what.room}: ${what.missed || "some"} events were missed and cannot be replayed (${what.reason})`);
  });
  socket.on("mode", (what) => {
    const mode = typeof what === "string" ? what : (what && what.mode) || "";
    facts.mode = mode && mode !== "normal" ? "mode: " + mode : "";
    notice(mode === "normal" ? "the server is back to normal" : `the server is in mode "${mode}"`,
      mode === "normal" ? "good" : undefined);
    state(byId("state").dataset.state, byId("state-text").textContent);
  });
  socket.on("server-shutdown", (what) => {
    shutdownMs = (what && Number(what.retryAfterMs)) || 0;
    notice(`the server restarts; back in about ${Math.max(1, Math.round(shutdownMs / 1000))} s`);
  });

  byId("subscribe").addEventListener("submit", (event) => {
    event.preventDefault();
    const input = byId("room");
    const room = input.value.trim();
    if (joined.get(room) === "refused") joined.delete(room);
    wanted.add(room);
    input.value = "";
    writeAddress();
    ask();
  });
  window.addEventListener("hashchange", readAddress);

  keepToken(token);
  readAddress();
  if (!socket.active) socket.connect();
})();
