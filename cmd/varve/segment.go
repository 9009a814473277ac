package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
)

func newSegmentCommand() *cobra.Command {
	f := new(storeFlags)
	cmd := &cobra.Command{
		Use:   "segment",
		Short: "List, dump and verify sealed segments, beside a running broker or without one",
	}
	f.register(cmd.PersistentFlags(), "data directory")
	cmd.PersistentFlags().Bool("json", false, "print JSON")
	cmd.AddCommand(newSegmentList(f), newSegmentDump(f), newVerifyCommand())
	return cmd
}

// openCluster opens a cluster's catalogue and objects. It makes nothing.
func openCluster(ctx context.Context, f *storeFlags) (*catalog.Catalog, *stores, error) {
	s, err := f.open(ctx, false, nil)
	if err != nil {
		return nil, nil, err
	}
	cat := catalog.New(s.meta)
	if err := cat.Refresh(ctx); err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return cat, s, nil
}

type segmentRow struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Base      int64     `json:"base_offset"`
	End       int64     `json:"end_offset"`
	Records   int64     `json:"records"`
	Size      int64     `json:"size_bytes"`
	RawSize   int64     `json:"raw_bytes"`
	MaxTime   time.Time `json:"max_timestamp"`
	Key       string    `json:"key"`
}

// eachSegment calls fn with the segments of the topics named, or of all.
func eachSegment(ctx context.Context, cat *catalog.Catalog, names []string, fn func(t *catalog.Topic, s catalog.Segment) error) error {
	topics := cat.Topics().All()
	if len(names) > 0 {
		topics = nil
		for _, n := range names {
			t, ok := cat.Topics().ByName(n)
			if !ok {
				return fmt.Errorf("topic %q does not exist", n)
			}
			topics = append(topics, t)
		}
	}
	for _, t := range topics {
		for p := range t.Partitions {
			segs, err := cat.Segments(ctx, kafka.TopicPartition{Topic: t.ID, Partition: p}, 0, 0)
			if err != nil {
				return err
			}
			for _, s := range segs {
				if err := fn(t, s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func rowOf(t *catalog.Topic, s catalog.Segment) segmentRow {
	return segmentRow{
		Topic: t.Name, Partition: s.TP.Partition, Base: int64(s.Base), End: int64(s.End), Records: s.Records,
		Size: s.Size, RawSize: s.RawSize, MaxTime: time.UnixMilli(s.MaxTimestamp).UTC(), Key: s.Key,
	}
}

func newSegmentList(f *storeFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list [TOPIC …]", Short: "List the sealed segments of topics (all)",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			cat, st, err := openCluster(cmd.Context(), f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, st.Close()) }()
			rows := []segmentRow{}
			if err := eachSegment(cmd.Context(), cat, args, func(t *catalog.Topic, s catalog.Segment) error {
				rows = append(rows, rowOf(t, s))
				return nil
			}); err != nil {
				return err
			}
			return printSegments(cmd, rows)
		},
	}
}

func printSegments(cmd *cobra.Command, rows []segmentRow) error {
	return printerOf(cmd).table(rows, "TOPIC\tPARTITION\tBASE\tEND\tRECORDS\tSIZE\tRAW\tMAX TIME\tKEY", func(w io.Writer) {
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", r.Topic, r.Partition, r.Base, r.End, r.Records, r.Size, r.RawSize, r.MaxTime.Format(time.RFC3339), r.Key)
		}
	})
}

func newSegmentDump(f *storeFlags) *cobra.Command {
	return &cobra.Command{
		Use: "dump KEY", Short: "Show what an object (segment, checkpoint, WAL object or seal) says of itself", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			st, err := f.open(cmd.Context(), false, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, st.Close()) }()
			obj, err := bundle.Read(cmd.Context(), bundle.At(st.objects, args[0]), nil)
			if err != nil {
				return fmt.Errorf("read object %s: %w", args[0], err)
			}
			return printerOf(cmd).value(obj, func(w io.Writer) { dumpObject(w, obj) })
		},
	}
}

func dumpObject(w io.Writer, o *bundle.Object) {
	kinds := map[bundle.Kind]string{bundle.KindWAL: "WAL object", bundle.KindSeal: "seal", bundle.KindCheckpoint: "checkpoint", bundle.KindSegment: "segment"}
	fmt.Fprintf(w, "%s of broker %d, session %d, number %d, nonce %x\n%d bytes, footer checksum %08x\n", kinds[o.Kind], o.Origin.Broker, o.Origin.Epoch, o.Origin.Seq, o.Origin.Nonce, o.Size, o.Sum)
	for _, s := range o.Slices {
		fmt.Fprintf(w, "slice %s slot %d at %d, %d bytes, %d batches\n", s.TP, s.Slot, s.Pos, s.Len, len(s.Batches))
		for _, b := range s.Batches {
			fmt.Fprintf(w, "  batch offsets %d–%d at %d, %d bytes, epoch %d, attributes %#x, producer %d/%d sequence %d, max time %d\n",
				b.BaseOffset, b.LastOffset(), b.Pos, b.Len, b.LeaderEpoch, b.Attributes, b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.MaxTimestamp)
		}
	}
	for _, st := range o.States {
		fmt.Fprintf(w, "state %s slot %d next offset %d, sealed up to %d, last stable %d, %d producers, epochs %v\n", st.TP, st.Slot, st.NextOffset, st.SealedEnd, st.LastStable, len(st.Producers), st.Epochs)
	}
	if g := o.Segment; g != nil {
		fmt.Fprintf(w, "segment of %s: offsets %d–%d, %d records, %d bytes raw\n", g.State.TP, g.Base, g.End-1, g.Records, g.RawSize)
		for i, fr := range g.Frames {
			fmt.Fprintf(w, "  frame %d from offset %d at %d, %d → %d bytes, stored %t, max time %d\n", i, fr.BaseOffset, fr.Pos, fr.RawLen, fr.Len, fr.Stored, fr.MaxTime)
		}
		fmt.Fprintf(w, "  state: next offset %d, %d producers, epochs %v, %d aborted transactions end here\n", g.State.NextOffset, len(g.State.Producers), g.State.Epochs, len(g.Aborted))
	}
}
