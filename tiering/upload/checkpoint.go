package upload

import (
	"context"
	"fmt"
	"io"

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
	Slices []bundle.Slice
}

// CheckpointInfo is a written checkpoint, to be committed.
type CheckpointInfo struct {
	Key   string
	Size  int64
	Moved []Moved
}

// Checkpoint writes the checkpoint number n of the session.
func Checkpoint(ctx context.Context, o Options, parts []CheckpointPart) (CheckpointInfo, error) {
	var info CheckpointInfo
	var err error
	info.Key, err = o.put(ctx, func(n int64) string {
		return fmt.Sprintf("ckpt/%010d/%020d/%020d", o.Origin.Broker, o.Origin.Epoch, n)
	}, func(ctx context.Context, origin bundle.Origin, w io.Writer) error {
		info.Moved = info.Moved[:0]
		return o.writeCheckpoint(ctx, bundle.NewCheckpointWriter(w, origin), parts, &info)
	})
	if err != nil {
		return CheckpointInfo{}, fmt.Errorf("upload checkpoint: %w", err)
	}
	return info, nil
}

func (o *Options) writeCheckpoint(ctx context.Context, cw *bundle.CheckpointWriter, parts []CheckpointPart, info *CheckpointInfo) error {
	for _, p := range parts {
		moved := Moved{TP: p.State.TP}
		for _, ref := range p.Slices {
			s, err := o.copySlice(ctx, cw, p.State, ref)
			if err != nil {
				return err
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
	return err
}

func (o *Options) copySlice(ctx context.Context, cw *bundle.CheckpointWriter, st bundle.State, ref Ref) (bundle.Slice, error) {
	arena := objcache.NewArena()
	defer arena.Release()
	bufs, metas, err := o.slice(ctx, ref, arena, func([]byte, bundle.Batch) error { return nil })
	if err != nil {
		return bundle.Slice{}, err
	}
	return cw.Slice(bundle.Slice{Slot: st.Slot, TP: st.TP, Batches: metas}, bufs)
}
