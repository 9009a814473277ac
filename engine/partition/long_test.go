package partition

import (
	"bytes"
	"testing"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/objcache"
)

// TestLongBatch: a batch that is longer than one read of the cache is read as it was appended, and found by its time.
func TestLongBatch(t *testing.T) {
	r := newRig(Shared{})
	b := record.NewBuilder(record.None)
	b.Append(1000, nil, bytes.Repeat([]byte("0123456789abcdef"), objcache.MaxRead/16+1))
	batch, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	h, err := record.ParseHeader(batch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Append(batch, h); err != nil {
		t.Fatal(err)
	}
	r.wal.flush(1)
	res, err := r.Read(t.Context(), 0, 1, kafka.ReadUncommitted, nil)
	if err != nil || !bytes.Equal(bytes.Join(res.Bufs, nil), batch) {
		t.Errorf("%d bytes, %v", len(bytes.Join(res.Bufs, nil)), err)
	}
	if off, ts, _, err := r.ListOffset(t.Context(), 1000, kafka.ReadUncommitted); off != 0 || ts != 1000 || err != nil {
		t.Errorf("offset %d, time %d, %v", off, ts, err)
	}
}
