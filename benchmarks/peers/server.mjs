// The Node peer: stock socket.io with the Redis adapter, one process per worker.
// Environment: PORT, REDIS_URL, WORKERS, DEFLATE (1 offers permessage-deflate), PING_INTERVAL (ms).
import cluster from "node:cluster";
import http from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

async function serve() {
  const publisher = createClient({ url: process.env.REDIS_URL });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  const web = http.createServer((request, response) => {
    response.writeHead(request.url === "/readyz" ? 200 : 404).end();
  });
  const io = new Server(web, {
    pingInterval: Number(process.env.PING_INTERVAL ?? 25000),
    adapter: createAdapter(publisher, subscriber),
    perMessageDeflate: process.env.DEFLATE === "1" ? { threshold: 256, serverNoContextTakeover: true } : false,
  });
  io.on("connection", (socket) => {
    socket.on("subscribe-agent", (id, acknowledge) => {
      socket.join(`agent:${id}`);
      acknowledge?.({ ok: true });
    });
    socket.on("update-metadata", (_data, acknowledge) => acknowledge?.({ ok: true }));
  });
  web.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 });
}

if (cluster.isPrimary) {
  const workers = Number(process.env.WORKERS ?? 1);
  for (let i = 0; i < workers; i++) cluster.fork();
  process.on("SIGTERM", () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill("SIGKILL");
    process.exit(0);
  });
} else {
  process.on("disconnect", () => process.exit(0));
  await serve();
}
