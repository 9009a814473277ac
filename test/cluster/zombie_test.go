package cluster

import (
	"context"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/load"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/s3store"
	"github.com/varvelog/varve/tiering/wal"
)

// TestZombie stops one broker after the other until its slots are others' and all that it had written is
// swept. When it goes on, nothing that it still writes counts, and it begins a new session.
func TestZombie(t *testing.T) {
	const stopped = 30 * time.Second
	s3, dynamodb := farAway(t, loopback)
	place := onAWS(s3.URL, dynamodb.URL, "wal.checkpoint.objects=32", "sweep.interval.ms=1000", "log.segment.delete.delay.ms=1000")
	w := start(t, place)
	bucket, swept, seals := openBucket(t, s3.URL, place), make(map[string]bool), make(map[string]bool)
	for round := range rounds(t, 1) {
		load.Wait(t, settled)
		id := round%brokers + 1
		b, before := w.brokers[id-1], w.balanced()[id]
		w.harm("SIGSTOP", afterPause, func() {
			b.Signal(t, syscall.SIGSTOP)
			end := time.Now().Add(stopped)
			load.Wait(t, time.Second) // what was on its way lands
			mine := walOf(t, bucket, int32(id))
			if len(mine) == 0 {
				w.t.Fatal("the broker has written nothing")
			}
			maps.DeleteFunc(mine, func(key string, _ bool) bool { return swept[key] || seals[key] })
			within(t, time.Minute+stopped, "the broker's WAL is swept", func() bool { return !overlap(walOf(t, bucket, int32(id)), mine) })
			// It may have been stopped amid a sweep, whose lease others wait for: a minute.
			t.Logf("%d WAL objects were swept %s before SIGCONT", len(mine), time.Until(end).Round(time.Second))
			load.Wait(t, time.Until(end))
			maps.Copy(swept, mine)
		})
		stay := walOf(t, bucket, int32(id))
		if len(stay) == 0 {
			w.t.Error("the seal went with the WAL")
		}
		maps.Copy(seals, stay)
		w.harm("SIGCONT", afterMove, func() {
			b.Signal(t, syscall.SIGCONT)
			eventually(t, "the broker is back", func() bool {
				now := w.status()[id]
				return now.Slots > 0 && now.Session != before.Session
			})
		})
	}
	w.balanced() // who reads back asks each leader once
	w.finish()
	eventually(t, "what brokers wrote again is swept", func() bool {
		return !slices.ContainsFunc([]int32{1, 2, 3}, func(id int32) bool { return overlap(walOf(t, bucket, id), swept) })
	})
}

// openBucket opens the bucket of brokers on AWS.
func openBucket(t testing.TB, s3 string, place where) objstore.Store {
	t.Helper()
	store, err := s3store.New(awstest.Config(s3), s3store.Options{Bucket: place(1).Args[1]})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// walOf returns the keys of all WAL objects and seals of a broker.
func walOf(t testing.TB, bucket objstore.Store, broker int32) map[string]bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	keys := make(map[string]bool)
	for after, more := "", true; more; {
		page, err := bucket.List(ctx, wal.KeyPrefix, after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page {
			if origin, ok := wal.ParseKey(o.Key); ok && origin.Broker == broker {
				keys[o.Key] = true
			}
			after = o.Key
		}
		more = len(page) == 1000
	}
	return keys
}

func overlap(a, b map[string]bool) bool {
	for key := range a {
		if b[key] {
			return true
		}
	}
	return false
}
