// Drives any number of socket.io-client sockets for the tests: one JSON command per line of stdin, one JSON line of
// stdout per thing that happened.  Every line names its `client`.
//   in:  open {url, options} · emit {call, event, args} · drop · cut · leave · connect · pause · resume · close ·
//        stats {call}
//   out: connect {id, recovered, transport} · event {name, args} · ack {call, args} · disconnect {reason, code} ·
//        upgrade {detail} · connect_error {detail} · stats {call, ...}
"use strict";

const readline = require("node:readline");
const { io } = require("socket.io-client");

const sockets = new Map();

function tell(client, type, fields) {
  process.stdout.write(JSON.stringify({ client, type, ...fields }) + "\n");
}

function tcp(socket) {
  const engine = socket.io.engine;
  const ws = engine && engine.transport && engine.transport.ws;
  return ws && ws._socket;
}

const commands = {
  open({ client, url, options }) {
    const socket = io(url, options);
    sockets.set(client, socket);
    socket.on("connect", () => {
      const engine = socket.io.engine;
      tell(client, "connect", { id: socket.id, recovered: Boolean(socket.recovered), transport: engine.transport.name });
      engine.once("upgrade", (transport) => tell(client, "upgrade", { detail: transport.name }));
    });
    socket.on("connect_error", (error) => {
      const context = error.context || {};
      tell(client, "connect_error", { detail: { message: error.message, data: error.data, status: context.status } });
    });
    socket.on("disconnect", (reason, details) => {
      const context = details && details.context;
      tell(client, "disconnect", { reason, code: (context && context.code) || null });
    });
    socket.onAny((name, ...args) => tell(client, "event", { name, args }));
  },
  emit({ client, call, event, args }) {
    sockets.get(client).emit(event, ...args, (...answer) => tell(client, "ack", { call, args: answer }));
  },
  drop({ client }) {
    sockets.get(client).io.engine.close();
  },
  cut({ client }) {
    tcp(sockets.get(client)).destroy();
  },
  // What a network that goes away does to the client, without its coming back by itself.
  leave({ client }) {
    const manager = sockets.get(client).io;
    manager.reconnection(false);
    manager.engine.close();
  },
  connect({ client }) {
    const socket = sockets.get(client);
    socket.io.reconnection(true);
    socket.connect();
  },
  pause({ client }) {
    tcp(sockets.get(client)).pause();
  },
  resume({ client }) {
    tcp(sockets.get(client)).resume();
  },
  close({ client }) {
    sockets.get(client).disconnect();
  },
  stats({ client, call }) {
    const socket = sockets.get(client);
    const engine = socket.io.engine;
    const link = tcp(socket);
    tell(client, "stats", {
      call, id: socket.id, connected: socket.connected, recovered: socket.recovered,
      transport: engine && engine.transport.name, localPort: link ? link.localPort : 0,
    });
  },
};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  commands[command.cmd](command);
}).on("close", () => process.exit(0));
