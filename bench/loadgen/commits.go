package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// commits makes a group commit its offsets of all partitions, one request after the other.
func commits(ctx context.Context, c config, out map[string]any) error {
	if err := ensureTopic(ctx, c, out); err != nil {
		return err
	}
	cl, err := kgo.NewClient(baseOpts(c)...)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	h := newHist()
	for n := int64(1); n <= max(c.count, 1); n++ {
		var o kadm.Offsets
		for p := range int32(c.partitions) {
			o.Add(kadm.Offset{Topic: c.topic, Partition: p, At: n, LeaderEpoch: -1})
		}
		t := time.Now()
		if err := adm.CommitAllOffsets(ctx, c.group, o); err != nil {
			return fmt.Errorf("commit %d: %w", n, err)
		}
		_ = h.RecordValue(time.Since(t).Microseconds())
	}
	out["commits"] = max(c.count, 1)
	out["commit_latency"] = hist(h)
	return nil
}
