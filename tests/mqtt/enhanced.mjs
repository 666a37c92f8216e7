// MQTT.js logs in by SCRAM-SHA-256, proves itself again, and says what came of it: see test_live_enhanced.py.
import { createHash, createHmac, pbkdf2Sync, randomBytes, timingSafeEqual } from "node:crypto";
import mqtt from "mqtt";

const [url, user, password, later] = process.argv.slice(2);
const method = "SCRAM-SHA-256";
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

class Scram {
  constructor(password) {
    this.password = password;
    this.bare = `n=${user},r=${randomBytes(18).toString("base64").replaceAll(",", "")}`;
  }
  first() {
    return Buffer.from("n,," + this.bare);
  }
  final(challenge) {
    const said = Object.fromEntries(challenge.split(",").map((part) => [part[0], part.slice(2)]));
    const salted = pbkdf2Sync(this.password, Buffer.from(said.s, "base64"), Number(said.i), 32, "sha256");
    const without = `c=biws,r=${said.r}`;
    const auth = `${this.bare},${challenge},${without}`;
    const key = hmac(salted, "Client Key");
    const signature = hmac(createHash("sha256").update(key).digest(), auth);
    this.expected = Buffer.from("v=" + hmac(hmac(salted, "Server Key"), auth).toString("base64"));
    return Buffer.from(`${without},p=${Buffer.from(key.map((byte, at) => byte ^ signature[at])).toString("base64")}`);
  }
  trusts(last) {
    return last !== undefined && last.length === this.expected.length && timingSafeEqual(last, this.expected);
  }
}

let scram = new Scram(password);
let again = () => {};
const client = mqtt.connect(url, {
  protocolVersion: 5,
  clientId: "js-enhanced",
  reconnectPeriod: 0,
  properties: { authenticationMethod: method, authenticationData: scram.first() },
});
client.handleAuth = (packet, answer) => {
  const data = packet.properties.authenticationData;
  if (packet.reasonCode === 0) {
    answer();
    again(scram.trusts(data));
    return;
  }
  const authenticationData = scram.final(data.toString());
  answer(undefined, { cmd: "auth", reasonCode: 0x18, properties: { authenticationMethod: method, authenticationData } });
};
client.on("error", (error) => {
  console.log(`error ${error.code}`);
  process.exit(0);
});
client.on("disconnect", (packet) => console.log(`disconnect ${packet.reasonCode}`));
client.on("close", () => process.exit(0));
client.on("connect", async (packet) => {
  const trusted = scram.trusts(packet.properties.authenticationData);
  console.log(`connect ${packet.properties.authenticationMethod} ${trusted}`);
  const got = new Promise((done) => client.on("message", (topic, payload) => done(payload.toString())));
  await client.subscribeAsync("enhanced/#", { qos: 1 });
  scram = new Scram(later);
  const proven = new Promise((done) => (again = done));
  const properties = { authenticationMethod: method, authenticationData: scram.first() };
  client._sendPacket({ cmd: "auth", reasonCode: 0x19, properties });
  await client.publishAsync("enhanced/x", "meanwhile", { qos: 1 });
  console.log(`message ${await got}`);
  console.log(`again ${await proven}`);
  await client.endAsync();
});
