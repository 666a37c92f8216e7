// The official TypeScript client against a mesh: node mcp_client.mjs URL auto|legacy. Prints what it saw as JSON.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../clients/node/package.json', import.meta.url));
const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const [url, mode] = process.argv.slice(2);
const client = new Client({ name: 'node', version: '1' }, { versionNegotiation: { mode } });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));

const tools = (await client.listTools()).tools.map((tool) => tool.name);
const called = await client.callTool({ name: 'set_temperature', arguments: { celsius: 21 } });
const refused = await client.callTool({ name: 'set_temperature', arguments: { celsius: 'warm' } });

let heard = null;
let subscription = null;
if (mode === 'auto') {
  const updated = new Promise((resolve) => {
    client.setNotificationHandler('notifications/resources/updated', (notice) => resolve(notice.params.uri));
  });
  subscription = await client.listen({ resourceSubscriptions: ['channel:///a'] });
  await client.callTool({ name: 'mesh_publish', arguments: { channel: 'a', text: 'hello' } });
  heard = await updated;
} else {
  await client.callTool({ name: 'mesh_publish', arguments: { channel: 'a', text: 'hello' } });
}
const read = await client.readResource({ uri: 'channel:///a' });

console.log(
  JSON.stringify({
    version: client.getNegotiatedProtocolVersion(),
    tools,
    called: called.structuredContent,
    refused: refused.isError,
    heard,
    read: read.contents[0].text,
  }),
);
if (subscription !== null) await subscription.close();
await client.close();
