// A user of BullMQ as any other: it does what the lines on its standard input ask for, one after the other, and
// answers each with a line. `node peer.cjs REDIS_URL PREFIX`, with BullMQ's packages on NODE_PATH.
'use strict';

const readline = require('node:readline');
const { createBullBoard } = require('@bull-board/api');
const { BullMQAdapter } = require('@bull-board/api/bullMQAdapter');
const { Queue, Worker } = require('bullmq');
const Redis = require('ioredis');

const [url, prefix] = process.argv.slice(2);
const connection = new Redis(url, { maxRetriesPerRequest: null });
const queues = new Map();
const workers = [];
const worked = [];

function queueOf(lane) {
  if (!queues.has(lane)) queues.set(lane, new Queue(lane, { connection, prefix }));
  return queues.get(lane);
}

const plain = (value) => (value === undefined ? null : JSON.parse(JSON.stringify(value)));

function work({ lane, outcome, options }) {
  const run = async (job) => {
    worked.push({ lane, id: job.id, name: job.name, data: job.data, attempt: job.attemptsMade, opts: job.opts });
    if (outcome === 'fail') throw new Error('the peer lets it fail');
    if (outcome === 'hang') await new Promise(() => {});
    return 'done by the peer';
  };
  const worker = new Worker(lane, run, { connection, prefix, ...options });
  worker.on('error', () => {}); // the lease that a test took away
  workers.push(worker);
  return worker.waitUntilReady();
}

// What Bull Board's page asks its server for, without a server.
async function board({ lanes, query }) {
  const adapter = {};
  let routes;
  let shown;
  for (const name of ['setViewsPath', 'setStaticPath', 'setUIConfig', 'setEntryRoute', 'setErrorHandler']) {
    adapter[name] = () => adapter;
  }
  adapter.setQueues = (given) => ((shown = given), adapter);
  adapter.setApiRoutes = (given) => ((routes = given), adapter);
  createBullBoard({ queues: lanes.map((lane) => new BullMQAdapter(queueOf(lane))), serverAdapter: adapter });
  const page = routes.find(({ method, route }) => method === 'get' && route === '/api/queues');
  const { status, body } = await page.handler({ queues: shown, query, params: {}, headers: {} });
  if (!body.queues) throw new Error(`Bull Board says ${status}: ${JSON.stringify(body)}`);
  return body.queues;
}

const doing = {
  queue: ({ lane, method, arguments: given }) => queueOf(lane)[method](...given),
  async job({ lane, id, method, arguments: given }) {
    const job = await queueOf(lane).getJob(id);
    return job ? job[method](...given) : null;
  },
  redis: ({ command, arguments: given }) => connection.call(command, ...given),
  work,
  worked: () => worked,
  board,
  stop: () => Promise.all(workers.splice(0).map((worker) => worker.close(true))),
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { what, ...given } = JSON.parse(line);
    let said;
    try {
      said = { answer: plain(await doing[what](given)) };
    } catch (error) {
      said = { error: String(error.stack || error) };
    }
    process.stdout.write(`${JSON.stringify(said)}\n`);
  }
  await doing.stop();
  await Promise.all([...queues.values()].map((queue) => queue.close()));
  connection.disconnect();
}

main();
