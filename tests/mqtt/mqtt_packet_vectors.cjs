// Runs mqtt-packet's own test.js, whose test runner is not installed, and prints what its parser was given and made of it:
// [{name, version, hex, packets, error}, …]. Every assertion of the tests holds, or this fails: so what the parser made is
// what is expected. Frames that the tests generate are read back by it, and are vectors as well.

// Left out: one publish of 256 MiB.

const assert = require('assert')
const Module = require('module')
const packet = require('mqtt-packet')

const vectors = []
const tests = []
let running = ''

function plain (value) {
  if (Buffer.isBuffer(value)) return { hex: value.toString('hex') }
  if (Array.isArray(value)) return value.map(plain)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]))
}

function recording (opts) {
  const parser = packet.parser(opts)
  const vector = { name: running, version: (opts && opts.protocolVersion) || 0, hex: '', packets: [], error: null }
  vectors.push(vector)
  // Before the tests' own listeners, which take the packets apart.
  parser.on('packet', each => vector.error || vector.packets.push(plain(each)))
  parser.on('error', error => { vector.error ||= error.message })
  const parse = parser.parse.bind(parser)
  parser.parse = bytes => {
    if (!vector.error) vector.hex += bytes.toString('hex')
    return parse(bytes)
  }
  return parser
}

const watched = Object.assign(Object.create(packet), {
  parser: recording,
  generate (object, opts) {
    const bytes = packet.generate(object, opts)
    recording(opts).parse(bytes)
    return bytes
  }
})

const t = {
  plan () {},
  end () {},
  comment () {},
  pass () {},
  fail: why => assert.fail(why),
  ok: assert.ok,
  true: assert.ok,
  false: value => assert.ok(!value),
  equal: assert.strictEqual,
  notOk: value => assert.ok(!value),
  deepEqual: assert.deepStrictEqual,
  deepLooseEqual: assert.deepEqual
}

const load = Module._load
Module._load = function (request, parent, ...rest) {
  if (request === 'tape') return (name, test) => tests.push([name, test])
  if (request === './' && parent.filename.endsWith('test.js')) return watched
  return load.call(this, request, parent, ...rest)
}
require('mqtt-packet/test.js')
for (const [name, test] of tests.filter(([name]) => !name.startsWith('Max payload publish packet'))) {
  running = name
  test(t)
}
setImmediate(() => console.log(JSON.stringify(vectors)))
