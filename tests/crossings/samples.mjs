// Two more unmodified clients in one process: node samples.mjs MQTT_URL HTTP_URL. MQTT.js says something that the
// official TypeScript MCP client reads, and the other way round. Prints what each saw as JSON.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../clients/node/package.json', import.meta.url));
const mqtt = require('mqtt');
const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const [mqttUrl, httpUrl] = process.argv.slice(2);
const device = await mqtt.connectAsync(mqttUrl, { protocolVersion: 5, clientId: 'js-device' });
const agent = new Client({ name: 'node', version: '1' }, { versionNegotiation: { mode: 'auto' } });
await agent.connect(new StreamableHTTPClientTransport(new URL(`${httpUrl}/mcp`)));
const tool = async (name, args) => (await agent.callTool({ name, arguments: args })).structuredContent;

const properties = {
  contentType: 'text/plain',
  responseTopic: 'js/answers',
  correlationData: Buffer.from([0, 255]),
  userProperties: { colour: ['red', 'blue'], 'signature;b64': 'AP8=' },
};
await device.publishAsync('js/asks', Buffer.from([0xff, 0]), { qos: 1, properties });
const read = (await tool('mesh_read', { channel: 'js/asks', offset: 0 })).messages[0];

await device.subscribeAsync('js/answers', { qos: 1 });
const heard = new Promise((resolve) => {
  device.on('message', (topic, payload, packet) => resolve({ payload: payload.toString(), ...packet.properties }));
});
await tool('mesh_publish', {
  channel: read.reply_to,
  text: 'grün',
  correlation_base64: read.correlation_base64,
  cause: read.id,
  headers: read.headers,
});
const answer = await heard;
console.log(
  JSON.stringify({
    read,
    payload: answer.payload,
    correlation: [...answer.correlationData],
    user: answer.userProperties,
  }),
);
await device.endAsync();
await agent.close();
