"""Drives confluent-kafka, which is librdkafka."""

import sys

import confluent_kafka
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import driver


class Client:
    def __init__(self, bootstrap):
        self.config = {"bootstrap.servers": bootstrap}

    def version(self):
        return f"{confluent_kafka.__version__} (librdkafka {confluent_kafka.libversion()[0]})"

    def produce(self, topic, codec, count, idempotent):
        self.send(Producer(self.config | {
            "compression.type": codec, "acks": "all", "linger.ms": 50, "enable.idempotence": idempotent,
            "max.in.flight.requests.per.connection": 1,
        }), topic, driver.made(count))

    def send(self, p, topic, records):
        failed = []
        for r in records:
            p.produce(topic, r.value, r.key, r.partition, timestamp=r.timestamp, headers=r.headers,
                      on_delivery=lambda err, _: err and failed.append(err))
        left = p.flush(60)
        if left or failed:
            raise RuntimeError(f"{left} records not sent, {failed}")

    def consumer(self, group, **more):
        return Consumer(self.config | {
            "group.id": group, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 100, "enable.auto.commit": False,
        } | more)

    def poll(self, c):
        while driver.before_deadline():
            m = c.poll(0.1)
            if m is not None:
                if m.error():
                    raise KafkaException(m.error())
                return m

    def read(self, c, count):
        last = None
        for _ in range(count):
            last = self.poll(c)
            printable(last).print()
        return last

    def consume(self, topic, count, **more):
        c = self.consumer("none", **more)
        c.assign([TopicPartition(topic, p, confluent_kafka.OFFSET_BEGINNING) for p in range(driver.PARTITIONS)])
        self.read(c, count)
        c.close()

    def seek(self, topic, offsets):
        c = self.consumer("none")
        c.assign([TopicPartition(topic, 1, confluent_kafka.OFFSET_BEGINNING)])
        self.poll(c)  # the partition can be sought from here on
        for o in offsets:
            c.seek(TopicPartition(topic, 1, o))
            self.read(c, 1)
        c.close()

    def group(self, topic, group):
        def member(stop, have):
            c = self.consumer(group, **{"heartbeat.interval.ms": 200})
            c.subscribe([topic])
            while not stop.is_set():
                c.poll(0.1)
                have(len(c.assignment()))
            c.close()
        driver.rebalance(member)

    def commit(self, mode, topic, group, count):
        done = []
        c = self.consumer(group, **{"enable.auto.commit": mode == "auto", "auto.commit.interval.ms": 100,
                                    "on_commit": lambda err, _: done.append(err)})
        c.subscribe([topic])
        self.read(c, count)
        if mode == "sync":
            c.commit(asynchronous=False)
        if mode == "async":
            c.commit(asynchronous=True)
            while not done and driver.before_deadline():
                c.poll(0.1)
            if done[0]:
                raise KafkaException(done[0])
        c.close()

    def large(self, topic, value):
        p = Producer(self.config | {"message.max.bytes": 20 << 20})
        p.produce(topic, value, partition=0)
        p.flush(60)
        c = self.consumer("none")
        c.assign([TopicPartition(topic, 0, confluent_kafka.OFFSET_BEGINNING)])
        if self.poll(c).value() != value:
            raise ValueError("other bytes came back")
        c.close()

    def admin(self, topic):
        a = AdminClient(self.config)
        a.create_topics([NewTopic(topic, driver.PARTITIONS, 1)])[topic].result(60)
        assert len(a.list_topics(timeout=30).topics[topic].partitions) == driver.PARTITIONS
        a.delete_topics([topic])[topic].result(60)
        assert topic not in a.list_topics(timeout=30).topics

    def transact(self, given, topic, group, count):
        p, c = Producer(self.config | {"transactional.id": group}), self.consumer(group)

        def begin(records, offset=None):
            p.begin_transaction()
            self.send(p, topic, records)
            if offset is not None:
                p.send_offsets_to_transaction([TopicPartition(given, i, offset) for i in range(driver.PARTITIONS)], c.consumer_group_metadata())
        p.init_transactions()
        begin(driver.no())
        p.abort_transaction()
        begin(driver.made(count), count // driver.PARTITIONS)
        p.commit_transaction()
        begin(driver.no(), 1)
        p.abort_transaction()
        c.close()
        self.consume(topic, count, **{"isolation.level": "read_committed"})


def printable(m):
    return driver.Record(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers() or [])


if __name__ == "__main__":
    driver.main(Client(sys.argv[1]))
