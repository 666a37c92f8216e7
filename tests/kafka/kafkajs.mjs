// kafkajs does one thing and says what came of it: see kafka_clients_foreign.py.
import { readFileSync } from "node:fs";
import kafkajs from "kafkajs";

const { CompressionTypes, Kafka, Partitioners, logLevel } = kafkajs;
const [bootstrap, user, password, mechanism, ca, patience, verb, ...given] = process.argv.slice(2);
const kafka = new Kafka({
  brokers: [bootstrap],
  ssl: ca ? { ca: [readFileSync(ca)] } : undefined,
  sasl: user ? { mechanism: mechanism.toLowerCase(), username: user, password } : undefined,
  logLevel: logLevel.NOTHING,
  retry: { retries: 3, initialRetryTime: 100, maxRetryTime: Number(patience) },
});

const hex = (bytes) => (bytes === null || bytes === undefined ? "-" : Buffer.from(bytes).toString("hex"));
const unhex = (text) => (text === "-" ? null : Buffer.from(text, "hex"));

function parsed(line) {
  const [key, value, said] = line.split("|");
  const headers = {};
  for (const one of said ? said.split(";") : []) {
    const [name, content] = one.split(":");
    (headers[unhex(name).toString()] ??= []).push(unhex(content));
  }
  return { key: unhex(key), value: unhex(value), headers, partition: 0 };
}

function shown({ key, value, headers }) {
  const pairs = Object.entries(headers).flatMap(([name, said]) => [said].flat().map((one) => [name, one]));
  return [hex(key), hex(value), pairs.map(([name, one]) => `${hex(name)}:${hex(one)}`).join(";")].join("|");
}

async function produce(topic, codec, path) {
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  try {
    const messages = readFileSync(path, "utf8").split("\n").filter(Boolean).map(parsed);
    const compression = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP }[codec];
    const [{ baseOffset }] = await producer.send({ topic, compression, acks: -1, messages });
    return messages.map((_, n) => Number(baseOffset) + n);
  } finally {
    await producer.disconnect();
  }
}

async function member(groupId, topic, options = {}) {
  const consumer = kafka.consumer({ groupId, heartbeatInterval: 200, sessionTimeout: 6000, maxWaitTimeInMs: 200, ...options });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  return consumer;
}

async function read(topic, groupId, count) {
  const consumer = await member(groupId, topic);
  const found = [];
  const next = new Map();
  try {
    await new Promise((done, failed) => {
      consumer.on(consumer.events.CRASH, ({ payload }) => failed(payload.error));
      const eachMessage = async ({ partition, message }) => {
        if (found.length < Number(count)) {
          found.push(shown(message));
          next.set(partition, Number(message.offset) + 1);
        }
        if (found.length === Number(count)) done();
      };
      consumer.run({ autoCommit: false, eachMessage }).catch(failed);
    });
    await consumer.commitOffsets([...next].map(([partition, offset]) => ({ topic, partition, offset: `${offset}` })));
  } finally {
    await consumer.disconnect();
  }
  return found;
}

async function share(topic, groupId) {
  const held = [[], []];
  let changed = () => {};
  const join = async (index) => {
    const consumer = await member(groupId, topic);
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      held[index] = payload.memberAssignment[topic] ?? [];
      changed();
    });
    await consumer.run({ autoCommit: false, eachMessage: async () => {} });
    return consumer;
  };
  const until = (holds) => new Promise((done) => (changed = () => holds() && done())).finally(() => (changed = () => {}));
  const waiting = until(() => held[0].length === 2 && held[1].length === 2);
  const [first, second] = await Promise.all([join(0), join(1)]);
  await waiting;
  const both = held.map((one) => one.join(","));
  const alone = until(() => held[0].length === 4);
  await second.disconnect();
  await alone;
  await first.disconnect();
  return [...both, held[0].join(",")];
}

async function woken(topic) {
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  const send = (value) => producer.send({ topic, messages: [{ value, partition: 0 }] });
  await send("first");
  const consumer = await member(`woken.${topic}`, topic, { maxWaitTimeInMs: 5_000 });
  let came = () => {};
  const coming = () => new Promise((done) => (came = done));
  const first = coming();
  await consumer.run({ autoCommit: false, eachMessage: async () => came() });
  await first;
  await new Promise((done) => setTimeout(done, 500));
  const second = coming();
  await send("second");
  const begun = performance.now();
  await second;
  const took = performance.now() - begun;
  await producer.disconnect();
  await consumer.disconnect();
  return [took / 1000];
}

async function asAdmin(act) {
  const admin = kafka.admin();
  await admin.connect();
  try {
    return (await act(admin)) ?? [];
  } finally {
    await admin.disconnect();
  }
}

const create = (topic, count) =>
  asAdmin(async (admin) => {
    const made = await admin.createTopics({ topics: [{ topic, numPartitions: Number(count), replicationFactor: 1 }] });
    if (!made) throw new Error("topic exists already");
  });
const remove = (topic) => asAdmin((admin) => admin.deleteTopics({ topics: [topic] }));
const topics = () =>
  asAdmin(async (admin) => (await admin.fetchTopicMetadata()).topics.map((t) => `${t.name} ${t.partitions.length}`));

try {
  const lines = await { produce, read, share, woken, create, remove, topics }[verb](...given);
  for (const line of lines) console.log(line);
} catch (error) {
  console.log(`refused ${error.name}: ${error.message} ${error.cause ?? ""} ${error.errors ?? ""}`);
  process.exitCode = 3;
}
process.exit();
