import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** Drives kafka-clients, the Java client. */
public final class Main {
    private static final Duration POLL = Duration.ofMillis(100);
    private static final long DEADLINE = System.nanoTime() + TimeUnit.MINUTES.toNanos(2);

    private final String bootstrap;

    private Main(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    public static void main(String[] argv) throws Exception {
        Main m = new Main(argv[0]);
        String[] a = Arrays.copyOfRange(argv, 2, argv.length);
        switch (argv[1]) {
            case "version" -> System.out.println(AppInfoParser.getVersion());
            case "produce" -> m.produce(a[0], a[1], Integer.parseInt(a[2]), false);
            case "idempotent" -> m.produce(a[0], "none", Integer.parseInt(a[1]), true);
            case "consume" -> m.consume(a[0], Integer.parseInt(a[1]), Map.of());
            case "seek" -> m.seek(a[0], Arrays.stream(a).skip(1).mapToLong(Long::parseLong).toArray());
            case "group" -> m.group(a[0], a[1]);
            case "commit" -> m.commit(a[0], a[1], a[2], Integer.parseInt(a[3]));
            case "large" -> m.large(a[0], Driver.large(Integer.parseInt(a[1])));
            case "admin" -> m.admin(a[0]);
            case "transact" -> m.transact(a[0], a[1], a[2], Integer.parseInt(a[3]));
            default -> System.exit(Driver.UNSUPPORTED);
        }
    }

    private Map<String, Object> config(Map<String, Object> more) {
        Map<String, Object> c = new HashMap<>(more);
        c.put("bootstrap.servers", bootstrap);
        return c;
    }

    private KafkaProducer<byte[], byte[]> producer(Map<String, Object> more) {
        return new KafkaProducer<>(config(more), new ByteArraySerializer(), new ByteArraySerializer());
    }

    private void produce(String topic, String codec, int count, boolean idempotent) throws Exception {
        try (var p = producer(Map.of("compression.type", codec, "acks", "all", "linger.ms", 50, "enable.idempotence", idempotent,
                "max.in.flight.requests.per.connection", 1))) {
            send(p, topic, Driver.made(count));
        }
    }

    private static void send(KafkaProducer<byte[], byte[]> p, String topic, List<Driver.Record> records) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (var r : records) {
            var k = new ProducerRecord<>(topic, r.partition(), r.timestamp(), r.key(), r.value());
            r.headers().forEach(h -> k.headers().add(h.name(), h.value()));
            sent.add(p.send(k));
        }
        for (var s : sent) {
            s.get(60, TimeUnit.SECONDS);
        }
    }

    private KafkaConsumer<byte[], byte[]> consumer(Map<String, Object> more) {
        Map<String, Object> c = new HashMap<>(Map.of("auto.offset.reset", "earliest", "enable.auto.commit", false, "fetch.max.wait.ms", 100));
        c.putAll(more);
        return new KafkaConsumer<>(config(c), new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** Polls until there are records. */
    private static List<ConsumerRecord<byte[], byte[]>> poll(KafkaConsumer<byte[], byte[]> c) throws Exception {
        List<ConsumerRecord<byte[], byte[]>> all = new ArrayList<>();
        while (all.isEmpty()) {
            if (System.nanoTime() > DEADLINE) {
                throw new Exception("not done in two minutes");
            }
            c.poll(POLL).forEach(all::add);
        }
        return all;
    }

    private static void print(ConsumerRecord<byte[], byte[]> r) {
        List<Driver.Header> headers = new ArrayList<>();
        r.headers().forEach(h -> headers.add(new Driver.Header(h.key(), h.value())));
        new Driver.Record(r.partition(), r.offset(), r.timestamp(), r.key(), r.value(), headers).print();
    }

    private static void read(KafkaConsumer<byte[], byte[]> c, int count) throws Exception {
        while (count > 0) {
            var records = poll(c);
            records.forEach(Main::print);
            count -= records.size();
        }
    }

    private static List<TopicPartition> partitions(String topic) {
        return IntStream.range(0, Driver.PARTITIONS).mapToObj(p -> new TopicPartition(topic, p)).toList();
    }

    private void consume(String topic, int count, Map<String, Object> more) throws Exception {
        try (var c = consumer(more)) {
            c.assign(partitions(topic));
            c.seekToBeginning(c.assignment());
            read(c, count);
        }
    }

    private void seek(String topic, long[] offsets) throws Exception {
        TopicPartition at = new TopicPartition(topic, 1);
        try (var c = consumer(Map.of())) {
            c.assign(Set.of(at));
            for (long o : offsets) {
                c.seek(at, o);
                print(poll(c).get(0));
            }
        }
    }

    private void group(String topic, String group) throws Exception {
        Driver.rebalance((stop, have) -> {
            try (var c = consumer(Map.of("group.id", group, "heartbeat.interval.ms", 200))) {
                c.subscribe(Set.of(topic));
                while (!stop.get()) {
                    c.poll(POLL);
                    have.accept(c.assignment().size());
                }
            }
        });
    }

    private void commit(String mode, String topic, String group, int count) throws Exception {
        try (var c = consumer(Map.of("group.id", group, "enable.auto.commit", mode.equals("auto"), "auto.commit.interval.ms", 100))) {
            c.subscribe(Set.of(topic));
            read(c, count);
            if (mode.equals("sync")) {
                c.commitSync();
            }
            if (mode.equals("async")) {
                var done = new CompletableFuture<Void>();
                c.commitAsync((offsets, e) -> {
                    if (e == null) {
                        done.complete(null);
                    } else {
                        done.completeExceptionally(e);
                    }
                });
                while (!done.isDone() && System.nanoTime() < DEADLINE) {
                    c.poll(POLL);
                }
                done.get(0, TimeUnit.SECONDS);
            }
        }
    }

    private void large(String topic, byte[] value) throws Exception {
        try (var p = producer(Map.of("max.request.size", 20 << 20))) {
            p.send(new ProducerRecord<>(topic, 0, null, value)).get(60, TimeUnit.SECONDS);
        }
        try (var c = consumer(Map.of())) {
            c.assign(Set.of(new TopicPartition(topic, 0)));
            if (!Arrays.equals(poll(c).get(0).value(), value)) {
                throw new Exception("other bytes came back");
            }
        }
    }

    private void admin(String topic) throws Exception {
        try (var a = Admin.create(config(Map.of()))) {
            a.createTopics(Set.of(new NewTopic(topic, Driver.PARTITIONS, (short) 1))).all().get(60, TimeUnit.SECONDS);
            var found = a.describeTopics(Set.of(topic)).allTopicNames().get(60, TimeUnit.SECONDS);
            if (found.get(topic).partitions().size() != Driver.PARTITIONS) {
                throw new Exception("describe topics: " + found);
            }
            a.deleteTopics(Set.of(topic)).all().get(60, TimeUnit.SECONDS);
            if (a.listTopics().names().get(60, TimeUnit.SECONDS).contains(topic)) {
                throw new Exception("the deleted topic is still there");
            }
        }
    }

    private void transact(String input, String output, String group, int count) throws Exception {
        try (var p = producer(Map.of("transactional.id", group))) {
            p.initTransactions();
            p.beginTransaction();
            send(p, output, Driver.no());
            p.abortTransaction();
            p.beginTransaction();
            send(p, output, Driver.made(count));
            p.sendOffsetsToTransaction(offsets(input, count / Driver.PARTITIONS), new ConsumerGroupMetadata(group));
            p.commitTransaction();
            p.beginTransaction();
            send(p, output, Driver.no());
            p.sendOffsetsToTransaction(offsets(input, 1), new ConsumerGroupMetadata(group));
            p.abortTransaction();
        }
        consume(output, count, Map.of("isolation.level", "read_committed"));
    }

    private static Map<TopicPartition, OffsetAndMetadata> offsets(String topic, long offset) {
        return partitions(topic).stream().collect(Collectors.toMap(at -> at, at -> new OffsetAndMetadata(offset)));
    }
}
