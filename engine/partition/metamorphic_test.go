package partition

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore/memstore"
	"github.com/varvelog/varve/tiering/recovery"
	"github.com/varvelog/varve/tiering/upload"
	"github.com/varvelog/varve/tiering/wal"
)

var (
	_ WAL   = (*wal.Writer)(nil)
	_ Cache = (*objcache.Cache)(nil)
	_ Cold  = (*cold.Reader)(nil)
)

// stack is a log over all that lies below it in a broker, on memory.
type stack struct {
	*Log
	t       *testing.T
	store   *memstore.Store
	catalog *catalog.Catalog
	cache   *objcache.Cache
	cold    *cold.Reader
	wal     *wal.Writer
	origin  bundle.Origin
	slot    catalog.Slot
	topic   catalog.Topic
	uploads upload.Options
	ckpts   []string
	trash   []Ref // WAL slices that are elsewhere by now, kept for their footers
}

func newStack(t *testing.T, ram int64) *stack {
	t.Helper()
	ctx := t.Context()
	s := &stack{t: t, store: memstore.New(), catalog: catalog.New(memmeta.New())}
	session, err := s.catalog.StartSession(ctx, 1, "here:9092", "")
	check0(t, err)
	slots, err := s.catalog.TakeSlots(ctx, session, nil, []catalog.Slot{{Slot: 0, Epoch: -1}}, nil)
	check0(t, err)
	s.slot = slots[0]
	s.topic, err = s.catalog.CreateTopic(ctx, catalog.Topic{Name: "t", ID: testTP.Topic, Partitions: 4, ReplicationFactor: 1})
	check0(t, err)
	s.origin = bundle.Origin{Broker: 1, Epoch: session.ID.Epoch, Nonce: session.Nonce}
	s.cache, err = objcache.New(objcache.Options{Store: s.store, RAMBytes: ram})
	check0(t, err)
	s.cold, err = cold.New(cold.Options{Catalog: s.catalog, Cache: s.cache, Store: s.store, RAMBytes: 1 << 20})
	check0(t, err)
	s.wal = wal.New(wal.Options{Store: s.store, Origin: s.origin, Fill: s.cache.Fill})
	s.uploads = upload.Options{Store: s.store, Cache: s.cache, Origin: s.origin, Count: new(atomic.Int64)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.wal.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	s.open(recovery.Tail{})
	return s
}

func check0(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *stack) open(t recovery.Tail) {
	shared := &Shared{WAL: s.wal, Cache: s.cache, Cold: s.cold}
	s.Log = New(Options{Shared: shared, TP: testTP, Topic: "t", Epoch: 5, Config: func() config.Topic { return config.Topic{} }}, t, 0)
}

func (s *stack) flush() { check0(s.t, s.wal.Flush(s.t.Context())) }

// seal makes a segment of the hot tail.
func (s *stack) seal() {
	s.flush()
	snap := s.Snapshot()
	if len(snap.Hot) == 0 {
		return
	}
	src := upload.Source{TP: testTP, Base: snap.Hot[0].Base, End: snap.State.NextOffset, State: snap.State, Slices: snap.Hot}
	seg, err := upload.Segment(s.t.Context(), s.uploads, src)
	check0(s.t, err)
	check0(s.t, s.catalog.AddSegment(s.t.Context(), s.slot, s.topic, seg))
	s.Sealed(seg)
	s.trash = append(s.trash, snap.Hot...)
}

// checkpoint copies the hot slices that lie in the WAL, and trims that.
func (s *stack) checkpoint() {
	s.flush()
	snap := s.Snapshot()
	part := upload.CheckpointPart{State: snap.State}
	for _, r := range snap.Hot {
		if strings.HasPrefix(r.Key, "wal/") {
			part.Slices = append(part.Slices, r)
			s.trash = append(s.trash, r)
		}
	}
	info, err := upload.Checkpoint(s.t.Context(), s.uploads, []upload.CheckpointPart{part})
	check0(s.t, err)
	s.ckpts = append(s.ckpts, info.Key)
	for _, m := range info.Moved {
		s.Moved(m.Slices, info.Key)
	}
	s.sweep()
}

// sweep removes the WAL objects that nothing needs.
func (s *stack) sweep() {
	for _, r := range s.trash {
		if strings.HasPrefix(r.Key, "wal/") {
			check0(s.t, s.store.Delete(s.t.Context(), r.Key))
			s.cache.Forget(r.Key)
		}
	}
	s.trash = nil
}

// restart rebuilds the log from the footers of checkpoints and WAL objects.
func (s *stack) restart() {
	s.flush()
	ctx := s.t.Context()
	var st bundle.State
	var hot []Ref
	take := func(key string, sl bundle.Slice, fold bool) {
		r := newSlice(key, sl).Ref
		switch {
		case fold && r.Last < st.NextOffset:
			return
		case fold:
			for _, b := range sl.Batches {
				recovery.Fold(&st, b)
			}
		}
		hot = append(hot, r)
	}
	for _, key := range s.ckpts {
		o, err := bundle.Read(ctx, bundle.At(s.store, key), nil)
		check0(s.t, err)
		for _, sl := range o.Slices {
			take(key, sl, false)
		}
		st = o.States[0]
	}
	for _, key := range s.store.Keys() {
		if !strings.HasPrefix(key, "wal/") {
			continue
		}
		o, err := bundle.Read(ctx, bundle.At(s.store, key), nil)
		check0(s.t, err)
		take(key, o.Slices[0], true)
	}
	newest, ok, err := s.catalog.NewestSegment(ctx, testTP)
	check0(s.t, err)
	if ok {
		st.SealedEnd = newest.End
	}
	for len(hot) > 0 && hot[0].Last < st.SealedEnd {
		hot = hot[1:]
	}
	s.open(recovery.Tail{State: st, Hot: hot})
}

// workload is batches of all sorts: codecs, idempotent producers, transactions, sizes
// up to some hundred KiB.
func workload(seed uint64) (all [][]byte) {
	rng := rand.New(rand.NewPCG(seed, 1))
	codecs := []record.Codec{record.None, record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd}
	now, seq, open := int64(1_700_000_000_000), map[int64]int32{}, map[int64]bool{}
	for range 150 {
		now += rng.Int64N(40) - 10
		pid := rng.Int64N(4) - 1
		if pid > 0 && open[pid] && rng.IntN(4) == 0 {
			b, err := record.Marker(pid, 0, rng.IntN(2) == 0, 1, time.UnixMilli(now))
			if err != nil {
				panic(err)
			}
			all, open[pid] = append(all, b), false
			continue
		}
		b := record.NewBuilder(codecs[rng.IntN(len(codecs))])
		n := 1 + rng.IntN(20)
		if pid >= 0 {
			b.ProducerID, b.ProducerEpoch, b.BaseSequence = pid, 0, seq[pid]
			seq[pid] += int32(n)
			b.Transactional = pid > 0
			open[pid] = pid > 0
		}
		size := []int{1, 50, 3000, 20_000}[rng.IntN(4)]
		for i := range n {
			v := bytes.Repeat([]byte(fmt.Sprintf("%d %d ", now, i)), 1+size/16)
			for range size / 8 {
				v[rng.IntN(len(v))] = byte(rng.Uint32())
			}
			b.Append(now+rng.Int64N(20), []byte{byte(i)}, v)
		}
		raw, err := b.Bytes()
		if err != nil {
			panic(err)
		}
		all = append(all, raw)
	}
	return all
}

// answers are what a reader can see of a log.
type answers struct {
	Offsets Offsets
	Bytes   map[string]string // by isolation level and size of the reads: length and hash
	Aborted map[kafka.Offset]int
	Times   map[string]string
}

func (s *stack) ask() answers {
	o := s.Offsets()
	a := answers{Offsets: o, Bytes: map[string]string{}, Aborted: map[kafka.Offset]int{}, Times: map[string]string{}}
	arena := objcache.NewArena()
	for _, iso := range []kafka.Isolation{kafka.ReadUncommitted, kafka.ReadCommitted} {
		for _, limit := range []int{1, 20_000, 1 << 20} {
			var all []byte
			for from := o.LogStart; ; {
				res, err := s.Read(s.t.Context(), from, limit, iso, arena)
				check0(s.t, err)
				b := bytes.Join(res.Bufs, nil)
				far, err := readFar(s.Log, from, limit, iso, arena)
				check0(s.t, err)
				if !bytes.Equal(b, bytes.Join(far.Bufs, nil)) || far.Next != res.Next || !slices.Equal(far.Aborted, res.Aborted) {
					s.t.Errorf("read at %d, max %d: another broker reads otherwise, up to %d, not %d", from, limit, far.Next, res.Next)
				}
				if len(res.Bufs) == 0 {
					break
				}
				all = append(all, b...)
				if limit == 1 && iso == kafka.ReadCommitted {
					a.Aborted[from] = len(res.Aborted)
				}
				from = lastOffset(s.t, b) + 1
				arena.Release()
			}
			a.Bytes[fmt.Sprint(iso, limit)] = fmt.Sprintf("%d %x", len(all), sha256.Sum256(all))
		}
		for ts := int64(1_700_000_000_000) - 100; ts < 1_700_000_000_000+3000; ts += 53 {
			a.list(s, ts, iso)
		}
		for _, ts := range []int64{Latest, Earliest, MaxTimestamp} {
			a.list(s, ts, iso)
		}
	}
	return a
}

func (a *answers) list(s *stack, ts int64, iso kafka.Isolation) {
	off, at, epoch, err := s.ListOffset(s.t.Context(), ts, iso)
	a.Times[fmt.Sprint(ts, iso)] = fmt.Sprint(off, at, epoch, err)
}

// TestMetamorphic: however a log lies in the store, its readers see the same.
func TestMetamorphic(t *testing.T) {
	ways := []struct {
		name  string
		ram   int64
		after func(s *stack, i int) // each batch
		end   func(s *stack)
	}{
		{"all hot", 1 << 30, func(*stack, int) {}, (*stack).flush},
		{"hot, not in RAM", 0, func(*stack, int) {}, (*stack).flush},
		{"hot, durable one by one", 1 << 20, func(s *stack, _ int) { s.flush() }, (*stack).flush},
		{"rolled after every batch", 1 << 20, func(s *stack, _ int) { s.seal() }, (*stack).flush},
		{"all cold", 1 << 20, func(*stack, int) {}, (*stack).seal},
		{"half cold", 0, every(70, (*stack).seal), (*stack).flush},
		{"checkpoints", 0, every(20, (*stack).checkpoint), (*stack).flush},
		{"restarted", 0, every(13, (*stack).flush), (*stack).restart},
		{"restarted all the time", 0, every(11, (*stack).restart), (*stack).flush},
		{"checkpoints, restarted", 0, every(17, (*stack).checkpoint), (*stack).restart},
		{"all of it", 1 << 20, func(s *stack, i int) {
			every(7, (*stack).flush)(s, i)
			every(18, (*stack).checkpoint)(s, i)
			every(41, (*stack).seal)(s, i)
			every(29, (*stack).restart)(s, i)
		}, (*stack).flush},
	}
	for seed := range uint64(2) {
		batches := workload(seed)
		var want answers
		for _, way := range ways {
			t.Run(fmt.Sprint(way.name, " seed ", seed), func(t *testing.T) {
				s := newStack(t, way.ram)
				for i, b := range batches {
					b = bytes.Clone(b)
					h, err := record.ParseHeader(b)
					check0(t, err)
					if a, err := s.Append(b, h); err != nil || a.Duplicate {
						t.Fatalf("batch %d: %+v, %v", i, a, err)
					}
					way.after(s, i)
				}
				way.end(s)
				s.sweep()
				got := s.ask()
				if want.Bytes == nil {
					want = got
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("not as %q: %.2000s", ways[0].name, diff)
				}
			})
		}
	}
}

func every(n int, fn func(s *stack)) func(s *stack, i int) {
	return func(s *stack, i int) {
		if i%n == n-1 {
			fn(s)
		}
	}
}
