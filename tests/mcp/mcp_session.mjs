// The official TypeScript client of the revisions with a session: node mcp_session.mjs URL CUT_URL. Prints what it saw.
// A GET of CUT_URL cuts every connection of this client.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../clients/node/package.json', import.meta.url));
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const types = require('@modelcontextprotocol/sdk/types.js');

const [url, cutUrl] = process.argv.slice(2);
const client = new Client({ name: 'node', version: '1' });
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);

const heard = (schema) =>
  new Promise((resolve) => client.setNotificationHandler(schema, (notice) => resolve(notice.params ?? {})));
const failed = (promise) => promise.then(() => null, (error) => error.code);

const capabilities = client.getServerCapabilities();
const updated = heard(types.ResourceUpdatedNotificationSchema);
await client.subscribeResource({ uri: 'channel:///a' });
await client.callTool({ name: 'mesh_publish', arguments: { channel: 'a', text: 'hello' } });
const { uri } = await updated;
const toolsChanged = heard(types.ToolListChangedNotificationSchema);
await client.callTool({ name: 'offer', arguments: {} });
await toolsChanged;
const tools = (await client.listTools()).tools.map((tool) => tool.name);

const progress = [];
const onprogress = (told) => progress.push(told.message);
const called = await client.callTool({ name: 'parts', arguments: {} }, undefined, { onprogress });

const stop = new AbortController();
const cancelled = await client
  .callTool({ name: 'slow', arguments: {} }, undefined, { signal: stop.signal, onprogress: () => stop.abort('enough') })
  .then(() => false, () => true);

// The connection breaks after the first progress; the answer comes over another.
let told = 0;
const again = await client.callTool({ name: 'cut', arguments: {} }, undefined, {
  onprogress: () => {
    told += 1;
    if (told === 1) fetch(cutUrl).catch(() => {});
  },
});

const noLogging = await failed(client.request({ method: 'logging/setLevel', params: { level: 'info' } }, types.EmptyResultSchema));
const missing = await failed(client.readResource({ uri: 'channel:///nothing' }));
await client.ping();
await client.unsubscribeResource({ uri: 'channel:///a' });
const session = transport.sessionId;
await transport.terminateSession();
await client.close();

console.log(
  JSON.stringify({
    capabilities,
    uri,
    tools,
    progress,
    called: called.content[0].text,
    cancelled,
    again: again.content[0].text,
    noLogging,
    missing,
    session: typeof session,
  }),
);
