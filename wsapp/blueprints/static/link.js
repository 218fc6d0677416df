// The connection, and what may honestly be said about the page: live, so many behind, as of a time, refused (DESIGN G9).
//
//   connecting --connect, session--> catching --positions: all sent--> live
//        ^                              |                               |
//        +-------- lost: "as of" <------+---- closed, silent, stopped --+        refused: needs a change, such as a token
//
// "live" is only shown once the server has confirmed that everything it has was sent before its answer.  Whenever that is
// in doubt the page shows as of when it is, and either hears the confirmation again or connects anew at once.

import { clock } from "./dom.js";
import { watchLifecycle } from "./lifecycle.js";

const SESSION_WAIT_MS = 1500;
const REQUEST_MS = 10000;
const CONFIRM_MS = 5000;
const CONFIRM_SOON_MS = 250; // of a page that is back: then it connects anew
const AGAIN_MS = [50, 100, 200, 400, 1000];
const MOST_WAKES = 20;
const SILENT_MS = 15000; // beacons come every 10 s
const FORCE_MS = 100;
const DELAY_MS = 500;
const RETRY_MS = 2000;

export class Link {
  phase = "connecting";
  problem = "";
  mode = "normal";
  behind = 0;
  heard = Date.now(); // when the server was last heard
  asOf = 0; // when the page was last known to be current; 0: never was
  #back = null; // {kind, started} while a page that is back is not current yet
  #joined = false; // Socket.IO has begun on this connection
  #settled = false;
  #everConnected = false;
  #shutdownMs = 0;
  #ended = false;
  #confirming = 0;
  #wake = null;

  // hooks: auth() -> object, settled(session), lost(), back(asOf), changed(), positions(rooms), refused(code, text)
  constructor(path, hooks, transports) {
    this.hooks = hooks;
    this.socket = io({
      path, auth: (send) => send(hooks.auth()), autoConnect: false, reconnectionDelay: DELAY_MS, reconnectionDelayMax: 5000,
      rememberUpgrade: true, ...(transports ? { transports } : {}),
    });
    this.socket.on("connect", () => this.#connected());
    this.socket.on("disconnect", (reason, details) => this.#disconnected(reason, details));
    this.socket.on("connect_error", (error) => this.#failed(error));
    this.socket.on("session", (session) => this.#settle(session));
    this.socket.on("session-closed", (what) => { if (what) this.#end(what.code, what.reason); });
    this.socket.on("server-shutdown", (what) => { this.#shutdownMs = (what && Number(what.retryAfterMs)) || 0; });
    this.socket.on("mode", (what) => { this.mode = (what && what.mode) || "normal"; this.#explainMode(); });
    this.socket.on("beacon", () => { if (document.visibilityState === "visible") this.confirm(); });
    this.#life = watchLifecycle({
      leaving: (kind) => this.#leaving(kind), back: (kind) => this.#isBack(kind), tick: () => this.#tick(),
    });
  }

  #life;

  get connected() { return this.socket.connected; }

  get transport() { return this.socket.io.engine?.transport?.name; }

  start() { if (!this.socket.active) this.socket.connect(); }

  // A new connection with what `auth` says now.
  again() {
    this.#ended = false;
    this.#set("connecting", "");
    this.socket.disconnect().connect();
  }

  request(name, payload, wait = REQUEST_MS) { return this.socket.timeout(wait).emitWithAck(name, payload); }

  // --- coming

  #connected() {
    this.#joined = true;
    this.socket.io.reconnectionDelay(DELAY_MS);
    const engine = this.socket.io.engine;
    engine.on("packet", () => this.#hear());
    engine.on("upgrade", () => this.hooks.changed());
    this.#settled = false;
    this.#ended = false;
    this.#shutdownMs = 0;
    this.#hear();
    this.#set("catching", "");
    setTimeout(() => { if (this.connected) this.#settle(null); }, SESSION_WAIT_MS);
  }

  #hear() {
    this.#life.noticed();
    this.heard = Date.now();
  }

  async #settle(session) {
    if (this.#settled) return;
    this.#settled = true;
    const again = this.#everConnected;
    this.#everConnected = true;
    if (again) this.hooks.back(this.asOf);
    await this.hooks.settled(session, again);
    this.confirm();
  }

  // --- is everything here?

  async confirm() {
    const turn = ++this.#confirming;
    const mine = () => turn === this.#confirming && this.connected && this.#settled;
    if (!mine()) return;
    for (let attempt = 0; ; attempt += 1) {
      const answer = await this.request("positions", null, this.#back ? CONFIRM_SOON_MS : CONFIRM_MS).catch(() => null);
      if (!mine()) return;
      if (!answer) return this.#doubt();
      if (!answer.ok) return this.#isCurrent(); // a server of before: it does not know the request
      this.hooks.positions(answer.rooms);
      if (this.mode !== answer.mode) {
        this.mode = answer.mode;
        this.#explainMode();
      }
      this.behind = Object.values(answer.rooms).reduce((sum, { seq, sent }) => sum + Math.max(0, seq - sent), 0);
      if (!this.behind) return this.#isCurrent();
      if (this.phase === "live") this.#set("catching", "");
      else this.hooks.changed();
      await this.#more(attempt);
      if (!mine()) return;
    }
  }

  // Until more has come: timers of a page that was just thawed may be a second late.
  #more(attempt) {
    return new Promise((done) => {
      setTimeout(done, AGAIN_MS[Math.min(attempt, AGAIN_MS.length - 1)]);
      if (attempt < MOST_WAKES) this.#wake = done;
    });
  }

  arrived() {
    const wake = this.#wake;
    this.#wake = null;
    if (wake) wake();
  }

  #isCurrent() {
    this.behind = 0;
    this.asOf = Date.now();
    const back = this.#back;
    this.#back = null;
    this.#set("live", "");
    if (back) performance.measure("wsapp-return", { start: back.started, end: performance.now(), detail: back.kind });
  }

  // No answer: the connection may be dead without anybody having noticed.
  #doubt() {
    this.#lose("the server does not answer");
    this.reconnect();
  }

  // --- going

  #tick() {
    if (this.phase === "live" && document.visibilityState === "visible") {
      if (Date.now() - this.heard > SILENT_MS) this.confirm();
      else this.asOf = this.heard;
    }
    this.hooks.changed();
  }

  #leaving(kind) {
    if (this.phase === "refused") return;
    this.#lose(kind === "offline" ? "this device is offline" : "");
    if (kind === "pagehide") this.#close(); // an open WebSocket may keep a page out of the cache, or is cut there
  }

  #isBack(kind) {
    if (this.phase === "refused") return;
    const fresh = kind === "visible" && this.phase === "live" && Date.now() - this.heard < SILENT_MS;
    if (fresh) return void this.confirm();
    this.#back ||= { kind, started: performance.now() };
    this.#lose("");
    this.hooks.back(this.asOf);
    if (this.connected && this.#settled) this.confirm();
    else this.reconnect();
  }

  #lose(problem) {
    if (this.phase !== "lost") this.hooks.lost();
    this.#set(this.asOf ? "lost" : "connecting", problem);
  }

  #close() {
    this.socket.io.engine?.close();
    if (!this.connected) this.socket.disconnect(); // ends the waiting for the next attempt; nothing is sent
  }

  // Now, whatever the library is waiting for.  It would send a DISCONNECT over a connection that it still believes in,
  // so that one is closed below it first.
  reconnect() {
    const go = () => {
      if (this.socket.connected) this.socket.disconnect();
      this.#close();
      this.socket.connect();
    };
    this.socket.io.engine?.close();
    if (this.socket.connected) setTimeout(go, FORCE_MS); // something still waits to be written
    else go();
  }

  #disconnected(reason, details) {
    if (!this.#joined) return void this.socket.io.reconnectionDelay(RETRY_MS); // opened and refused, as a strange origin is
    this.#joined = false;
    const code = details && details.context && details.context.code;
    if (code >= 4500 && code < 5000) return this.#end(code, details.context.reason);
    if (this.#ended || reason === "io client disconnect") return;
    this.#lose(this.#shutdownMs ? "the server restarts" : navigator.onLine ? "" : "this device is offline");
    if (this.#back && reason !== "forced close") this.reconnect();
    // The library does not come back by itself when the server ended the connection in words.
    else if (reason === "io server disconnect") setTimeout(() => this.start(), this.#shutdownMs || 1000);
  }

  // Polling shows no close code: it is told before.  From 4500 on there is no coming back without a change.
  #end(code, reason) {
    if (!(code >= 4500)) return;
    const why = String(reason || code).replaceAll("_", " ");
    this.#ended = true;
    this.socket.disconnect();
    this.#set("refused", "closed: " + why);
    this.hooks.refused(String(reason), `The server closed the connection: ${why}.`, "closed");
  }

  async #failed(error) {
    if (this.socket.active) {
      this.#lose(this.problem);
      const problem = refusal(error) || await notReady();
      if (!this.connected && this.phase !== "refused") this.#set(this.phase, problem || "the server does not answer");
      return;
    }
    const data = error.data || {};
    this.#set("refused", data.code === "token_missing" ? "refused: a token is needed" : `refused: ${error.message}`);
    if (data.retryable) setTimeout(() => this.start(), RETRY_MS);
    else this.hooks.refused(data.code || "", `The server refused: ${error.message} (${data.code}).`, "refused");
  }

  async #explainMode() {
    this.hooks.changed();
    if (this.mode === "normal") return;
    const why = await notReady();
    if (this.mode !== "normal") {
      this.problem = why || this.problem;
      this.hooks.changed();
    }
  }

  // --- shown

  #set(phase, problem) {
    this.phase = phase;
    if (!(problem === "" && phase === "live" && this.mode !== "normal")) this.problem = problem;
    if (phase !== "live" && phase !== "catching") this.behind = 0;
    this.hooks.changed();
  }

  // {state, text, detail}
  describe() {
    const since = this.asOf ? `as of ${clock(this.asOf)}` : "";
    if (this.phase === "refused") return { state: "refused", text: this.problem, detail: "" };
    if (this.phase === "live" && this.mode === "degraded") {
      return { state: "degraded", text: "degraded", detail: this.problem || "Redis is away: events of other workers do not arrive" };
    }
    if (this.phase === "live") return { state: "live", text: "live", detail: this.mode === "catching_up" ? "Redis is back; what waited is being published" : "" };
    if (this.behind) return { state: "behind", text: `${this.behind.toLocaleString("en")} behind`, detail: since };
    if (this.phase === "connecting") return { state: "connecting", text: "connecting", detail: this.problem };
    return { state: "stale", text: since || "connecting", detail: this.problem || (this.phase === "lost" ? "reconnecting" : "catching up") };
  }
}

// What the server says with a refusal: full, draining, a wrong origin.  A browser shows it for polling alone.
function refusal(error) {
  const answer = error.context && error.context.responseText;
  if (!answer) return "";
  try { return String(JSON.parse(answer).message || "").replace(/^Forbidden: /, ""); } catch { return ""; }
}

async function notReady() {
  try {
    const answer = await fetch("readyz", { cache: "no-store" });
    if (answer.status !== 503) return "";
    const { reason } = await answer.json();
    return `the server is not ready: ${String(reason).replace(/ \([^)]*\)$/, "")}`;
  } catch {
    return "";
  }
}
