// @platformatic/kafka does one thing and says what came of it: see kafka_clients_foreign.py.
import { readFileSync } from "node:fs";
import { Admin, Consumer, Producer } from "@platformatic/kafka";

const [bootstrap, user, password, mechanism, ca, patience, verb, ...given] = process.argv.slice(2);
const options = {
  clientId: "platformatic",
  bootstrapBrokers: [bootstrap],
  retries: 2,
  retryDelay: 200,
  tls: ca ? { ca: [readFileSync(ca)], servername: "localhost" } : undefined,
  sasl: user ? { mechanism, username: user, password } : undefined,
  autocreateTopics: true,
};

const hex = (bytes) => (bytes === null || bytes === undefined ? "-" : Buffer.from(bytes).toString("hex"));
const unhex = (text) => (text === "-" ? undefined : Buffer.from(text, "hex"));

function parsed(line) {
  const [key, value, said] = line.split("|");
  const pairs = said ? said.split(";").map((one) => one.split(":").map(unhex)) : [];
  return { key: unhex(key), value: unhex(value), headers: new Map(pairs), partition: 0 };
}

function shown({ key, value, headers }) {
  // Names are buffers, each its own key of the map: those of one name are all there, but the last counts.
  const pairs = new Map([...headers].map(([name, one]) => [hex(name), hex(one)]));
  return [hex(key), hex(value), [...pairs].map((pair) => pair.join(":")).join(";")].join("|");
}

async function sent(producer, topic, messages, codec) {
  const said = messages.map((message) => ({ topic, ...message }));
  const { offsets } = await producer.send({ messages: said, acks: -1, compression: codec });
  return Number(offsets[0].offset);
}

async function produce(topic, codec, path) {
  const producer = new Producer(options);
  try {
    const messages = readFileSync(path, "utf8").split("\n").filter(Boolean).map(parsed);
    const base = await sent(producer, topic, messages, codec);
    return messages.map((_, n) => base + n);
  } finally {
    await producer.close();
  }
}

function member(groupId, more = {}) {
  return new Consumer({ ...options, groupId, sessionTimeout: 6000, heartbeatInterval: 200, ...more });
}

const consume = (consumer, topic) =>
  consumer.consume({ topics: [topic], mode: "committed", fallbackMode: "earliest", autocommit: false });

async function read(topic, groupId, count) {
  const consumer = member(groupId);
  const found = [];
  try {
    const stream = await consume(consumer, topic);
    for await (const message of stream) {
      found.push(shown(message));
      if (found.length === Number(count)) {
        await message.commit();
        break;
      }
    }
  } finally {
    await consumer.close(true);
  }
  return found;
}

async function share(topic, groupId) {
  const held = [[], []];
  let changed = () => {};
  const join = async (index) => {
    const consumer = member(groupId);
    consumer.on("consumer:group:join", ({ assignments }) => {
      held[index] = assignments?.find((one) => one.topic === topic)?.partitions ?? [];
      changed();
    });
    const stream = await consume(consumer, topic);
    stream.on("data", () => {});
    return consumer;
  };
  const until = (holds) => new Promise((done) => (changed = () => holds() && done())).finally(() => (changed = () => {}));
  const waiting = until(() => held[0].length === 2 && held[1].length === 2);
  const [first, second] = await Promise.all([join(0), join(1)]);
  await waiting;
  const both = held.map((one) => one.join(","));
  const alone = until(() => held[0].length === 4);
  await second.close(true);
  await alone;
  await first.close(true);
  return [...both, held[0].join(",")];
}

async function woken(topic) {
  const producer = new Producer(options);
  await sent(producer, topic, [{ value: Buffer.from("first"), partition: 0 }], "none");
  const consumer = member(`woken.${topic}`, { maxWaitTime: 5_000, timeout: 20_000 });
  const stream = await consume(consumer, topic);
  const messages = stream[Symbol.asyncIterator]();
  await messages.next();
  await new Promise((done) => setTimeout(done, 500));
  const second = messages.next();
  await sent(producer, topic, [{ value: Buffer.from("second"), partition: 0 }], "none");
  const begun = performance.now();
  await second;
  const took = performance.now() - begun;
  await producer.close();
  await consumer.close(true);
  return [took / 1000];
}

async function asAdmin(act) {
  const admin = new Admin(options);
  try {
    return (await act(admin)) ?? [];
  } finally {
    await admin.close();
  }
}

const create = (topic, count) =>
  asAdmin(async (admin) => {
    await admin.createTopics({ topics: [topic], partitions: Number(count), replicas: 1 });
  });
const remove = (topic) => asAdmin((admin) => admin.deleteTopics({ topics: [topic] }));
const topics = () =>
  asAdmin(async (admin) => {
    const names = await admin.listTopics();
    const { topics: found } = await admin.metadata({ topics: names });
    return [...found].map(([name, { partitionsCount }]) => `${name} ${partitionsCount}`);
  });

const causes = (error) => (error ? [`${error.name}: ${error.message}`, ...[error.cause, ...(error.errors ?? [])].flatMap(causes)] : []);

try {
  const lines = await { produce, read, share, woken, create, remove, topics }[verb](...given);
  for (const line of lines) console.log(line);
} catch (error) {
  console.log(`refused ${causes(error).join(" < ")}`);
  process.exitCode = 3;
}
process.exit();
