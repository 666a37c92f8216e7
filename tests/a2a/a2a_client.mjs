// The official JavaScript client against a mesh: node a2a_client.mjs BASE_URL JSONRPC|HTTP+JSON. Prints what it saw.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../clients/node/package.json', import.meta.url));
const { ClientFactory, ClientFactoryOptions, JsonRpcTransportFactory, RestTransportFactory } = require('@a2a-js/sdk/client');
const { Role } = require('@a2a-js/sdk');

const [url, binding] = process.argv.slice(2);
const transports = [binding === 'JSONRPC' ? new JsonRpcTransportFactory() : new RestTransportFactory()];
const factory = new ClientFactory({ ...ClientFactoryOptions.default, transports, preferredTransports: [binding] });
const client = await factory.createFromUrl(url);

let count = 0;
const request = (content, metadata) => ({
  tenant: '',
  message: {
    messageId: `js-${binding}-${(count += 1)}`,
    role: Role.ROLE_USER,
    parts: [{ content, mediaType: '', filename: '', metadata: undefined }],
    contextId: '',
    taskId: '',
    extensions: [],
    referenceTaskIds: [],
    metadata,
  },
  configuration: undefined,
  metadata: undefined,
});
const data = (value) => ({ $case: 'data', value });
const shown = (item) => item?.payload?.$case ?? item?.$case ?? Object.keys(item ?? {})[0];

const sent = await client.sendMessage(request(data({ celsius: 21 }), { skill: 'echo' }));
const task = sent.payload?.value ?? sent;
const streamed = [];
for await (const item of client.sendMessageStream(request(data({ n: 1 }), { skill: 'parts' }))) {
  streamed.push(shown(item));
}
const got = await client.getTask({ tenant: '', id: task.id, historyLength: 0 });
let refused = null;
try {
  await client.getTask({ tenant: '', id: 'none', historyLength: 0 });
} catch (error) {
  refused = error.constructor.name;
}
console.log(
  JSON.stringify({
    state: task.status.state,
    answer: task.artifacts[0].parts[0].content.value,
    streamed,
    history: got.history.length,
    refused,
  }),
);
