import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.IntConsumer;
import java.util.stream.IntStream;

/** What the Go package ../driver describes: records, output and groups. */
final class Driver {
    static final long BASE = 1_700_000_000_000L;
    static final int PARTITIONS = 3;
    static final String NO = "no"; // value of the records of aborted transactions
    static final int UNSUPPORTED = 3; // exit code

    record Header(String name, byte[] value) {}

    record Record(int partition, long offset, long timestamp, byte[] key, byte[] value, List<Header> headers) {
        void print() {
            List<String> h = headers.stream().map(x -> "{\"name\":\"" + x.name + "\",\"value\":" + encode(x.value) + "}").toList();
            System.out.println("{\"partition\":" + partition + ",\"offset\":" + offset + ",\"timestamp\":" + timestamp
                    + ",\"key\":" + encode(key) + ",\"value\":" + encode(value) + ",\"headers\":" + h + "}");
        }

        private static String encode(byte[] b) {
            return b == null ? "null" : "\"" + Base64.getEncoder().encodeToString(b) + "\"";
        }
    }

    /** Record i as every client program writes it. */
    static Record make(int i) {
        byte[] key = i % 10 == 3 ? null : bytes("key-" + i);
        byte[] value = i % 10 == 9 ? null : bytes("w\u00e4rve-" + i + " " + "abcdefgh".repeat(i % 50 + 1));
        List<Header> headers = List.of(new Header("n", bytes("" + i)), new Header("twice", bytes("1")), new Header("twice", bytes("2")),
                new Header("bytes", new byte[] {(byte) 255, 1, 2}));
        return new Record(i % PARTITIONS, i / PARTITIONS, BASE + i * 1000L, key, value, headers);
    }

    static List<Record> made(int count) {
        return IntStream.range(0, count).mapToObj(Driver::make).toList();
    }

    /** What an aborted transaction writes. */
    static List<Record> no() {
        return IntStream.range(0, PARTITIONS).mapToObj(p -> new Record(p, 0, BASE, null, bytes(NO), List.of())).toList();
    }

    private static byte[] bytes(String s) {
        return s.getBytes(StandardCharsets.UTF_8);
    }

    /** The value of a large record. */
    static byte[] large(int size) {
        byte[] b = new byte[size];
        for (int i = 0; i < size; i++) {
            b[i] = (byte) (i * 31 + (i >> 8) * 17);
        }
        return b;
    }

    /** A member of a group: runs until stop, and says how many partitions it has. */
    interface Member {
        void run(AtomicBoolean stop, IntConsumer have) throws Exception;
    }

    private static final class Counts {
        private final Map<String, Integer> have = new TreeMap<>();
        private Exception failed;

        synchronized void set(String name, Integer n) {
            if (n == null) {
                have.remove(name);
            } else {
                have.put(name, n);
            }
            notifyAll();
        }

        synchronized void fail(Exception e) {
            failed = e;
            notifyAll();
        }

        synchronized void await(Integer... want) throws Exception {
            long deadline = System.nanoTime() + 60_000_000_000L;
            while (true) {
                if (failed != null) {
                    throw failed;
                }
                List<Integer> now = new ArrayList<>(have.values());
                now.sort(null);
                if (now.equals(List.of(want))) {
                    return;
                }
                long left = (deadline - System.nanoTime()) / 1_000_000;
                if (left <= 0) {
                    throw new Exception("members have " + now + " partitions, want " + List.of(want));
                }
                wait(left);
            }
        }
    }

    /** As driver.Rebalance in Go. */
    static void rebalance(Member member) throws Exception {
        Counts counts = new Counts();
        AtomicBoolean stopA = new AtomicBoolean();
        AtomicBoolean stopB = new AtomicBoolean();
        List<Thread> threads = new ArrayList<>();
        try {
            threads.add(start("a", member, stopA, counts));
            counts.await(4);
            threads.add(start("b", member, stopB, counts));
            counts.await(2, 2);
            stopB.set(true);
            counts.await(4);
        } finally {
            stopA.set(true);
            stopB.set(true);
            for (Thread t : threads) {
                t.join();
            }
        }
    }

    private static Thread start(String name, Member member, AtomicBoolean stop, Counts counts) {
        Thread t = new Thread(() -> {
            try {
                member.run(stop, n -> counts.set(name, n));
            } catch (Exception e) {
                counts.fail(e);
            }
            counts.set(name, null);
        });
        t.start();
        return t;
    }

    private Driver() {}
}
