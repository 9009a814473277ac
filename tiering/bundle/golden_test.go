package bundle

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/varvelog/varve/internal/kafka"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The bytes of format version 1 never change: objects live for years.
// (Segments are left out, zstd may choose other bytes for the same content.)
func TestGolden(t *testing.T) {
	seal, _ := SealBuffers(Origin{Broker: 1, Epoch: 2, Nonce: [16]byte{0xaa, 15: 0xbb}, Seq: 7}, Origin{Broker: 3, Epoch: 4, Nonce: [16]byte{0xcc}})
	var ckpt bytes.Buffer
	w := NewCheckpointWriter(&ckpt, Origin{Broker: 1, Epoch: 2, Seq: 5}, MaxFooter)
	tp := kafka.TopicPartition{Topic: kafka.TopicID{0x11, 15: 0x22}, Partition: 3}
	m := Batch{BaseOffset: 100, LastOffsetDelta: 1, MaxTimestamp: 1_763_000_000_000, ProducerID: 9, BaseSequence: 40, LeaderEpoch: 2, ControlType: -1, CoordEpoch: -1}
	data := makeBatch(m, []byte("records"))
	m.Len = int32(len(data))
	if _, err := w.Slice(Slice{Slot: 12, TP: tp, Batches: []Batch{m}}, [][]byte{data}); err != nil {
		t.Fatal(err)
	}
	w.State(State{Slot: 12, TP: tp, NextOffset: 102, SealedEnd: 100, LastStable: 102, Epochs: []EpochStart{{0, 0}, {2, 90}},
		Producers: []Producer{{ID: 9, LastTimestamp: 1_763_000_000_000, CoordEpoch: -1, TxnFirstOffset: -1,
			Batches: []ProducerBatch{{40, 41, 100, 1_763_000_000_000}}}},
		Aborted: []AbortedTxn{{8, 91, 95, 91}}})
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, obj := range map[string][]byte{"seal": bytes.Join(seal, nil), "wal": exampleWAL(2, 2, 70), "checkpoint": ckpt.Bytes()} {
		path := filepath.Join("testdata", name+".hex")
		got := hex.Dump(obj)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is\n%swant\n%s", name, got, want)
		}
		readAll(t, obj)
	}
}
