package replay_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/varvelog/varve/clients/replay"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/manifest"
	"github.com/varvelog/varve/tiering/tiertest"
)

// TestFromAListing reads a log without its catalogue: with a manifest by its
// name, without one by its id, under a name that is made up. Nothing is left behind.
func TestFromAListing(t *testing.T) {
	o := tiertest.New(t.Context(), t, map[string]int32{"a": 2})
	for i := range 40 {
		o.Append(o.Logs[i%2], tiertest.Batch(record.LZ4, i, 3, 100))
		switch i % 7 {
		case 2:
			o.Flush()
		case 4:
			o.Seal(o.Logs[0])
		case 5:
			o.Checkpoint(i%2 == 0)
		case 6:
			o.Restart()
		}
	}
	o.Flush()
	id := o.Logs[0].TP.Topic.Hex()
	for _, named := range []bool{false, true} {
		if named {
			m, err := manifest.Take(t.Context(), o.Cat)
			if err == nil {
				err = manifest.Write(t.Context(), o.Store, m, "test")
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		scratch := t.TempDir()
		src, report, err := replay.NewSourceFromListing(t.Context(), o.Store, replay.Listing{Slots: tiertest.Slots, Names: map[string]string{id: ""}, Scratch: scratch})
		if err != nil {
			t.Fatal(err)
		}
		name, ok := src.TopicByID(id)
		if !ok || report.Damaged() || named != (name == "a") {
			t.Errorf("%q: %v", name, report.Findings)
		}
		got := drain(t.Context(), t, open(t.Context(), t, src, replay.Options{Topic: name}), -1)
		for _, l := range o.Logs {
			compare(t, fmt.Sprint(name, l.TP.Partition), got[l.TP.Partition], want(t, l, 0, int64(l.End()), false))
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
