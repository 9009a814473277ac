// Drives kafkajs, with its codecs from kafkajs-snappy, lz4js and zstd-codec.
'use strict'

const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const lz4 = require('lz4js')
const snappy = require('kafkajs-snappy')
const { ZstdCodec } = require('zstd-codec')
const driver = require('./driver.js')

CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async buffer => Buffer.from(lz4.decompress(buffer)),
})
const zstd = new Promise(resolve => ZstdCodec.run(z => resolve(new z.Simple())))
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from((await zstd).compress(encoder.buffer)),
  decompress: async buffer => Buffer.from((await zstd).decompress(buffer)),
})

const codecs = {
  none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD,
}

class Client {
  constructor(bootstrap) {
    this.kafka = new Kafka({ clientId: 'kafkajs', brokers: [bootstrap], logLevel: logLevel.ERROR })
  }

  version() {
    return require('kafkajs/package.json').version
  }

  async send(config, message) {
    const producer = this.kafka.producer(config)
    await producer.connect()
    await producer.send({ acks: -1, ...message })
    await producer.disconnect()
  }

  async produce(topic, codec, count, idempotent) {
    await this.send({ idempotent, maxInFlightRequests: 1 }, { topic, messages: this.made(count), compression: codecs[codec] })
  }

  made(count) {
    const messages = []
    for (let i = 0; i < count; i++) {
      const { partition, timestamp, key, value, headers } = driver.make(i)
      const named = {}
      for (const [name, v] of headers) named[name] = name in named ? [named[name], v].flat() : v
      messages.push({ partition, timestamp: String(timestamp), key, value, headers: named })
    }
    return messages
  }

  // read calls each(record, consumer) in a group until it resolves to true, and leaves after after(consumer).
  async read(topic, groupId, options, each, after = async () => {}) {
    const consumer = this.kafka.consumer({ groupId, maxWaitTimeInMs: 100, maxBytes: 20 << 20, maxBytesPerPartition: 20 << 20 })
    await consumer.connect()
    await consumer.subscribe({ topic, fromBeginning: true })
    let done = false
    await new Promise((resolve, reject) => {
      consumer.on(consumer.events.CRASH, e => reject(e.payload.error))
      consumer.run({
        ...options,
        eachMessage: async ({ partition, message: m }) => {
          const headers = Object.entries(m.headers).flatMap(([name, v]) => [v].flat().map(one => [name, one]))
          const r = { partition, offset: Number(m.offset), timestamp: Number(m.timestamp), key: m.key, value: m.value, headers }
          done = done || await each(r, consumer)
          if (done) setImmediate(resolve) // the record counts as read once this function has returned
        },
      }).catch(reject)
    })
    await after(consumer)
    await consumer.disconnect()
  }

  // alone is the group of a read that needs none: kafkajs has no other.
  alone() {
    return `alone-${process.pid}-${Date.now()}`
  }

  consume(topic, count) {
    return this.read(topic, this.alone(), { autoCommit: false }, async r => { driver.print(r); return --count === 0 })
  }

  seek(topic, offsets) {
    let sought = false
    return this.read(topic, this.alone(), { autoCommit: false }, async (r, consumer) => {
      if (r.partition !== 1) return false
      if (sought) driver.print(r)
      if (offsets.length === 0) return true
      sought = true
      consumer.seek({ topic, partition: 1, offset: offsets.shift() })
      return false
    })
  }

  group(topic, groupId) {
    return driver.rebalance(async have => {
      const consumer = this.kafka.consumer({ groupId, heartbeatInterval: 200, maxWaitTimeInMs: 100 })
      consumer.on(consumer.events.GROUP_JOIN, e => have((e.payload.memberAssignment[topic] ?? []).length))
      await consumer.connect()
      await consumer.subscribe({ topic })
      await consumer.run({ eachMessage: async () => {} })
      return () => consumer.disconnect()
    })
  }

  commit(mode, topic, group, count) {
    const next = new Map()
    const options = mode === 'auto' ? { autoCommit: true, autoCommitInterval: 100 } : { autoCommit: false }
    return this.read(topic, group, options, async r => {
      driver.print(r)
      next.set(r.partition, { topic, partition: r.partition, offset: String(r.offset + 1) })
      return --count === 0
    }, async consumer => {
      if (mode === 'sync') await consumer.commitOffsets([...next.values()])
      if (mode === 'async') await new Promise((resolve, reject) => { consumer.commitOffsets([...next.values()]).then(resolve, reject) })
    })
  }

  async large(topic, value) {
    await this.send({}, { topic, messages: [{ partition: 0, value }] })
    await this.read(topic, this.alone(), { autoCommit: false }, async r => {
      if (!r.value.equals(value)) throw new Error('other bytes came back')
      return true
    })
  }

  async admin(topic) {
    const admin = this.kafka.admin()
    await admin.connect()
    await admin.createTopics({ topics: [{ topic, numPartitions: driver.PARTITIONS, replicationFactor: 1 }], waitForLeaders: true })
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    if (topics[0].partitions.length !== driver.PARTITIONS) throw new Error(`${topics[0].partitions.length} partitions`)
    await admin.deleteTopics({ topics: [topic] })
    if ((await admin.listTopics()).includes(topic)) throw new Error('the deleted topic is still there')
    await admin.disconnect()
  }

  // transact reads with consume: kafkajs leaves out aborted transactions unless told not to.
  async transact(input, output, group, count) {
    const partitions = [...Array(driver.PARTITIONS).keys()]
    const no = partitions.map(partition => ({ partition, value: driver.NO }))
    const producer = this.kafka.producer({ transactionalId: group, idempotent: true, maxInFlightRequests: 1 })
    const begin = async (messages, offset) => {
      const txn = await producer.transaction()
      await txn.send({ topic: output, acks: -1, messages })
      const topics = [{ topic: input, partitions: partitions.map(partition => ({ partition, offset: String(offset) })) }]
      if (offset !== undefined) await txn.sendOffsets({ consumerGroupId: group, topics })
      return txn
    }
    await producer.connect()
    await (await begin(no)).abort()
    await (await begin(this.made(count), count / driver.PARTITIONS)).commit()
    await (await begin(no, 1)).abort()
    await producer.disconnect()
    await this.consume(output, count)
  }
}

driver.main(bootstrap => new Client(bootstrap))
