package partition

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
)

// Another broker reads a log as its leader does, with one difference: it asks
// the leader where the records lie, and reads them from the object store
// itself (KIP-392). What the leader names is durable, so nothing is read that may be lost,
// whether the leader still is one or not.
//
//	leader    Locate ─▶ Place: watermarks, and what to read of which object
//	follower             └──▶ Replica.Read ─▶ its own object cache and cold reader

// Place is where a partition's records lie from an offset on. It travels
// between brokers as JSON.
type Place struct {
	HighWatermark kafka.Offset        `json:"high_watermark"`
	LastStable    kafka.Offset        `json:"last_stable"`
	LogStart      kafka.Offset        `json:"log_start"`
	Sealed        bool                `json:"sealed,omitempty"`  // in sealed segments: the catalogue says where
	Slices        []Ref               `json:"slices,omitempty"`  // else whole batches, without gaps
	Aborted       []bundle.AbortedTxn `json:"aborted,omitempty"` // transactions that end behind the sealed segments, for a read_committed reader
}

// errPlace tells that a place is not what a leader says.
var errPlace = errors.New("partition: bad place")

// ParsePlace reads what json.Marshal made of a Place.
func ParsePlace(b []byte) (Place, error) {
	var p Place
	if err := json.Unmarshal(b, &p); err != nil {
		return Place{}, fmt.Errorf("%w: %w", errPlace, err)
	}
	if len(p.Slices) > maxReadRefs {
		return Place{}, fmt.Errorf("%w: %d slices", errPlace, len(p.Slices))
	}
	for i, s := range p.Slices {
		if s.Len <= 0 || s.Len > maxSliceBytes+maxReadBytes || s.Pos < 0 || s.Last < s.Base || i > 0 && s.Base != p.Slices[i-1].Last+1 {
			return Place{}, fmt.Errorf("%w: slice %+v", errPlace, s)
		}
	}
	return p, nil
}

// Bytes returns how much there is to read at most.
func (p *Place) Bytes() (n int64) {
	if p.Sealed {
		return maxReadBytes
	}
	for _, s := range p.Slices {
		n += s.Len
	}
	return n
}

// Locate returns what a Read of the same arguments would read. Where that is
// nothing the place has watermarks only; they are there with kafka.OffsetOutOfRange too. Errors are Read's.
func (l *Log) Locate(ctx context.Context, from kafka.Offset, limit int, iso kafka.Isolation) (Place, error) {
	w := bounds{from: from, max: min(max(1, int64(limit)), maxReadBytes)}
	v, err := l.resolve(from, w.max, iso)
	if err == nil {
		err = l.learnMarks(ctx, v.slices)
	}
	if err != nil {
		o := l.Offsets()
		return Place{HighWatermark: o.HighWatermark, LastStable: o.LastStable, LogStart: o.LogStart}, err
	}
	p := Place{HighWatermark: v.HighWatermark, LastStable: v.LastStable, LogStart: v.LogStart, Sealed: v.sealed, Aborted: v.ended}
	for i := range v.slices {
		s := &v.slices[i]
		r := s.part(s.span(w))
		p.Slices = append(p.Slices, r)
		if i > 0 { // of the first, a part may be skipped
			w.max -= r.Len
		}
		if w.max <= 0 || r.Last < s.Last {
			break
		}
	}
	return p, nil
}

// part returns the batches of a slice from a mark to the boundary at hi.
func (s *slice) part(lo mark, hi int64) Ref {
	r := s.Ref
	r.Pos, r.Len, r.Base = s.Pos+lo.pos, hi-lo.pos, lo.base
	if hi < s.Len {
		r.Last = s.floorPos(hi).base - 1
	}
	return r
}

// view returns a place as the reader at from sees it.
func (p *Place) view(from kafka.Offset, iso kafka.Isolation) view {
	v := view{
		Result: Result{HighWatermark: p.HighWatermark, LastStable: p.LastStable, LogStart: p.LogStart},
		from:   from, limit: p.HighWatermark, sealed: p.Sealed,
	}
	if iso == kafka.ReadCommitted {
		v.limit, v.Aborted, v.ended = p.LastStable, []bundle.AbortedTxn{}, p.Aborted
	}
	if !p.Sealed && len(p.Slices) == 0 {
		v.limit = from // the leader had no room for more
	}
	for _, r := range p.Slices {
		v.slices = append(v.slices, slice{Ref: r})
	}
	return v
}

// Replica reads a partition that another broker leads.
type Replica struct {
	TP    kafka.TopicPartition
	Cache Cache
	Cold  Cold
}

// Read is Log.Read. locate asks the leader for the place of an offset; it is
// called again when the place is out of date.
func (r Replica) Read(ctx context.Context, from kafka.Offset, limit int, iso kafka.Isolation, a *objcache.Arena, locate func(from kafka.Offset) (Place, error)) (Result, error) {
	s := source{tp: r.TP, cache: r.Cache, cold: r.Cold}
	return s.read(ctx, from, limit, iso, a, func(from kafka.Offset, _ int64) (view, error) {
		p, err := locate(from)
		return p.view(from, iso), err
	})
}

// PrefetchPlaces is Prefetch for the Reads of Replicas.
func PrefetchPlaces(ctx context.Context, cache Cache, places []Place, a *objcache.Arena) {
	var ranges []objcache.Range
	for i := range places {
		for _, s := range places[i].Slices {
			ranges = append(ranges, objcache.Range{Key: s.Key, Off: s.Pos, N: s.Len})
		}
	}
	if len(ranges) > 1 {
		cache.Prefetch(ctx, ranges, a)
	}
}
