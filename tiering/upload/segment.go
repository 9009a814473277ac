package upload

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
)

// Source is what becomes a segment: the slices from Base up to End, and the
// partition's state there.
type Source struct {
	TP        kafka.TopicPartition
	Base, End kafka.Offset // End exclusive
	State     bundle.State // at End, with the aborted transactions that end in the slices
	Slices    []Ref        // ascending, without gaps
}

// Segment writes a sealed segment and returns its entry, to be committed. It
// reads a few MiB at a time. Errors: ErrCorrupt; those of cache, store and
// Pace, wrapped.
func Segment(ctx context.Context, o Options, src Source) (catalog.Segment, error) {
	if src.State.TP != src.TP || src.State.NextOffset != src.End {
		return catalog.Segment{}, wrong("segment of %s up to offset %d, with the state of %s at %d", src.TP, src.End, src.State.TP, src.State.NextOffset)
	}
	var info bundle.SegmentInfo
	key, err := o.Put(ctx, func(n int64) string { return SegmentKey(src.TP, src.Base, o.Origin, n) },
		func(ctx context.Context, origin bundle.Origin, w io.Writer) (err error) {
			info, err = o.writeSegment(ctx, origin, w, src)
			return err
		})
	if err != nil {
		return catalog.Segment{}, fmt.Errorf("upload segment of %s from offset %d: %w", src.TP, src.Base, err)
	}
	return catalog.Segment{
		TP: src.TP, Base: src.Base, End: src.End, Key: key,
		Size: info.Size, RawSize: info.RawSize, FooterLen: info.FooterLen, Records: info.Records,
		FirstTimestamp: info.FirstTimestamp, MaxTimestamp: info.MaxTimestamp,
		CreatedMs: time.Now().UnixMilli(), Epochs: epochsWithin(src.State.Epochs, src.Base, src.End),
	}, nil
}

// JobBroker stands for a broker's id in the origin of what compaction writes;
// the epoch is then that of its lease.
const JobBroker = -1

// SegmentKey names a segment's object: partition, first offset, writer, and
// the writer's number for it.
func SegmentKey(tp kafka.TopicPartition, base kafka.Offset, o bundle.Origin, n int64) string {
	return fmt.Sprintf(SegmentPrefix+"%s/%010d/%020d-%010d-%020d-%020d", tp.Topic.Hex(), tp.Partition, base, o.Broker, o.Epoch, n)
}

// ParseSegmentKey reads the key of a segment: whose records, from which offset
// on, and who wrote it, with its number as Seq. ok is false for any other key.
func ParseSegmentKey(key string) (tp kafka.TopicPartition, base kafka.Offset, o bundle.Origin, ok bool) {
	if strings.Count(key, "/") != 3 {
		return tp, 0, o, false
	}
	parts := strings.Split(key, "/")
	if parts[0] != "seg" {
		return tp, 0, o, false
	}
	var err error
	if tp.Topic, err = kafka.ParseTopicID(parts[1]); err != nil {
		return tp, 0, o, false
	}
	_, perr := fmt.Sscanf(parts[2], "%d", &tp.Partition)
	_, err = fmt.Sscanf(parts[3], "%d-%d-%d-%d", &base, &o.Broker, &o.Epoch, &o.Seq)
	ok = err == nil && perr == nil && SegmentKey(tp, base, o, o.Seq) == key
	return tp, base, o, ok
}

// Entry returns the entry of a segment's object as its key and its footer say it:
// what Segment has returned, but for the time when it was made. ok is false for what
// is no segment, or is another one than its key says.
func Entry(key string, obj *bundle.Object) (seg catalog.Segment, writer bundle.Origin, ok bool) {
	tp, base, writer, ok := ParseSegmentKey(key)
	if !ok || obj.Segment == nil {
		return seg, writer, false
	}
	g, slice := obj.Segment, obj.Slices[0]
	named := obj.Origin
	named.Nonce = writer.Nonce // no part of the key
	if slice.TP != tp || g.Base < base || named != writer {
		return seg, writer, false
	}
	return catalog.Segment{
		TP: tp, Base: base, End: g.End, Key: key,
		Size: obj.Size, RawSize: g.RawSize, FooterLen: obj.Size - slice.Pos - slice.Len, Records: g.Records,
		FirstTimestamp: g.FirstTimestamp, MaxTimestamp: g.MaxTimestamp, Epochs: epochsWithin(g.State.Epochs, base, g.End),
	}, writer, true
}

// epochsWithin returns the leader epochs that have offsets in [base, end).
func epochsWithin(all []bundle.EpochStart, base, end kafka.Offset) []catalog.EpochStart {
	var within []catalog.EpochStart
	for i, e := range all {
		if e.Start < end && (i+1 == len(all) || all[i+1].Start > base) {
			within = append(within, catalog.EpochStart{Epoch: e.Epoch, Start: e.Start})
		}
	}
	return within
}

func (o *Options) writeSegment(ctx context.Context, origin bundle.Origin, w io.Writer, src Source) (bundle.SegmentInfo, error) {
	sw, err := bundle.NewSegmentWriter(w, origin, o.Level)
	if err != nil {
		return bundle.SegmentInfo{}, err
	}
	next := src.Base
	for _, ref := range src.Slices {
		if ref.Base != next {
			return bundle.SegmentInfo{}, wrong("slice at offset %d where %d should be", ref.Base, next)
		}
		if err := o.batches(ctx, ref, sw.Batch); err != nil {
			return bundle.SegmentInfo{}, err
		}
		next = ref.Last + 1
	}
	if next != src.End {
		return bundle.SegmentInfo{}, wrong("slices end at offset %d, the segment at %d", next, src.End)
	}
	return sw.Close(src.State, src.State.Aborted)
}
