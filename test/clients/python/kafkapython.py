"""Drives kafka-python."""

import sys

import kafka
from kafka import (ConsumerGroupMetadata, ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata,
                   TopicPartition)

import driver

# A poll that ends between a JoinGroup and its SyncGroup never takes up the
# assignment, in kafka-python 3.0: a poll must outlast every rebalance. It
# returns at once when there are records.
POLL = 30_000


class Client:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def version(self):
        return kafka.__version__

    def producer(self, **more):
        return KafkaProducer(bootstrap_servers=self.bootstrap, acks="all", **more)

    def produce(self, topic, codec, count, idempotent):
        # It lingers, since a batch that compression does not make smaller goes out without: one of a single record may be.
        p = self.producer(compression_type=None if codec == "none" else codec, linger_ms=1000, enable_idempotence=idempotent,
                          max_in_flight_requests_per_connection=1)
        self.send(p, topic, driver.made(count))
        p.close()

    def send(self, p, topic, records):
        for s in [p.send(topic, r.value, r.key, r.headers, r.partition, r.timestamp) for r in records]:
            s.get(60)

    def consumer(self, *topics, **more):
        return KafkaConsumer(*topics, **{
            "bootstrap_servers": self.bootstrap, "auto_offset_reset": "earliest", "fetch_max_wait_ms": 100, "enable_auto_commit": False,
        } | more)

    def read(self, c, count):
        while count > 0 and driver.before_deadline():
            for batch in c.poll(POLL, max_records=count).values():
                for m in batch:
                    driver.Record(m.partition, m.offset, m.timestamp, m.key, m.value, m.headers).print()
                    count -= 1

    def consume(self, topic, count, **more):
        c = self.consumer(**more)
        c.assign([TopicPartition(topic, p) for p in range(driver.PARTITIONS)])
        c.seek_to_beginning()
        self.read(c, count)
        c.close()

    def seek(self, topic, offsets):
        c = self.consumer()
        at = TopicPartition(topic, 1)
        c.assign([at])
        for o in offsets:
            c.seek(at, o)
            self.read(c, 1)
        c.close()

    def group(self, topic, group):
        class Listener(ConsumerRebalanceListener):
            def __init__(self, have):
                self.have = have

            def on_partitions_revoked(self, revoked):
                self.have(0)

            def on_partitions_assigned(self, assigned):
                self.have(len(assigned))

        def member(stop, have):
            c = self.consumer(group_id=group, heartbeat_interval_ms=200)
            c.subscribe([topic], listener=Listener(have))
            while not stop.is_set():
                c.poll(POLL)
            c.close()

        def wake():  # with a record in each partition, whoever has it
            p = self.producer()
            for partition in range(4):
                p.send(topic, b"", partition=partition)
            p.close()
        driver.rebalance(member, wake)

    def commit(self, mode, topic, group, count):
        c = self.consumer(topic, group_id=group, enable_auto_commit=mode == "auto", auto_commit_interval_ms=100)
        self.read(c, count)
        if mode == "sync":
            c.commit()
        if mode == "async":
            done = c.commit_async()
            while not done.is_done and driver.before_deadline():
                c.poll(100)
            if done.failed():
                raise done.exception
        c.close(autocommit=mode == "auto")

    def large(self, topic, value):
        p = self.producer(max_request_size=20 << 20)
        p.send(topic, value, partition=0).get(60)
        p.close()
        c = self.consumer()
        c.assign([TopicPartition(topic, 0)])
        c.seek_to_beginning()
        while driver.before_deadline():
            for (m,) in c.poll(POLL, max_records=1).values():
                if m.value != value:
                    raise ValueError("other bytes came back")
                c.close()
                return

    def admin(self, topic):
        a = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        a.create_topics({topic: {"num_partitions": driver.PARTITIONS, "replication_factor": 1}})
        (found,) = a.describe_topics([topic])
        assert len(found["partitions"]) == driver.PARTITIONS
        a.delete_topics([topic])
        assert topic not in a.list_topics()
        a.close()

    def transact(self, given, topic, group, count):
        p = self.producer(transactional_id=group)

        def begin(records, offset=None):
            p.begin_transaction()
            self.send(p, topic, records)
            if offset is not None:
                p.send_offsets_to_transaction({TopicPartition(given, i): OffsetAndMetadata(offset) for i in range(driver.PARTITIONS)},
                                              ConsumerGroupMetadata(group))
        p.init_transactions()
        begin(driver.no())
        p.abort_transaction()
        begin(driver.made(count), count // driver.PARTITIONS)
        p.commit_transaction()
        begin(driver.no(), 1)
        p.abort_transaction()
        p.close()
        self.consume(topic, count, isolation_level="read_committed")


if __name__ == "__main__":
    driver.main(Client(sys.argv[1]))
