// What the Go package ../driver describes: records, output, groups and commands.
'use strict'

const BASE = 1_700_000_000_000
const PARTITIONS = 3
const NO = 'no' // value of the records of aborted transactions
const UNSUPPORTED = 3 // exit code

class Unsupported extends Error {}

// make returns record i as every client program writes it.
function make(i) {
  return {
    partition: i % PARTITIONS,
    timestamp: BASE + i * 1000,
    key: i % 10 === 3 ? null : Buffer.from(`key-${i}`),
    value: i % 10 === 9 ? null : Buffer.from(`wärve-${i} ` + 'abcdefgh'.repeat((i % 50) + 1)),
    headers: [['n', Buffer.from(`${i}`)], ['twice', Buffer.from('1')], ['twice', Buffer.from('2')], ['bytes', Buffer.from([255, 1, 2])]],
  }
}

// large returns the value of a large record.
function large(size) {
  const b = Buffer.alloc(size)
  for (let i = 0; i < size; i++) b[i] = i * 31 + (i >> 8) * 17
  return b
}

function print(r) {
  const encode = b => (b === null ? null : b.toString('base64'))
  console.log(JSON.stringify({
    partition: r.partition, offset: r.offset, timestamp: r.timestamp, key: encode(r.key), value: encode(r.value),
    headers: r.headers.map(([name, value]) => ({ name, value: encode(value) })),
  }))
}

// rebalance does as driver.Rebalance in Go. member(have) starts a member that
// calls have(n) with its number of partitions, and resolves to what stops it.
async function rebalance(member) {
  const counts = new Map()
  let changed = () => {}
  const start = async name => {
    const stop = await member(n => { counts.set(name, n); changed() })
    return async () => { await stop(); counts.delete(name); changed() }
  }
  const until = want => new Promise((resolve, reject) => {
    const have = () => JSON.stringify([...counts.values()].sort())
    const timer = setTimeout(() => reject(new Error(`members have ${have()} partitions, want ${want}`)), 60_000)
    changed = () => {
      if (have() === JSON.stringify(want)) { clearTimeout(timer); resolve() }
    }
    changed()
  })
  const stopA = await start('a')
  await until([4])
  const stopB = await start('b')
  await until([2, 2])
  await stopB()
  await until([4])
  await stopA()
}

// main runs the command of the process's arguments.
async function main(open) {
  const [bootstrap, command, ...args] = process.argv.slice(2)
  const client = open(bootstrap)
  const calls = {
    version: () => console.log(client.version()),
    produce: (topic, codec, count) => client.produce(topic, codec, Number(count), false),
    idempotent: (topic, count) => client.produce(topic, 'none', Number(count), true),
    consume: (topic, count) => client.consume(topic, Number(count)),
    seek: (topic, ...offsets) => client.seek(topic, offsets),
    group: (topic, group) => client.group(topic, group),
    commit: (mode, topic, group, count) => client.commit(mode, topic, group, Number(count)),
    large: (topic, size) => client.large(topic, large(Number(size))),
    admin: topic => client.admin(topic),
    transact: (input, output, group, count) => client.transact(input, output, group, Number(count)),
  }
  const timer = setTimeout(() => fail(new Error('not done in two minutes')), 120_000)
  await Promise.resolve(calls[command](...args)).catch(fail)
  clearTimeout(timer)
}

function fail(err) {
  console.error(err)
  process.exit(err instanceof Unsupported ? UNSUPPORTED : 1)
}

module.exports = { PARTITIONS, NO, Unsupported, make, print, rebalance, main }
