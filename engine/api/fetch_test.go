package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
	"github.com/varvelog/varve/tiering/objstore/memstore"
)

// TestLongPoll: a fetch over many empty partitions answers when one of them
// gets a record, and not before.
func TestLongPoll(t *testing.T) {
	r := newRig(t, nil)
	c, p := r.dial(), r.dial()
	const n = 50
	id := c.create("t", n)
	for part := range int32(3) {
		req := fetchReq("t", id, 0, 0)
		req.MaxWaitMillis, req.Topics = 60_000, nil
		for i := range int32(n) {
			fetchMore(req, "t", id, i, int64(part))
		}
		corr := c.send(req, 13)
		begin := time.Now()
		for i := range int32(n) { // one record each, so that all offsets are the same
			if got := p.produce(produceReq("t", id, (i+part)%n, -1, batch(t, "v")), 9); got.ErrorCode != 0 {
				t.Fatal(got.ErrorCode)
			}
		}
		resp := c.receive(req, corr).(*kmsg.FetchResponse)
		if d := time.Since(begin); d > 10*time.Second {
			t.Errorf("waited %v", d)
		}
		if fetched(resp) == 0 {
			t.Error("nothing fetched")
		}
	}
}

func fetched(resp *kmsg.FetchResponse) (n int) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			n += len(p.RecordBatches)
		}
	}
	return n
}

// TestFetchWaits measures max.wait and min.bytes on a clock of its own.
func TestFetchWaits(t *testing.T) {
	tests := []struct {
		name           string
		minBytes, wait int32
		offset         int64
		after          time.Duration
	}{
		{"enough", 1, 500, 0, 0},
		{"no minimum", 0, 500, 1, 0},
		{"no wait", 1, 0, 1, 0},
		{"at the end", 1, 500, 1, 500 * time.Millisecond},
		{"too little", 1 << 20, 300, 0, 300 * time.Millisecond},
		{"out of range", 1, 500, 7, 0},
	}
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServer(t, nil)
		c := pipe(t, s)
		id := c.create("t", 1)
		c.produce(produceReq("t", id, 0, -1, batch(t, "v")), 9)
		for _, tt := range tests {
			req := fetchReq("t", id, 0, tt.offset)
			req.MinBytes, req.MaxWaitMillis = tt.minBytes, tt.wait
			begin := time.Now()
			ask[*kmsg.FetchResponse](c, req, 12)
			if d := time.Since(begin); d != tt.after {
				t.Errorf("%s: answered after %v, want %v", tt.name, d, tt.after)
			}
		}
	})
}

// TestReadAhead: what a consumer that is behind will fetch next is read while
// it has the last answer, and used.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := newServer(t, map[string]string{"cache.ram.bytes": "0"})
		c := pipe(t, s)
		id := c.create("t", 2)
		for i := range 8 {
			c.produce(produceReq("t", id, int32(i%2), -1, batch(t, fmt.Sprint(i, strings.Repeat("x", 500)))), 9)
		}
		size := int32(len(batch(t, fmt.Sprint(0, strings.Repeat("x", 500)))))
		for from := range int64(4) {
			req := fetchMore(fetchReq("t", id, 0, from), "t", id, 1, from)
			for i := range req.Topics {
				req.Topics[i].Partitions[0].PartitionMaxBytes = size
			}
			store.SetFault(func(memstore.Op, string) memstore.Fault {
				if from%2 == 1 {
					return memstore.Fault{Kind: memstore.Fail}
				}
				return memstore.Fault{}
			})
			if resp := ask[*kmsg.FetchResponse](c, req, 12); fetched(resp) != 2*int(size) {
				t.Fatalf("%d bytes from offset %d, want a batch of each partition: %s", fetched(resp), from, describe(resp))
			}
			synctest.Wait() // what is read ahead has come
		}
	})
}

// TestFetchLimits: the first batch is returned whatever its size, the others
// within the limits.
func TestFetchLimits(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 3)
	big := strings.Repeat("x", 1000)
	for part := range int32(3) {
		for range 2 {
			c.produce(produceReq("t", id, part, -1, batch(t, big)), 9)
		}
	}
	tests := []struct {
		name     string
		max      int32
		partMax  int32
		isolated int8
		want     []int // batches of each partition
	}{
		{"all", 1 << 20, 1 << 20, 0, []int{2, 2, 2}},
		{"all, read committed", 1 << 20, 1 << 20, 1, []int{2, 2, 2}},
		{"tiny", 1, 1 << 20, 0, []int{1, 0, 0}},
		{"none", 0, 1 << 20, 0, []int{1, 0, 0}},
		{"tiny partitions", 1 << 20, 10, 0, []int{1, 0, 0}},
		{"one each", 1 << 20, 1500, 0, []int{1, 1, 1}},
		{"three in all", 3500, 1 << 20, 0, []int{2, 1, 0}},
	}
	for _, tt := range tests {
		req := fetchReq("t", id, 0, 0)
		fetchMore(fetchMore(req, "t", id, 1, 0), "t", id, 2, 0)
		req.MaxBytes, req.IsolationLevel = tt.max, tt.isolated
		for i := range req.Topics {
			req.Topics[i].Partitions[0].PartitionMaxBytes = tt.partMax
		}
		var got []int
		for _, tp := range ask[*kmsg.FetchResponse](c, req, 12).Topics {
			for _, p := range tp.Partitions {
				got = append(got, len(values(t, p.RecordBatches)))
				if p.HighWatermark != 2 || p.ErrorCode != 0 || (p.AbortedTransactions == nil) != (tt.isolated == 0) {
					t.Errorf("%s: %+v", tt.name, p)
				}
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v batches, want %v", tt.name, got, tt.want)
		}
	}
}

// TestFetchIsFull: behind a batch that has no room no other partition is read.
func TestFetchIsFull(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 3)
	for part, bytes := range []int{1000, 2000, 10} {
		c.produce(produceReq("t", id, int32(part), -1, batch(t, strings.Repeat("x", bytes))), 9)
	}
	for max, want := range map[int32][]int{1 << 20: {1, 1, 1}, 2500: {1, 0, 0}, -1: {1, 0, 0}} {
		req := fetchReq("t", id, 0, 0)
		fetchMore(fetchMore(req, "t", id, 1, 0), "t", id, 2, 0)
		req.MaxBytes = max
		var got []int
		for _, tp := range ask[*kmsg.FetchResponse](c, req, 12).Topics {
			for _, p := range tp.Partitions {
				got = append(got, len(values(t, p.RecordBatches)))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d bytes: %v batches, want %v", max, got, want)
		}
	}
}

// TestIncrementalSession walks a session through its life.
func TestIncrementalSession(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 3)
	req := fetchReq("t", id, 0, 0)
	fetchMore(fetchMore(req, "t", id, 1, 0), "t", id, 2, 5)
	req.SessionEpoch, req.MaxWaitMillis = 0, 0
	step := func(version int16) string {
		t.Helper()
		resp := ask[*kmsg.FetchResponse](c, req, version)
		if resp.SessionID != 0 {
			req.SessionID = resp.SessionID
		}
		req.SessionEpoch++
		req.Topics, req.ForgottenTopics = nil, nil
		return describe(resp)
	}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	check("full", step(13), "session [0:NONE@0+0 1:NONE@0+0 2:OFFSET_OUT_OF_RANGE@-1+0]")
	check("errors again", step(13), "session [2:OFFSET_OUT_OF_RANGE@-1+0]")
	fetchMore(req, "t", id, 2, 0)
	check("error gone", step(13), "session [2:NONE@0+0]")
	check("nothing new", step(13), "session []")
	c.produce(produceReq("t", id, 1, -1, batch(t, "v")), 9)
	check("a record", step(13), "session [1:NONE@1+1]")
	check("still there", step(13), "session [1:NONE@1+1]")
	fetchMore(req, "t", id, 1, 1)
	check("read", step(13), "session []")
	forget := kmsg.NewFetchRequestForgottenTopic()
	forget.TopicID, forget.Partitions = id, []int32{1}
	req.ForgottenTopics = append(req.ForgottenTopics, forget)
	c.produce(produceReq("t", id, 1, -1, batch(t, "v")), 9)
	check("forgotten", step(13), "session []")
	check("by name", step(12), "FETCH_SESSION_TOPIC_ID_ERROR []")
	req.SessionEpoch = 77
	check("wrong epoch", step(13), "INVALID_FETCH_SESSION_EPOCH []")
	known := req.SessionID
	req.SessionID, req.SessionEpoch = known+1, 5
	check("unknown", step(13), "FETCH_SESSION_ID_NOT_FOUND []")
	req.SessionID, req.SessionEpoch = known, -1
	check("close", step(13), "none []")
	if n := r.s.sessions.len(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// describe prints partition, error, high watermark and batches of a response.
func describe(resp *kmsg.FetchResponse) string {
	var rows []string
	for _, tp := range resp.Topics {
		for _, p := range tp.Partitions {
			n := 0
			if len(p.RecordBatches) > 0 {
				n = 1
			}
			rows = append(rows, fmt.Sprintf("%d:%v@%d+%d", p.Partition, kafka.ErrorCode(p.ErrorCode), p.HighWatermark, n))
		}
	}
	slices.Sort(rows)
	head := "none"
	switch {
	case resp.ErrorCode != 0:
		head = kafka.ErrorCode(resp.ErrorCode).Error()
	case resp.SessionID != 0:
		head = "session"
	}
	return fmt.Sprint(head, " ", rows)
}

func sessionReq(id, epoch int32, partitions ...int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.SessionID, req.SessionEpoch = 12, id, epoch
	for _, p := range partitions {
		fetchMore(req, "t", kafka.TopicID{}, p, 0)
	}
	return req
}

// TestSessionCache: a full cache gives no sessions until one is stale.
func TestSessionCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFetchSessions(2)
		create := func() int32 {
			use, parts, code := c.begin(sessionReq(0, 0, 1, 2))
			if code != kafka.None || len(parts) != 2 {
				t.Fatal(code, parts)
			}
			return use.id()
		}
		a, b := create(), create()
		if a == 0 || b == 0 || a == b {
			t.Fatal(a, b)
		}
		if id := create(); id != 0 {
			t.Fatalf("session %d in a full cache", id)
		}
		time.Sleep(evictAfter)
		if _, _, code := c.begin(sessionReq(a, 1)); code != kafka.None {
			t.Fatal(code)
		}
		if id := create(); id == 0 {
			t.Fatal("no session, though one is stale")
		}
		if _, _, code := c.begin(sessionReq(b, 1)); code != kafka.FetchSessionIDNotFound {
			t.Fatalf("the stale one: %v", code)
		}
		if _, _, code := c.begin(sessionReq(a, 2)); code != kafka.None {
			t.Fatalf("the fresh one: %v", code)
		}
		if c.len() != 2 {
			t.Fatal(c.len())
		}
	})
}

// TestSessionGrows: a session that comes to have too many partitions ends, with what it has in memory.
func TestSessionGrows(t *testing.T) {
	c := newFetchSessions(2)
	use, _, code := c.begin(sessionReq(0, 0, 0))
	if code != kafka.None {
		t.Fatal(code)
	}
	var more []int32
	for p := range int32(maxSessionParts) {
		more = append(more, p+1)
	}
	if _, _, code := c.begin(sessionReq(use.id(), 1, more...)); code != kafka.FetchSessionIDNotFound || c.len() != 0 {
		t.Errorf("%v, and %d sessions are left", code, c.len())
	}
}

// TestSessionOvertaken: of two fetches in one session the older one fails.
func TestSessionOvertaken(t *testing.T) {
	c := newFetchSessions(2)
	first, _, _ := c.begin(sessionReq(0, 0, 1))
	second, parts, _ := c.begin(sessionReq(first.id(), 1))
	third, parts3, _ := c.begin(sessionReq(first.id(), 2))
	row := []wire.FetchPartition{{Partition: 1, HighWatermark: 7}}
	if _, code := second.finish(parts, row); code != kafka.InvalidFetchSessionEpoch {
		t.Errorf("overtaken: %v", code)
	}
	tell, code := third.finish(parts3, row)
	if diff := cmp.Diff([]bool{true}, tell); diff != "" || code != kafka.None {
		t.Error(code, diff)
	}
}

// TestSessionRotates: each incremental response begins with another partition.
func TestSessionRotates(t *testing.T) {
	c := newFetchSessions(2)
	use, _, _ := c.begin(sessionReq(0, 0, 0, 1, 2))
	seen := make(map[int32]bool)
	for epoch := int32(1); epoch <= 3; epoch++ {
		_, parts, _ := c.begin(sessionReq(use.id(), epoch))
		seen[parts[0].key.partition] = true
	}
	if len(seen) != 3 {
		t.Error(seen)
	}
}
