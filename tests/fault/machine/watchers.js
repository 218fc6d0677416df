// Many stock socket.io-clients for the fault machine: each stays in its rooms, comes back by itself, and tells what it
// saw in short.  One JSON command per line of stdin; every 20 ms one line of stdout with an array of what happened.
//   in:  open {n, url, auth, rooms, rate} · twin {n, of, url} · cut · pause · resume · leave · connect · rate {rate} · close
//   out: ["e", n, seq, id, k] event · ["s", n, recovered, rooms, reason] session · ["j", n, room, epoch, seq] subscribed
//        ["x", n, room, from, to, count] shed · ["r", n, room, epoch, seq] resync · ["d", n, code] disconnect
//        ["m", n, mode] mode · ["h", n, ms] server-shutdown
"use strict";

const readline = require("node:readline");
const { io } = require("socket.io-client");

const clients = new Map();
let out = [];

setInterval(() => {
  if (out.length) {
    process.stdout.write(JSON.stringify(out) + "\n");
    out = [];
  }
}, 20);

function tcp(socket) {
  const engine = socket.io.engine;
  const ws = engine && engine.transport && engine.transport.ws;
  return ws && ws._socket;
}

function saw(n, data) {
  for (const one of Array.isArray(data) ? data : [data]) {
    if (one && one.k !== undefined) out.push(["e", n, one.seq || 0, one.id, one.k]);
    if (one && one.c) clients.get(n).socket.volatile.emit("ack-event", one.id);  // each copy: the first may be lost
  }
}

function subscribe(client, room, connection) {
  const { n, socket } = client;
  const [kind, id] = [room.slice(0, room.indexOf(":")), room.slice(room.indexOf(":") + 1)];
  if (socket.id !== connection || !socket.connected) return;
  socket.timeout(5000).emit("subscribe-" + kind, id, (error, told) => {
    if (socket.id !== connection) return;
    if (!error && told.ok) out.push(["j", n, room, told.epoch, told.seq]);
    else setTimeout(() => subscribe(client, room, connection), 200);
  });
}

const commands = {
  // The same session a second time: what a duplicated browser tab presents.
  twin({ n, of, url }) {
    const { socket, auth, rooms, rate } = clients.get(of);
    commands.open({ n, url, auth, rooms, rate, pid: socket._pid });
  },
  open({ n, url, auth, rooms, rate, pid }) {
    const socket = io(url, {
      transports: ["websocket"], auth, forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 500, timeout: 4000,
      autoConnect: false,
    });
    if (pid) Object.assign(socket, { _pid: pid });
    const client = { n, socket, auth, rooms, rate };
    clients.set(n, client);
    socket.onAny((name, ...args) => {
      const data = args[0];
      if (name === "session") {
        const rooms = data.rooms || {};
        out.push(["s", n, data.recovered, rooms, data.reason || ""]);
        for (const room of client.rooms) if (!(room in rooms)) subscribe(client, room, socket.id);
        if (client.rate) socket.emit("set-rate", { rate: client.rate });
      } else if (name === "batch") for (const [, one] of data) saw(n, one);
      else if (name === "shed") out.push(["x", n, data.room, data.from, data.to, data.count]);
      else if (name === "resync") out.push(["r", n, data.room, data.epoch, data.seq]);
      else if (name === "mode") out.push(["m", n, data.mode]);
      else if (name === "server-shutdown") out.push(["h", n, data.retryAfterMs]);
      else saw(n, data);
    });
    socket.on("disconnect", (reason, details) => {
      const context = details && details.context;
      out.push(["d", n, (context && context.code) || 0]);
    });
    socket.connect();
  },
  cut({ n }) {
    const link = tcp(clients.get(n).socket);
    if (link) link.destroy();
  },
  pause({ n }) {
    const link = tcp(clients.get(n).socket);
    if (link) link.pause();
  },
  resume({ n }) {
    const link = tcp(clients.get(n).socket);
    if (link) link.resume();
  },
  leave({ n }) {
    const manager = clients.get(n).socket.io;
    manager.reconnection(false);
    if (manager.engine) manager.engine.close();
  },
  connect({ n }) {
    const { socket } = clients.get(n);
    socket.io.reconnection(true);
    socket.connect();
  },
  rate({ n, rate }) {
    const client = clients.get(n);
    client.rate = rate;
    client.socket.emit("set-rate", { rate });
  },
  close({ n }) {
    clients.get(n).socket.disconnect();
  },
};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  commands[command.cmd](command);
}).on("close", () => process.exit(0));
