// The reference's way with npm bullmq: one Queue and one Worker a session, each with connections of its own, a set of
// the sessions that are known on one more, and three calls to enqueue, four to claim and confirm. `node twin.cjs
// REDIS_URL`: each line on its standard input is a measurement, answered by the seconds it took and those of this
// process' CPU; queues, workers and their connections are made before the clocks run.
'use strict';

const readline = require('node:readline');
const { Queue, Worker } = require('bullmq');
const Redis = require('ioredis');

const { hostname, port, username, password } = new URL(process.argv[2]);
const connection = { host: hostname, port: Number(port), username, password, maxRetriesPerRequest: null };
const registry = new Redis(connection);
const REGISTRY = 'twin:sessions';
const BODY = { text: 'x'.repeat(900) };
const KEPT = { attempts: 1000000, removeOnComplete: true, removeOnFail: { age: 24 * 60 * 60, count: 1000 } };
const PENDING = ['waiting', 'active', 'delayed', 'prioritized', 'waiting-children'];
const LOCK_MS = 5 * 60 * 1000;

async function open(prefix, sessions, withWorkers) {
  const lanes = [];
  for (let number = 0; number < sessions; number += 1) {
    const queue = new Queue(`session-${number}`, { connection, prefix });
    const worker =
      withWorkers && new Worker(queue.name, null, { connection, prefix, autorun: false, lockDuration: LOCK_MS });
    await Promise.all([queue.waitUntilReady(), worker && worker.waitUntilReady()]);
    lanes.push({ queue, worker });
  }
  return lanes;
}

const close = (lanes) =>
  Promise.all(lanes.map(({ queue, worker }) => Promise.all([queue.close(), worker && worker.close(true)])));

async function enqueueOne({ queue }, id) {
  await registry.sadd(REGISTRY, queue.qualifiedName);
  if (await queue.getJob(id)) return;
  await queue.add('event', BODY, { jobId: id, ...KEPT });
}

async function claimAndConfirm({ queue, worker }, token) {
  const job = await worker.getNextJob(token, { block: false });
  if (!job) return false;
  const renewal = setInterval(() => job.extendLock(token, LOCK_MS), LOCK_MS / 2);
  await job.moveToCompleted({ ok: true }, token, false);
  clearInterval(renewal);
  const counts = await queue.getJobCounts(...PENDING);
  if (Object.values(counts).every((count) => count === 0)) await registry.srem(REGISTRY, queue.qualifiedName);
  return true;
}

async function inParallel(count, work) {
  const [began, cpu] = [process.hrtime.bigint(), process.cpuUsage()];
  await Promise.all(Array.from({ length: count }, (_, number) => work(number)));
  const took = Number(process.hrtime.bigint() - began) / 1e9;
  const { user, system } = process.cpuUsage(cpu);
  return { took, cpu: (user + system) / 1e6 };
}

const measure = {
  async enqueue({ prefix, sessions, producers, count }) {
    const lanes = await open(prefix, sessions, false);
    const took = await inParallel(producers, async (producer) => {
      for (let number = producer; number < count; number += producers) {
        await enqueueOne(lanes[number % sessions], `evt_${number}`);
      }
    });
    await close(lanes);
    return took;
  },
  // Each consumer has sessions of its own, as the reference gives each session a consumer.
  async drain({ prefix, sessions, consumers }) {
    const lanes = await open(prefix, sessions, true);
    const took = await inParallel(consumers, async (consumer) => {
      let left = lanes.filter((_, number) => number % consumers === consumer);
      while (left.length) {
        const still = [];
        for (const lane of left) if (await claimAndConfirm(lane, `token-${consumer}`)) still.push(lane);
        left = still;
      }
    });
    await close(lanes);
    return took;
  },
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { what, ...given } = JSON.parse(line);
    process.stdout.write(`${JSON.stringify(await measure[what](given))}\n`);
  }
  registry.disconnect();
}

main();
