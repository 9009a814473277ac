package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/brokertest"
)

const (
	smallDisk  = 96 << 20
	ballast    = 32 << 20
	backlog    = 8 << 20                  // of WAL: sealing it takes as much room again
	inside     = "VARVE_FAULTS_NAMESPACE" // set in the process that has its own mounts
	partitions = 3
	valueBytes = 64 << 10
)

// TestDiskFull fills the disk under a broker twice: what it can't keep it
// answers with retriable errors, what it has is read meanwhile, it goes on by
// itself when there is room again, and all that it ever acknowledged is there
// after kill -9.
func TestDiskFull(t *testing.T) {
	disk, ok := smallMount(t, smallDisk)
	if !ok {
		return
	}
	b := brokertest.StartWith(t, brokertest.Options{
		Data:     filepath.Join(disk, "data"),
		Settings: []string{"log.segment.bytes=2097152", "wal.checkpoint.objects=32", fmt.Sprintf("wal.backlog.max.bytes=%d", backlog)},
	})
	w := newWriter(t, b)
	w.peer.create(w.topic, partitions)
	for round := range 2 {
		fill(t, filepath.Join(disk, "ballast"))
		w.untilRefused()
		if n := free(t, disk); n > 2*backlog {
			t.Fatalf("everything is refused with %d bytes free", n)
		}
		t.Logf("round %d: disk full with %d records acknowledged, %d KiB free", round, w.total(), free(t, disk)>>10)
		w.check(t) // reads go on
		if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		eventually(t, "room again", func() bool { return w.produce() == nil })
		t.Logf("round %d: %v after there was room, a record is acknowledged", round, time.Since(began).Round(time.Millisecond))
		if !b.Alive() {
			t.Fatal("the broker has ended")
		}
	}
	b.Kill()
	b.Restart(t)
	w.check(t)
	w.peer = dial(t, b.Addr)
	eventually(t, "a record after the restart", func() bool { return w.produce() == nil })
	w.check(t)
}

// TestDiskFullOfWAL writes several times as much as fits on a disk, with
// retention, and with the settings that a broker has by itself, by which the whole disk
// could be WAL that waits to be sealed: there is always room left to seal it, so that
// retention can do its work, and the broker goes on without anybody's help.
func TestDiskFullOfWAL(t *testing.T) {
	disk, ok := smallMount(t, 160<<20)
	if !ok {
		return
	}
	b := brokertest.StartWith(t, brokertest.Options{
		Data: filepath.Join(disk, "data"),
		Settings: []string{
			"log.retention.bytes=4194304", "log.retention.check.interval.ms=500", "log.segment.delete.delay.ms=500",
		},
	})
	dial(t, b.Addr).create("full", partitions)
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic("full"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.MaxBufferedRecords(64), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const records = 3 * (160 << 20) / valueBytes
	var failed atomic.Pointer[error]
	for i := range records {
		cl.Produce(ctx, &kgo.Record{Value: value(uint64(i))}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatalf("%d MiB are free: %v\n%s", free(t, disk)>>20, err, b.Log())
	}
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	if !b.Alive() {
		t.Fatal("the broker has ended")
	}
}

// smallMount mounts a disk of so many bytes, in a process with mounts of its
// own, which runs the test from its beginning; elsewhere ok is false, and the test is over.
func smallMount(t *testing.T, size int) (disk string, ok bool) {
	t.Helper()
	if os.Getenv(inside) == "" {
		ownMounts(t)
		return "", false
	}
	disk = t.TempDir()
	if err := syscall.Mount("varve", disk, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return disk, true
}

// ownMounts runs this test in a process with mounts of its own.
func ownMounts(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		t.Error(err)
	case os.Getenv("CI") == "true":
		t.Fatalf("missing: a mount namespace: %v", err)
	default:
		t.Skipf("missing: a mount namespace: %v", err)
	}
}

// fill writes the ballast, or as much of it as there is room for.
func fill(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, make([]byte, ballast), 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// writer produces numbered records and keeps what was acknowledged.
type writer struct {
	t     testing.TB
	addr  string
	peer  *peer
	topic string
	next  uint64
	acked [partitions][]ack
}

// ack is a record that was acknowledged.
type ack struct {
	offset int64
	number uint64
}

func newWriter(t testing.TB, b *brokertest.Broker) *writer {
	return &writer{t: t, addr: b.Addr, peer: dial(t, b.Addr), topic: "full"}
}

func (w *writer) total() (n int) {
	for _, a := range w.acked {
		n += len(a)
	}
	return n
}

// value is the record of a number: it can't be compressed.
func value(number uint64) []byte {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], number)
	v := make([]byte, valueBytes)
	_, _ = rand.NewChaCha8(seed).Read(v) // never fails
	binary.BigEndian.PutUint64(v, number)
	return v
}

// produce sends the next record.
func (w *writer) produce() error {
	w.t.Helper()
	p, number := int32(w.next%partitions), w.next
	w.next++
	res := w.peer.produce(w.topic, p, batch(w.t, value(number)))
	if res.ErrorCode != 0 {
		return kerr.ErrorForCode(res.ErrorCode)
	}
	w.acked[p] = append(w.acked[p], ack{res.BaseOffset, number})
	return nil
}

// untilRefused produces until everything has been refused for some time: while
// the WAL waits to be sealed, a few are refused too.
func (w *writer) untilRefused() {
	w.t.Helper()
	const long = 4 * time.Second
	since := time.Now()
	eventually(w.t, "a full disk", func() bool {
		err := w.produce()
		for ; err == nil; err = w.produce() {
			since = time.Now()
		}
		if !kerr.IsRetriable(err) {
			w.t.Fatalf("record %d: %v can't be retried", w.next-1, err)
		}
		return time.Since(since) > long
	})
}

// free returns the bytes that are free on a disk.
func free(t testing.TB, disk string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// check reads all partitions: what was acknowledged lies at its offset,
// unchanged and in order, and offsets have no gap.
func (w *writer) check(t *testing.T) {
	t.Helper()
	for p := range w.acked {
		read := w.read(t, int32(p), w.acked[p])
		for i, a := range w.acked[p] {
			if i > 0 && a.offset <= w.acked[p][i-1].offset {
				t.Errorf("partition %d: offset %d was given after %d", p, a.offset, w.acked[p][i-1].offset)
			}
			if !bytes.Equal(read[a.offset], value(a.number)) {
				t.Fatalf("partition %d: not record %d at offset %d", p, a.number, a.offset)
			}
		}
	}
}

// read returns a partition's records by offset, up to the last acknowledged.
func (w *writer) read(t *testing.T, p int32, acked []ack) map[int64][]byte {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{w.topic: {p: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	read, next := make(map[int64][]byte), int64(0)
	for len(acked) > 0 && next <= acked[len(acked)-1].offset {
		fetches := cl.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatalf("read partition %d at offset %d: %v", p, next, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != next {
				t.Fatalf("partition %d: offset %d follows %d", p, r.Offset, next-1)
			}
			read[r.Offset], next = r.Value, next+1
		})
	}
	return read
}
