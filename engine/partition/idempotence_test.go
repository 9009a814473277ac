package partition

import (
	"math"
	"testing"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/wal"
)

// step is one produce and what Apache Kafka 4.3.1 answers, or a flush (n 0).
type step struct {
	name  string
	pid   int64
	epoch int16
	seq   int32
	n     int
	err   error
	base  kafka.Offset
	dup   bool
}

const flushed = 1 << 20

func TestIdempotence(t *testing.T) {
	gap, stale := error(kafka.OutOfOrderSequenceNumber), error(kafka.InvalidProducerEpoch)
	tests := map[string][]step{
		"unknown producer": {
			{"first batch seq=5", 1, 0, 5, 1, nil, 0, false},
			{"next", 1, 0, 6, 1, nil, 1, false},
			{"gap", 1, 0, 8, 1, gap, -1, false},
			{"never issued pid, any epoch", 999999, 7, 0, 1, nil, 2, false},
		},
		"window and epochs": {
			{"seq=0", 1, 0, 0, 1, nil, 0, false},
			{"seq=1", 1, 0, 1, 1, nil, 1, false},
			{"seq=2", 1, 0, 2, 1, nil, 2, false},
			{"seq=3", 1, 0, 3, 1, nil, 3, false},
			{"seq=4", 1, 0, 4, 1, nil, 4, false},
			{"seq=5", 1, 0, 5, 1, nil, 5, false},
			{"seq=6", 1, 0, 6, 1, nil, 6, false},
			{"dup seq=6 (in window)", 1, 0, 6, 1, nil, 6, true},
			{"dup seq=2 (5th back)", 1, 0, 2, 1, nil, 2, true},
			{"dup seq=1 (out of window)", 1, 0, 1, 1, gap, -1, false},
			{"gap seq=9", 1, 0, 9, 1, gap, -1, false},
			{"partial overlap seq=6 n=2", 1, 0, 6, 2, gap, -1, false},
			{"epoch+1 seq=0", 1, 1, 0, 1, nil, 7, false},
			{"old epoch", 1, 0, 7, 1, stale, -1, false},
			{"old epoch, a duplicate there", 1, 0, 6, 1, stale, -1, false},
			{"epoch+2 seq=3", 1, 2, 3, 1, gap, -1, false},
			{"epoch+1 goes on", 1, 1, 1, 1, nil, 8, false},
		},
		"equal sequences of two epochs": {
			{"seq=0", 1, 0, 0, 1, nil, 0, false},
			{"epoch+1 seq=0", 1, 1, 0, 1, nil, 1, false},
			{"old epoch seq=0", 1, 0, 0, 1, stale, -1, false},
			{"epoch+1 dup", 1, 1, 0, 1, nil, 1, true},
		},
		"wrap": {
			{"first seq=MaxInt32-1 n=2", 2, 0, math.MaxInt32 - 1, 2, nil, 0, false},
			{"next seq=0", 2, 0, 0, 1, nil, 2, false},
			{"next seq=1 n=3", 2, 0, 1, 3, nil, 3, false},
			{"dup of the batch before the wrap", 2, 0, math.MaxInt32 - 1, 2, nil, 0, true},
			{"mid-batch seq=MaxInt32 n=3", 3, 0, math.MaxInt32, 3, nil, 6, false},
			{"dup mid-batch", 3, 0, math.MaxInt32, 3, nil, 6, true},
			{"mid-batch next seq=2", 3, 0, 2, 1, nil, 9, false},
		},
	}
	for name, steps := range tests {
		for _, mode := range []string{"nothing durable", "durable at once", "restarted after each"} {
			t.Run(name+", "+mode, func(t *testing.T) { runSteps(t, steps, mode) })
		}
	}
}

func runSteps(t *testing.T, steps []step, mode string) {
	r := newRig(Shared{})
	stamps := make(map[kafka.Offset]int64)
	for i, s := range steps {
		b, h := build(spec{n: s.n, size: 10, pid: s.pid, epoch: s.epoch, seq: s.seq, ts: 1000 + int64(i)})
		got, err := r.Append(b, h)
		want := Appended{Base: s.base, Last: s.base + kafka.Offset(s.n) - 1, Duplicate: s.dup, Timestamp: -1}
		switch {
		case s.dup:
			want.Timestamp = stamps[s.base]
		case s.err != nil:
			want.Last = -1
		default:
			stamps[s.base] = h.MaxTimestamp
		}
		if err != s.err || got != want {
			t.Fatalf("%s: got %+v, %v; want %+v, %v", s.name, got, err, want, s.err)
		}
		if mode != "nothing durable" {
			r.wal.flush(flushed)
		}
		if mode == "restarted after each" {
			r.restart(t)
		}
	}
}

func TestDuplicateWaitsWithItsOriginal(t *testing.T) {
	r := newRig(Shared{})
	first, h := build(spec{n: 3, size: 10, pid: 1})
	again, _ := build(spec{n: 3, size: 10, pid: 1})
	if _, err := r.Append(first, h); err != nil {
		t.Fatal(err)
	}
	dup, err := r.Append(again, h)
	if err != nil || !dup.Duplicate || dup.Last != 2 {
		t.Fatalf("got %+v, %v", dup, err)
	}
	if r.wal.pending() != 1 {
		t.Fatal("the duplicate was appended")
	}
	done := make(chan error)
	go func() { done <- r.AwaitDurable(t.Context(), dup.Last) }()
	select {
	case err := <-done:
		t.Fatalf("answered before the original was durable: %v", err)
	default:
	}
	r.wal.flush(1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestRefusedByWAL(t *testing.T) {
	r := newRig(Shared{})
	b, h := build(spec{n: 1, pid: 1})
	r.wal.fail = wal.ErrClosed
	if _, err := r.Append(b, h); err != kafka.NotLeaderOrFollower {
		t.Fatalf("got %v", err)
	}
	if got := r.Offsets(); got != (Offsets{}) {
		t.Fatalf("the tip moved: %+v", got)
	}
	if ps := r.Producers(); len(ps) != 0 {
		t.Fatalf("the producer was noted: %+v", ps)
	}
	r.wal.fail = nil
	if a, err := r.Append(b, h); err != nil || a.Duplicate || a.Base != 0 {
		t.Fatalf("got %+v, %v", a, err)
	}
}
