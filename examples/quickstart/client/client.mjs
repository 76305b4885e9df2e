// A real MCP client against the quick start: the official TypeScript client, nothing of the gateway's.
//
//   node client.mjs list                                    what a reader sees
//   node client.mjs --role writer list                      what a writer sees
//   node client.mjs call git_git_log '{"repo_path": ".", "max_count": 3}'
//   node client.mjs --era legacy call time_get_current_time '{"timezone": "UTC"}'
//
// Options: --role reader|writer (reader), --key KEY, --era auto|modern|legacy (auto: what the server can),
// --url URL (http://127.0.0.1:8080/mcp), --confirm yes|no (its user's answer when it is asked to confirm a
// call; without it the client cannot ask, and says so). It exits 0 when the call succeeded, 1 when it was refused or
// failed. Run it with the Node that `make tools` installs, .tools/node/node_modules/.bin/node.
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

// The client library lies where `make tools` put it, not beside this script.
const require = createRequire(new URL('../../../.tools/node/package.json', import.meta.url));
const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    role: { type: 'string', default: 'reader' },
    key: { type: 'string' },
    era: { type: 'string', default: 'auto' },
    url: { type: 'string', default: 'http://127.0.0.1:8080/mcp' },
    confirm: { type: 'string' },
  },
});
const [command = 'list', name, argumentsText = '{}'] = positionals;
const mode = { auto: 'auto', legacy: 'legacy', modern: { pin: '2026-07-28' } }[options.era];
if (!mode || !(command === 'list' || (command === 'call' && name))) {
  console.error('usage: client.mjs [--role reader|writer] [--key KEY] [--era auto|modern|legacy] [--url URL] [--confirm yes|no] list | call NAME [JSON]');
  process.exit(2);
}

const client = new Client(
  { name: 'quickstart-client', version: '1.0.0' },
  { versionNegotiation: { mode }, capabilities: options.confirm ? { elicitation: {} } : {} },
);
if (options.confirm) {
  client.setRequestHandler('elicitation/create', async request => {
    console.log(`asked: ${request.params.message}`);
    return options.confirm === 'yes' ? { action: 'accept', content: { confirm: true } } : { action: 'decline' };
  });
}
const key = options.key ?? `quickstart-${options.role}`;
try {
  await client.connect(
    new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers: { Authorization: `Bearer ${key}` } } }),
  );
  console.log(`connected, protocol ${client.getNegotiatedProtocolVersion()}`);
  if (command === 'list') {
    await list();
  } else {
    await call();
  }
} catch (error) {
  // A refusal is a JSON-RPC error: code 403, the policy's own words, and data with every reason.
  console.log(`refused or failed: ${error.message}`);
  if (error.code !== undefined) console.log(`code ${error.code}`);
  if (error.data !== undefined) console.log(JSON.stringify(error.data, null, 2));
  process.exitCode = 1;
} finally {
  await client.close();
}

async function list() {
  let cursor;
  do {
    const page = await client.listTools(cursor === undefined ? {} : { cursor });
    for (const tool of page.tools) console.log(tool.name);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
}

async function call() {
  const result = await client.callTool({ name, arguments: JSON.parse(argumentsText) });
  for (const block of result.content) console.log(block.type === 'text' ? block.text : `[${block.type}]`);
  if (result.isError) process.exitCode = 1;
}
