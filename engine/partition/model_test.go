package partition

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
)

// model is a log as a list of batches.
type model struct {
	r        *rig
	t        *rapid.T
	list     []entry
	durable  int // of list
	logStart kafka.Offset
	hotFrom  kafka.Offset
	opened   kafka.Offset // where the present epoch begins
	seqs     map[int64]int32
	epochs   map[int64]int16
	open     map[int64]bool // transactions, as appended
	last     map[int64]spec // batches that may be sent again
	now      int64
}

type entry struct {
	record.Header
	data   []byte
	marker int16 // -1: data
}

func (m *model) hw() kafka.Offset {
	if m.durable == 0 {
		return 0
	}
	return m.list[m.durable-1].LastOffset() + 1
}

func (m *model) next() kafka.Offset {
	if len(m.list) == 0 {
		return 0
	}
	return m.list[len(m.list)-1].LastOffset() + 1
}

// txns goes through the durable batches: the last stable offset and the
// aborted transactions.
func (m *model) txns() (lso kafka.Offset, aborted []bundle.AbortedTxn) {
	open := make(map[int64]kafka.Offset)
	for _, e := range m.list[:m.durable] {
		first, is := open[e.ProducerID]
		switch {
		case e.marker >= 0 && is:
			delete(open, e.ProducerID)
			if e.marker == 0 {
				aborted = append(aborted, bundle.AbortedTxn{ProducerID: e.ProducerID, FirstOffset: first, LastOffset: e.LastOffset()})
			}
		case e.marker < 0 && e.Transactional() && !is:
			open[e.ProducerID] = e.BaseOffset
		}
	}
	lso = m.hw()
	for _, first := range open {
		lso = min(lso, first)
	}
	return max(lso, m.logStart), aborted
}

func (m *model) limit(iso kafka.Isolation) kafka.Offset {
	if iso == kafka.ReadCommitted {
		lso, _ := m.txns()
		return lso
	}
	return m.hw()
}

func (m *model) append(b []byte, h record.Header, kind int16) {
	a, err := m.r.Append(b, h)
	if err != nil || a.Duplicate || a.Base != m.next() || a.LogStart != m.logStart {
		m.t.Fatalf("append at %d: %+v, %v", m.next(), a, err)
	}
	stamped, err := record.ParseHeader(b)
	if err != nil || stamped.BaseOffset != a.Base || stamped.LastOffset() != a.Last || stamped.LeaderEpoch != m.r.Epoch() {
		m.t.Fatalf("stamped %+v, %v", stamped, err)
	}
	m.list = append(m.list, entry{stamped, bytes.Clone(b), kind})
}

func (m *model) spec(label string) spec {
	size := rapid.SampledFrom([]int{0, 1, 100, 5000, 40000}).Draw(m.t, label)
	m.now += int64(rapid.IntRange(-20, 30).Draw(m.t, "dt"))
	return spec{n: rapid.IntRange(1, 4).Draw(m.t, "n"), size: size, pid: -1, epoch: -1, seq: -1, ts: m.now}
}

func (m *model) appendPlain() {
	b, h := build(m.spec("size"))
	m.append(b, h, -1)
}

func (m *model) appendProducer() {
	s := m.spec("size")
	s.pid = int64(rapid.IntRange(0, 4).Draw(m.t, "pid"))
	s.epoch, s.seq = m.epochs[s.pid], m.seqs[s.pid]
	s.txn = m.open[s.pid] || rapid.Bool().Draw(m.t, "txn")
	m.open[s.pid] = s.txn
	b, h := build(s)
	m.append(b, h, -1)
	m.seqs[s.pid] = s.seq + int32(s.n)
	m.last[s.pid] = s
}

func (m *model) endTxn() {
	pid := int64(rapid.IntRange(0, 4).Draw(m.t, "pid"))
	if !m.open[pid] {
		return
	}
	commit := rapid.Bool().Draw(m.t, "commit")
	if rapid.Bool().Draw(m.t, "bump") {
		m.epochs[pid]++
		m.seqs[pid] = 0
		delete(m.last, pid)
	}
	b, h := marker(pid, m.epochs[pid], commit, 1, m.now)
	kind := int16(0)
	if commit {
		kind = 1
	}
	m.append(b, h, kind)
	m.open[pid] = false
}

func (m *model) duplicate() {
	pid := int64(rapid.IntRange(0, 4).Draw(m.t, "pid"))
	s, ok := m.last[pid]
	if !ok {
		return
	}
	b, h := build(s)
	before := m.r.wal.pending()
	a, err := m.r.Append(b, h)
	if err != nil || !a.Duplicate || a.Timestamp != h.MaxTimestamp || a.Last-a.Base != kafka.Offset(s.n-1) || m.r.wal.pending() != before {
		m.t.Fatalf("duplicate of %+v: %+v, %v", s, a, err)
	}
}

func (m *model) flush() {
	n := rapid.IntRange(1, 8).Draw(m.t, "batches")
	m.durable = min(m.durable+n, len(m.list))
	m.r.wal.flush(n)
}

// restart loses what was not durable.
func (m *model) restart() {
	m.r.restart(m.t)
	m.list = m.list[:m.durable]
	m.opened = m.hw()
	clear(m.seqs)
	clear(m.epochs)
	clear(m.open)
	clear(m.last)
	for _, e := range m.list {
		pid := e.ProducerID
		switch {
		case pid < 0:
		case e.marker < 0:
			m.epochs[pid], m.seqs[pid], m.open[pid] = e.ProducerEpoch, e.BaseSequence+e.NumRecords, e.Transactional()
		default:
			if m.epochs[pid] != e.ProducerEpoch {
				m.seqs[pid] = 0
			}
			m.epochs[pid], m.open[pid] = e.ProducerEpoch, false
		}
	}
}

func (m *model) raiseStart() {
	off := kafka.Offset(rapid.Int64Range(0, int64(m.next())+1).Draw(m.t, "start"))
	m.r.SetLogStart(off)
	m.logStart = max(m.logStart, min(off, m.hw()))
}

func (m *model) seal() {
	if m.r.seal() {
		m.hotFrom = m.hw()
		if s := m.r.Snapshot(); len(s.Aborted) != 0 || s.State.SealedEnd != m.hw() {
			m.t.Fatalf("after sealing: %+v", s)
		}
	}
}

func (m *model) read() {
	iso := kafka.Isolation(rapid.IntRange(0, 1).Draw(m.t, "iso"))
	from := kafka.Offset(rapid.Int64Range(int64(m.logStart), int64(m.hw())).Draw(m.t, "from"))
	limit := rapid.SampledFrom([]int{0, 1, 150, 1000, 70_000, 200_000, 1 << 20}).Draw(m.t, "max")
	var res Result
	var err error
	if rapid.Bool().Draw(m.t, "far") {
		res, err = readFar(m.r.Log, from, limit, iso, objcache.NewArena())
	} else {
		res, err = m.r.Read(context.Background(), from, limit, iso, objcache.NewArena())
	}
	if err != nil {
		m.t.Fatalf("read at %d: %v", from, err)
	}
	lso, aborted := m.txns()
	if res.HighWatermark != m.hw() || res.LastStable != lso || res.LogStart != m.logStart {
		m.t.Fatalf("watermarks %d %d %d, want %d %d %d", res.HighWatermark, res.LastStable, res.LogStart, m.hw(), lso, m.logStart)
	}
	got := slices.Concat(res.Bufs...)
	end := m.checkRun(got, from, limit, m.limit(iso))
	if iso == kafka.ReadUncommitted {
		if res.Aborted != nil {
			m.t.Fatal("aborted transactions for read_uncommitted")
		}
		return
	}
	want := touching(aborted, from, end)
	if len(got) == 0 {
		want = nil
	}
	if res.Aborted == nil || len(res.Aborted) != len(want) {
		m.t.Fatalf("aborted of [%d, %d): %+v, want %+v", from, end, res.Aborted, want)
	}
	for _, w := range want {
		if !slices.ContainsFunc(res.Aborted, func(a bundle.AbortedTxn) bool {
			return a.ProducerID == w.ProducerID && a.FirstOffset == w.FirstOffset && a.LastOffset == w.LastOffset
		}) {
			m.t.Fatalf("aborted of [%d, %d): %+v, want %+v", from, end, res.Aborted, want)
		}
	}
}

// checkRun compares what a read returned with the list, and returns the offset
// behind it. From the hot index as much as fits must have come.
func (m *model) checkRun(got []byte, from kafka.Offset, limit int, bound kafka.Offset) kafka.Offset {
	i := slices.IndexFunc(m.list, func(e entry) bool { return e.LastOffset() >= from })
	var want []byte
	end := from
	for ; from < bound && i >= 0 && i < len(m.list) && m.list[i].BaseOffset < bound; i++ {
		if len(want) > 0 && len(want) == len(got) && from < m.hotFrom {
			break // a sealed segment may end here
		}
		if len(want) > 0 && len(want)+len(m.list[i].data) > limit {
			break
		}
		want = append(want, m.list[i].data...)
		end = m.list[i].LastOffset() + 1
	}
	if !bytes.Equal(got, want) {
		m.t.Fatalf("read at %d, max %d: %d bytes, want %d (to %d)", from, limit, len(got), len(want), end)
	}
	return end
}

func (m *model) outOfRange() {
	for _, from := range []kafka.Offset{-1, m.logStart - 1, m.next() + 1} {
		if _, err := m.r.Read(context.Background(), from, 1, 0, nil); err != kafka.OffsetOutOfRange {
			m.t.Fatalf("read at %d of [%d, %d]: %v", from, m.logStart, m.next(), err)
		}
	}
	res, err := m.r.Read(context.Background(), m.hw(), 1, 0, nil)
	if err != nil || len(res.Bufs) != 0 {
		m.t.Fatalf("read at the end: %+v, %v", res, err)
	}
}

// find is ListOffsets by time: the first record that is good, of those below bound.
func (m *model) find(from, bound kafka.Offset, good func(ts int64) bool) (kafka.Offset, int64, kafka.LeaderEpoch) {
	for _, e := range m.list[:m.durable] {
		for i := range kafka.Offset(e.NumRecords) {
			if ts := e.FirstTimestamp + int64(i); e.BaseOffset+i >= from && good(ts) {
				if e.BaseOffset+i >= bound {
					return -1, -1, -1
				}
				return e.BaseOffset + i, ts, e.LeaderEpoch
			}
		}
	}
	return -1, -1, -1
}

func (m *model) listOffsets() {
	iso := kafka.Isolation(rapid.IntRange(0, 1).Draw(m.t, "iso"))
	ts := rapid.OneOf(rapid.Int64Range(-6, 0), rapid.Int64Range(m.now-100, m.now+10)).Draw(m.t, "ts")
	off, at, epoch, err := m.r.ListOffset(context.Background(), ts, iso)
	if err != nil {
		m.t.Fatal(err)
	}
	wantTs := int64(-1)
	var want kafka.Offset
	switch {
	case ts == Latest:
		want = m.limit(iso)
	case ts == Earliest:
		want = m.logStart
	case ts == EarliestLocal:
		want = max(m.logStart, m.hotFrom)
	case ts == LatestTiered:
		want = m.hotFrom - 1
	case ts == EarliestPendingUpload:
		want = max(m.logStart, m.hotFrom)
	case ts == MaxTimestamp:
		if m.logStart > 0 {
			return // as in Kafka, records below the start in its segment still count
		}
		largest := int64(-1)
		for _, e := range m.list[:m.durable] {
			largest = max(largest, e.MaxTimestamp)
		}
		want, wantTs, _ = m.find(0, m.limit(iso), func(ts int64) bool { return ts == largest })
	default:
		var wantEpoch kafka.LeaderEpoch
		want, wantTs, wantEpoch = m.find(m.logStart, m.limit(iso), func(at int64) bool { return at >= ts })
		if epoch != wantEpoch {
			m.t.Fatalf("list offsets at %d: epoch %d, want %d", ts, epoch, wantEpoch)
		}
	}
	// Slices that the log's start passed are forgotten though not sealed.
	if ts == EarliestLocal && off >= want && off <= m.hw() {
		want = off
	}
	if off != want || at != wantTs {
		m.t.Fatalf("list offsets at %d: %d, %d; want %d, %d", ts, off, at, want, wantTs)
	}
}

func (m *model) epochEnd() {
	e := kafka.LeaderEpoch(rapid.Int32Range(-1, int32(m.r.Epoch())+1).Draw(m.t, "epoch"))
	_, end := m.r.EndOffsetForEpoch(e)
	want := m.opened
	for _, b := range m.list[:m.durable] {
		if b.LeaderEpoch > e {
			want = min(want, b.BaseOffset)
		}
	}
	switch {
	case e < 0 || e > m.r.Epoch():
		want = -1
	case e == m.r.Epoch():
		want = m.hw()
	}
	if want >= 0 && want < m.logStart && end >= want && end <= m.logStart {
		want = end // epochs that end below the log's start are forgotten
	}
	if end != want {
		m.t.Fatalf("end of epoch %d: %d, want %d", e, end, want)
	}
}

func (m *model) check(t *rapid.T) {
	if got, lso := m.r.Offsets(), m.limit(kafka.ReadCommitted); got != (Offsets{m.logStart, lso, m.hw(), m.next()}) {
		t.Fatalf("offsets %+v, want %+v", got, Offsets{m.logStart, lso, m.hw(), m.next()})
	}
}

// TestModel tries a log against a list of batches: whatever is appended, made
// durable, moved, sealed, cut off and recovered, the same bytes come back.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			r: newRig(Shared{}), t: t, now: 1_000_000,
			seqs: make(map[int64]int32), epochs: make(map[int64]int16), open: make(map[int64]bool), last: make(map[int64]spec),
		}
		m.r.store.rng = rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
		do := func(fn func()) func(*rapid.T) { return func(*rapid.T) { fn() } }
		t.Repeat(map[string]func(*rapid.T){
			"":               m.check,
			"append":         do(m.appendPlain),
			"appendProducer": do(m.appendProducer),
			"endTxn":         do(m.endTxn),
			"duplicate":      do(m.duplicate),
			"flush":          do(m.flush),
			"flushAgain":     do(m.flush),
			"restart":        do(m.restart),
			"raiseStart":     do(m.raiseStart),
			"move":           do(m.r.move),
			"rest":           do(m.r.Rest),
			"restAgain":      do(m.r.Rest),
			"seal":           do(m.seal),
			"read":           do(m.read),
			"readAgain":      do(m.read),
			"outOfRange":     do(m.outOfRange),
			"listOffsets":    do(m.listOffsets),
			"epochEnd":       do(m.epochEnd),
		})
	})
}
