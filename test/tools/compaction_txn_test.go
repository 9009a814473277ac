package tools

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestCompactedTransactions compacts what two transactional producers have written in turns: the last
// committed record of each key stays, what was aborted goes, for read_uncommitted too, and so do
// markers that nothing needs; the producers go on, over a kill as well.
func TestCompactedTransactions(t *testing.T) {
	b := brokertest.Start(t, "log.cleaner.backoff.ms=100", "log.retention.check.interval.ms=500")
	settings := maps.Clone(compactable)
	settings["delete.retention.ms"] = "0"
	h := &committed{addr: b.Addr, plain: compactedTopic(t, b.Addr, settings), left: make(map[string]string)}
	for _, id := range []string{"even", "odd"} {
		h.begin(t, id)
	}
	for n := range 30 {
		h.turn(t, n)
	}
	defer func() {
		if t.Failed() {
			t.Logf("wanted are %d records, %d markers, and the last record, of:\n%s", len(h.left), h.needed(), varve(t, "segment", "list", "c", "--data", b.Data))
		}
	}()
	h.await(t, "only what was committed last is left")
	var last time.Time
	until(t, "markers are left only of transactions that have a record left", func() bool { // by the pass behind the one that has made them superfluous, once there is something new to compact
		if time.Since(last) > 3*time.Second {
			h.end(t)
			last = time.Now()
		}
		return sealed(t, b) == len(h.left)+1+h.needed()
	})
	for _, flag := range []string{"--read-committed", "--read-committed=false"} {
		if got := varve(t, "replay", "--topic", "c", "--json", flag, "--data", b.Data); strings.Count(got, `"key":"key-`) != len(h.left) {
			t.Errorf("replay %s reads other than %d records:\n%s", flag, len(h.left), got)
		}
	}
	b.Kill()
	b.Restart(t)
	for n := range 6 {
		h.turn(t, 30+n)
	}
	h.await(t, "what was committed last is left, behind a kill")
}

// needed returns how many transactions have records that are left.
func (h *committed) needed() int {
	txns := make(map[string]bool)
	for _, v := range h.left {
		txns[v[:strings.LastIndexByte(v, '/')]] = true
	}
	return len(txns)
}

// sealed returns how many records and markers the topic's segments have.
func sealed(t *testing.T, b *brokertest.Broker) (n int) {
	t.Helper()
	var rows []struct{ Records int }
	if err := json.Unmarshal([]byte(varve(t, "segment", "list", "c", "--json", "--data", b.Data)), &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		n += r.Records
	}
	return n
}

const endKey = "end" // of the last record

// committed is a topic that transactions write to, and what should be left of it, by key.
type committed struct {
	addr      string
	plain     *kgo.Client // of no transaction
	producers []*kgo.Client
	left      map[string]string
}

func (h *committed) begin(t *testing.T, id string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(h.addr), kgo.TransactionalID(id), kgo.DefaultProduceTopic("c"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	h.producers = append(h.producers, cl)
}

// turn has a transaction of each producer, begun before the other's ends; some are aborted. Both write the same keys.
func (h *committed) turn(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, cl := range h.producers {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
	}
	wrote := make([]map[string]string, len(h.producers))
	for i, cl := range h.producers {
		wrote[i] = make(map[string]string)
		for k := range 5 {
			r := kgo.KeyStringRecord(fmt.Sprint("key-", (2*n+i+3*k)%20), fmt.Sprintf("%d/%d/%d", n, i, k))
			wrote[i][string(r.Key)] = string(r.Value)
			if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, cl := range h.producers {
		end := kgo.TryCommit
		if (n+i)%3 == 0 {
			end = kgo.TryAbort
		}
		if err := cl.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
		if end == kgo.TryCommit {
			maps.Copy(h.left, wrote[i]) // the second producer's records lie behind the first's
		}
	}
}

// await waits until both kinds of consumers read the last committed record of each key, and nothing else.
func (h *committed) await(t *testing.T, what string) {
	t.Helper()
	end := h.end(t)
	for _, level := range []kgo.IsolationLevel{kgo.ReadUncommitted(), kgo.ReadCommitted()} {
		var got map[string]string
		until(t, what, func() bool {
			var records int
			got, records = h.read(t, end, level)
			return records == len(got) && cmp.Equal(h.left, got)
		})
	}
}

// end appends the last record, and returns its value.
func (h *committed) end(t *testing.T) string {
	t.Helper()
	value := time.Now().String()
	if err := h.plain.ProduceSync(t.Context(), kgo.KeyStringRecord(endKey, value)).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return value
}

// read reads all records up to the end; of those of a key the last one.
func (h *committed) read(t *testing.T, end string, level kgo.IsolationLevel) (byKey map[string]string, records int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(h.addr), kgo.ConsumeTopics("c"), kgo.FetchIsolationLevel(level))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	byKey = make(map[string]string)
	for {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for r := range fetches.RecordsAll() {
			switch {
			case string(r.Key) != endKey:
				byKey[string(r.Key)] = string(r.Value)
				records++
			case string(r.Value) == end:
				return byKey, records
			}
		}
	}
}
