// Publishes for the Node peer through @socket.io/redis-emitter; the twin of publisher.py, one JSON plan in argv.
import fs from "node:fs";
import { Emitter } from "@socket.io/redis-emitter";
import { createClient } from "redis";

const plan = JSON.parse(process.argv[2]);
const client = createClient({ url: plan.redis });
await client.connect();
const emitter = new Emitter(client);
const shared = fs.openSync(plan.shared, "r");
const word = Buffer.alloc(8);

function delivered() {
  fs.readSync(shared, word, 0, 8, 0);
  return Number(word.readBigUInt64LE());
}

const seconds = () => Number(process.hrtime.bigint()) / 1e9;
const sleep = (s) => new Promise((resolve) => setTimeout(resolve, s * 1000));

function publish(n) {
  const agentId = `a${plan.first + (n % plan.rooms)}`;
  emitter.to(`agent:${agentId}`).emit("agent-thought", {
    agentId, thought: `benchNs=${process.hrtime.bigint()} ${plan.text}`, timestamp: Date.now(),
  });
}

async function paced() {
  const began = seconds();
  for (let n = 0; ; n++) {
    const due = began + n / plan.rate;
    if (due - began >= plan.seconds) return n;
    while (seconds() < due) await sleep(Math.max(0, due - seconds()));
    publish(n);
  }
}

async function windowed() {
  const began = seconds(), base = delivered();
  let n = 0;
  while (seconds() - began < plan.seconds) {
    while (n < plan.window + (delivered() - base) / plan.members) publish(n++);
    await sleep(0.001);
  }
  return n;
}

const began = seconds();
const published = plan.window ? await windowed() : await paced();
console.log(JSON.stringify({ published, refused: 0, seconds: seconds() - began }));
await client.quit();
