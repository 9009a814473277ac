package upload

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objcache"
)

// CheckpointPart is a partition of a checkpoint: its state, and the hot slices
// that go into this one.
type CheckpointPart struct {
	State  bundle.State
	Slices []Ref
}

// Moved says where a partition's slices lie in the checkpoint.
type Moved struct {
	TP     kafka.TopicPartition
	Slices []bundle.Slice // one for each Ref, in their order
}

// CheckpointInfo is a written checkpoint, to be committed.
type CheckpointInfo struct {
	Key   string
	Size  int64   // bytes of the object
	Moved []Moved // of the partitions that had slices
}

// Checkpoint writes the next checkpoint of the session. It holds some MiB of slices at a
// time, each at most what one WAL object has of a partition. What the cache has of them in RAM it has of the checkpoint, too. Errors:
// ErrCorrupt; bundle.ErrTooLarge, for too many batches; those of cache, store and Pace, wrapped.
func Checkpoint(ctx context.Context, o Options, parts []CheckpointPart) (CheckpointInfo, error) {
	var info CheckpointInfo
	key, err := o.Put(ctx, func(n int64) string { return checkpointKey(o.Origin, n) },
		func(ctx context.Context, origin bundle.Origin, w io.Writer) (err error) {
			info, err = o.writeCheckpoint(ctx, bundle.NewCheckpointWriter(w, origin, cmp.Or(o.MaxFooter, bundle.MaxFooter)), parts)
			return err
		})
	if err != nil {
		return CheckpointInfo{}, fmt.Errorf("upload checkpoint: %w", err)
	}
	info.Key = key
	o.Cache.Carry(key, carried(parts, info.Moved))
	return info, nil
}

// carried lists which slices went where.
func carried(parts []CheckpointPart, moved []Moved) (all []objcache.Carried) {
	for _, p := range parts {
		if len(p.Slices) == 0 {
			continue
		}
		for j, ref := range p.Slices {
			all = append(all, objcache.Carried{From: objcache.Range{Key: ref.Key, Off: ref.Pos, N: ref.Len}, Off: moved[0].Slices[j].Pos})
		}
		moved = moved[1:]
	}
	return all
}

func checkpointKey(o bundle.Origin, n int64) string {
	return fmt.Sprintf(CheckpointPrefix+"%010d/%020d/%020d", o.Broker, o.Epoch, n)
}

// ParseCheckpointKey reads the key of a checkpoint: who wrote it, and its number
// as Seq. ok is false for any other key.
func ParseCheckpointKey(key string) (o bundle.Origin, ok bool) {
	if !strings.HasPrefix(key, CheckpointPrefix) { // Sscanf is slow, and listings are long
		return o, false
	}
	n, err := fmt.Sscanf(key, CheckpointPrefix+"%d/%d/%d", &o.Broker, &o.Epoch, &o.Seq)
	return o, err == nil && n == 3 && checkpointKey(o, o.Seq) == key
}

func (o *Options) writeCheckpoint(ctx context.Context, cw *bundle.CheckpointWriter, parts []CheckpointPart) (CheckpointInfo, error) {
	var info CheckpointInfo
	arena, ahead := objcache.NewArena(), 0 // slices that were read ahead into it
	defer arena.Release()
	for i, p := range parts {
		moved := Moved{TP: p.State.TP}
		for j, ref := range p.Slices {
			if ahead == 0 {
				arena.Release()
				ahead = o.readAhead(ctx, parts[i:], j, arena)
			}
			ahead--
			s, err := o.copySlice(ctx, cw, p.State, ref, arena)
			if err != nil {
				return info, err
			}
			moved.Slices = append(moved.Slices, s)
		}
		if len(moved.Slices) > 0 {
			info.Moved = append(info.Moved, moved)
		}
		cw.State(p.State)
	}
	done, err := cw.Close()
	info.Size = done.Size
	return info, err
}

// Bounds on what is read ahead: a tail that was taken over lies in hundreds of
// objects, a slice of each partition in each, and none of them is here.
const (
	aheadBytes  = 4 << 20
	aheadSlices = 256
)

// readAhead reads the next slices together, from the j-th of the first part on, and returns how many
// they are: at least one.
func (o *Options) readAhead(ctx context.Context, parts []CheckpointPart, j int, arena *objcache.Arena) (n int) {
	var ranges []objcache.Range
	var bytes int64
	for _, p := range parts {
		for _, ref := range p.Slices[j:] {
			if bytes += ref.Len; n > 0 && (bytes > aheadBytes || n == aheadSlices) {
				o.Cache.Prefetch(ctx, ranges, arena)
				return n
			}
			ranges = append(ranges, objcache.Range{Key: ref.Key, Off: ref.Pos, N: min(ref.Len, objcache.MaxRead)})
			n++
		}
		j = 0
	}
	o.Cache.Prefetch(ctx, ranges, arena)
	return n
}

func (o *Options) copySlice(ctx context.Context, cw *bundle.CheckpointWriter, st bundle.State, ref Ref, arena *objcache.Arena) (bundle.Slice, error) {
	bufs, metas, err := o.slice(ctx, ref, arena)
	if err != nil {
		return bundle.Slice{}, err
	}
	return cw.Slice(bundle.Slice{Slot: st.Slot, TP: st.TP, Batches: metas}, bufs)
}
