package faults

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sys/unix"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestStartEmpty: from exec to readiness on an empty directory. The bound is
// that of a busy machine; on a quiet one it takes well under 300 ms.
func TestStartEmpty(t *testing.T) {
	began := time.Now()
	brokertest.Start(t)
	took := time.Since(began)
	t.Logf("from exec to ready: %v", took.Round(time.Millisecond))
	if took > time.Second {
		t.Error("more than a second")
	}
}

// What a start may take on a busy machine, where processor time passes more slowly too: it is the tests
// beside this one that take the most of it. The figures are printed.
const (
	startCPU  = 4 * time.Second
	startTime = 20 * time.Second
)

// TestStartOnData starts a broker several times on START_BYTES (512 MiB) of
// sealed segments, and the WAL that comes with them, as both are found after kill -9 under load and after Ctrl-C, with the
// page cache warm and cold.
func TestStartOnData(t *testing.T) {
	for _, tt := range []struct {
		name          string
		partitions    int // beside the busy ones
		record, batch int // bytes
	}{
		{"a thousand partitions", 1000, 64 << 10, 256 << 10},
		{"ten thousand partitions, small batches", 10_000, 16_000, 16 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := brokertest.Start(t, "wal.backlog.max.bytes=2147483648") // else the disk needs 16 GiB more
			fillPartitions(t, b, tt.partitions)
			load := &load{t, b, tt.record, tt.batch}
			load.until(startBytes(t))
			load.kill()
			left := sizeOf(t, b.Data)
			t.Logf("after kill -9: %v", left)
			for range 2 {
				for _, cold := range []bool{false, true} {
					if reads := start(t, b, cold); reads > int64(5000+6*left.objects) {
						t.Errorf("%d reads", reads)
					}
					b.Kill()
				}
			}
			b.Restart(t)
			load.stop()
			t.Logf("after Ctrl-C: %v", sizeOf(t, b.Data))
			for _, cold := range []bool{false, true} {
				start(t, b, cold)
				b.Stop(t)
			}
		})
	}
}

func startBytes(t *testing.T) int64 {
	s := os.Getenv("START_BYTES")
	if s == "" {
		return 512 << 20
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fillPartitions makes partitions with a record each, and the topic of the load.
func fillPartitions(t *testing.T, b *brokertest.Broker, n int) {
	t.Helper()
	const topics = 40
	p := dial(t, b.Addr)
	p.create("busy", 12)
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var records []*kgo.Record
	for i := range topics {
		topic := fmt.Sprintf("idle-%d", i)
		p.create(topic, int32(n/topics))
		for p := range n / topics {
			records = append(records, &kgo.Record{Topic: topic, Partition: int32(p), Value: []byte("idle")})
		}
	}
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// load produces to a broker at full speed, compressed, so that sealing is quick.
type load struct {
	t             *testing.T
	b             *brokertest.Broker
	record, batch int // bytes
}

func (l *load) command(ctx context.Context, duration time.Duration) *exec.Cmd {
	return exec.CommandContext(ctx, brokertest.Binary(l.t), "bench", "produce", "--bootstrap", l.b.Addr, "--topic", "busy",
		"--duration", duration.String(), "--compression", "lz4", "--record-bytes", strconv.Itoa(l.record), "--batch-bytes", strconv.Itoa(l.batch))
}

// until produces until so many bytes are sealed.
func (l *load) until(size int64) {
	l.t.Helper()
	for sizeOf(l.t, l.b.Data).sealed < size {
		if out, err := l.command(l.t.Context(), 3*time.Second).CombinedOutput(); err != nil {
			l.t.Fatalf("%v\n%s", err, out)
		}
	}
}

// under runs a load and ends the broker in the middle of it.
func (l *load) under(end func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	cmd := l.command(ctx, time.Minute)
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	before := sizeOf(l.t, l.b.Data)
	for end := time.Now().Add(5 * time.Minute); ; <-time.After(100 * time.Millisecond) { // it may have to wait for sealing
		now := sizeOf(l.t, l.b.Data)
		if now.wal+now.sealed > before.wal+before.sealed+256<<20 {
			break
		}
		if time.Now().After(end) {
			l.t.Fatal("no load in five minutes")
		}
	}
	end()
	cancel()
	_ = cmd.Wait() // it was killed
}

func (l *load) kill() { l.under(l.b.Kill) }
func (l *load) stop() { l.under(func() { l.b.Stop(l.t) }) }

// size is what lies in a data directory.
type size struct {
	sealed, wal int64 // bytes
	objects     int   // of the WAL
}

func (s size) String() string {
	return fmt.Sprintf("%d MiB sealed, %d MiB of WAL in %d objects", s.sealed>>20, s.wal>>20, s.objects)
}

// sizeOf looks at a data directory that a broker may be writing to.
func sizeOf(t *testing.T, dir string) (s size) {
	t.Helper()
	each(t, dir, func(path string, info fs.FileInfo) {
		switch {
		case strings.Contains(path, "/objects/seg/"):
			s.sealed += info.Size()
		case strings.Contains(path, "/objects/wal/"):
			s.wal += info.Size()
			if !strings.HasPrefix(info.Name(), "~") {
				s.objects++
			}
		}
	})
	return s
}

// each calls fn with the files below dir.
func each(t *testing.T, dir string, fn func(path string, info fs.FileInfo)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreMissing(err)
		}
		info, err := d.Info()
		if err == nil {
			fn(path, info)
		}
		return ignoreMissing(err)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// start starts a broker, with nothing of its data in the page cache if cold, and says what it took: it returns how often the process read.
func start(t *testing.T, b *brokertest.Broker, cold bool) (reads int64) {
	t.Helper()
	how := "warm"
	if cold {
		how = "cold"
		each(t, b.Data, func(path string, _ fs.FileInfo) { dropCache(t, path) })
	}
	began := time.Now()
	b.Restart(t)
	ready := time.Since(began)
	cpu, reads, read := spent(t, b.PID())
	if res := dial(t, b.Addr).produce("busy", 0, batch(t, []byte("first"))); res.ErrorCode != 0 {
		t.Errorf("produce at once: error %d", res.ErrorCode)
	}
	acked := time.Since(began)
	fetchOne(t, b, kgo.NewOffset().AtStart())
	oldest := time.Since(began)
	fetchOne(t, b, kgo.NewOffset().AtEnd().Relative(-1))
	newest := time.Since(began)
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	t.Logf("%s: ready after %v (processor time %v, %d reads, %d KiB from the disk), first acknowledgement %v, oldest record %v, newest %v",
		how, round(ready), cpu, reads, read>>10, round(acked), round(oldest), round(newest))
	if cpu > startCPU || ready > startTime {
		t.Errorf("more than %v of processor time, or %v", startCPU, startTime)
	}
	return reads
}

// dropCache takes a file out of the page cache.
func dropCache(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// fetchOne reads from an offset of a busy partition.
func fetchOne(t *testing.T, b *brokertest.Broker, from kgo.Offset) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"busy": {0: from}}), kgo.FetchMaxPartitionBytes(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if fetches := cl.PollFetches(ctx); fetches.Err() != nil || fetches.Empty() {
		t.Errorf("fetch at once: %d records, %v", fetches.NumRecords(), fetches.Err())
	}
}

// spent returns what a process has had of the processor, and how often and how much it read.
func spent(t *testing.T, pid int) (cpu time.Duration, reads, diskBytes int64) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	for _, f := range fields[11:13] { // utime, stime of proc_pid_stat(5), in hundredths of a second
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	for line := range strings.Lines(string(io)) {
		name, n, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "syscr":
			reads, err = strconv.ParseInt(n, 10, 64)
		case "read_bytes":
			diskBytes, err = strconv.ParseInt(n, 10, 64)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return cpu, reads, diskBytes
}
