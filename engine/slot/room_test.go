package slot

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/kafka"
)

// TestLittleRoom fills a disk: there is always enough of it left to seal what
// is hot, so in the end nearly all of it is sealed records, and when there is
// room again it goes on.
func TestLittleRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const value = 32 << 10
		disk := int64(8 << 20)
		r := newRig(t)
		defer r.end()
		r.room = func() int64 {
			left := disk
			for _, key := range r.store.Keys() {
				object, _ := r.store.Object(key)
				left -= int64(len(object))
			}
			return left
		}
		n := r.start(1)
		r.until("all slots", time.Second, holding(map[*node]int{n: slots}))
		records := 0
		fill := func() {
			for last := time.Now(); time.Since(last) < time.Minute; {
				p := int32(records % partitions)
				if err := n.m.Load().Admit(t.Context(), value); errors.Is(err, kafka.RequestTimedOut) {
					time.Sleep(50 * time.Millisecond)
					continue
				}
				if err := n.append(t.Context(), p, noise(records, value)); err != nil {
					t.Fatal(err)
				}
				if left := r.room(); left < 0 {
					t.Fatalf("the disk is over-full by %d bytes", -left)
				}
				records, last = records+1, time.Now()
			}
			t.Logf("%d records of %d bytes on a disk of %d, %d free", records, value, disk, r.room())
			if full := int64(records) * value; full < disk*3/4 {
				t.Errorf("everything is refused with %d bytes of records on a disk of %d", full, disk)
			}
		}
		fill()
		disk += 2 << 20
		fill()
		r.check()
	})
}

// noise returns a value that cannot be compressed.
func noise(seed, size int) string {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b) // never fails
	return string(b)
}
