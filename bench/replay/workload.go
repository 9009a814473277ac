package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/clients/replay"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/tiertest"
)

const (
	batchBytes   = 64 << 10
	flushBytes   = 1 << 20  // of a partition in one WAL object
	segmentBytes = 16 << 20 // of a partition
	pieceBytes   = 2 << 20  // of a plain read
	parallel     = 16       // reads at a time
)

// workload is the log that is read.
type workload struct{ mib, partitions, record int }

func (w workload) records() int { return w.mib << 20 / w.record }

// fatal ends the program where a test would fail.
type fatal struct{}

func (fatal) Helper()                           {}
func (fatal) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }

// write writes the log, and returns where it lies.
func (w workload) write(ctx context.Context, table meta.Store, objects objstore.Store) *pieces {
	o := tiertest.NewOn(ctx, fatal{}, table, objects, map[string]int32{"bench": int32(w.partitions)})
	p := new(pieces)
	rng := rand.New(rand.NewPCG(1, 2))
	left, unsealed := w.records(), 0
	for left > 0 {
		for _, l := range o.Logs {
			for n := 0; n < flushBytes && left > 0; n += batchBytes {
				count := min(left, max(1, batchBytes/w.record))
				b := w.batch(rng, count)
				p.raw += int64(len(b))
				o.Append(l, b)
				left -= count
			}
		}
		o.Flush()
		if unsealed += flushBytes; unsealed >= segmentBytes && left > 0 {
			for _, l := range o.Logs {
				o.Seal(l)
			}
			o.Checkpoint(true)
			unsealed = 0
		}
	}
	for _, l := range o.Logs {
		p.add(ctx, o, objects, l)
	}
	return p
}

func (w workload) batch(rng *rand.Rand, count int) []byte {
	b := record.NewBuilder(record.None)
	for range count {
		key, value := w.next(rng)
		b.Append(1, key, value)
	}
	out, err := b.Bytes()
	if err != nil {
		log.Fatal(err)
	}
	return out
}

// next makes up a record.
func (w workload) next(rng *rand.Rand) (key, value []byte) {
	value = fmt.Appendf(nil, `{"user":"%08x","time":%d,"path":"/shop/item/%d","agent":"Mozilla/5.0 (X11; Linux x86_64)","payload":"`, rng.Uint32(), rng.Int64N(1<<40), rng.IntN(5000))
	for len(value) < w.record-2 {
		value = append(value, "etaoin shrdlu"[rng.IntN(13)])
	}
	return value[9:17], append(value, `"}`...)
}

// replay reads all records and looks at each. It returns when the first had come.
func (w workload) replay(ctx context.Context, src *replay.Source) (first time.Duration, err error) {
	begin := time.Now()
	r, err := replay.Open(ctx, src, replay.Options{Topic: "bench"})
	if err != nil {
		return 0, err
	}
	n, bytes := 0, 0
	for rec, err := range r.Records(ctx) {
		if err != nil {
			return 0, err
		}
		if n++; n == 1 {
			first = time.Since(begin)
		}
		bytes += len(rec.Key) + len(rec.Value)
	}
	if n != w.records() {
		return 0, fmt.Errorf("%d of %d records were read", n, w.records())
	}
	return first, nil
}

// piece is a range of an object, and the frames in it (none: it is not compressed).
type piece struct {
	key      string
	pos, len int64
	frames   []bundle.Frame
}

// pieces is where a log lies.
type pieces struct {
	all         []piece
	raw, stored int64
	scratch     sync.Pool
}

func (p *pieces) add(ctx context.Context, o *tiertest.Owner, objects objstore.Store, l *tiertest.Log) {
	segs, err := o.Cat.Segments(ctx, l.TP, 0, 0)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range segs {
		obj, err := bundle.Read(ctx, bundle.At(objects, s.Key), nil)
		if err != nil {
			log.Fatal(err)
		}
		var one piece
		for _, f := range obj.Segment.Frames {
			if one.len > 0 && one.frames[len(one.frames)-1].RawPos+int64(f.RawLen)-one.frames[0].RawPos > pieceBytes {
				p.append(one)
				one = piece{}
			}
			one.key, one.pos, one.len = s.Key, cmp.Or(one.pos, f.Pos), one.len+int64(f.Len)
			one.frames = append(one.frames, f)
		}
		p.append(one)
	}
	for _, r := range l.Tail() {
		p.append(piece{key: r.Key, pos: r.Pos, len: r.Len})
	}
}

func (p *pieces) append(one piece) {
	p.all = append(p.all, one)
	p.stored += one.len
}

// read fetches and decompresses all of it.
func (p *pieces) read(ctx context.Context, objects objstore.Store) error {
	dec, err := bundle.NewFrameDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, one := range p.all {
		g.Go(func() error {
			bufs, _ := p.scratch.Get().(*[2][]byte)
			if bufs == nil {
				bufs = new([2][]byte)
			}
			defer p.scratch.Put(bufs)
			bufs[0] = slices.Grow(bufs[0][:0], int(one.len))[:one.len]
			if n, _, err := objects.ReadAt(ctx, one.key, bufs[0], one.pos); n < len(bufs[0]) {
				return fmt.Errorf("read %s: %w", one.key, err)
			}
			for _, f := range one.frames {
				at := f.Pos - one.pos
				var err error
				if bufs[1], err = dec.Decode(bufs[1][:0], f, bufs[0][at:at+int64(f.Len)]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
