package cluster

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const members = 2

// place is where a record lies.
type place struct {
	partition int32
	offset    int64
}

// group is a group that reads the topic and commits what it has read.
type group struct {
	t       testing.TB
	clients []*kgo.Client
	topic   string
	name    string
	wg      sync.WaitGroup

	mu   sync.Mutex
	seen map[place]string
	next map[*kgo.Client]map[int32]int64 // of each member's partitions
}

// join starts the members of a new group. They end with the test.
func join(t testing.TB, addrs, topic string) *group {
	t.Helper()
	g := &group{t: t, topic: topic, name: "group-" + topic, seen: make(map[place]string), next: make(map[*kgo.Client]map[int32]int64)}
	ctx, cancel := context.WithCancel(context.Background())
	for range members {
		cl, err := kgo.NewClient(
			kgo.SeedBrokers(strings.Split(addrs, ",")...), kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(topic), kgo.MetadataMinAge(250*time.Millisecond),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(200*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond), kgo.SessionTimeout(10*time.Second),
			kgo.OnPartitionsAssigned(g.assigned), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.AlwaysRetryEOF(),
		)
		if err != nil {
			t.Fatal(err)
		}
		g.clients = append(g.clients, cl)
		g.wg.Go(func() { g.consume(ctx, cl) })
	}
	t.Cleanup(func() {
		cancel()
		for _, cl := range g.clients {
			cl.Close()
		}
		g.wg.Wait()
	})
	return g
}

// assigned forgets where a member was: it begins where the group has committed.
func (g *group) assigned(_ context.Context, cl *kgo.Client, got map[string][]int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range got[g.topic] {
		delete(g.next[cl], p)
	}
}

func (g *group) consume(ctx context.Context, cl *kgo.Client) {
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		g.mu.Lock()
		if g.next[cl] == nil {
			g.next[cl] = make(map[int32]int64)
		}
		fetches.EachRecord(func(r *kgo.Record) { g.record(g.next[cl], r) })
		g.mu.Unlock()
	}
}

// record takes in what a member has read.
func (g *group) record(next map[int32]int64, r *kgo.Record) {
	if want, ok := next[r.Partition]; ok && r.Offset != want {
		g.t.Errorf("group: partition %d: offset %d where %d should be", r.Partition, r.Offset, want)
	}
	next[r.Partition] = r.Offset + 1
	at := place{r.Partition, r.Offset}
	if before, ok := g.seen[at]; ok && before != string(r.Value) {
		g.t.Errorf("group: %v has changed", at)
	}
	g.seen[at] = string(r.Value)
}

// check waits until the group has read so many records, which are all, and committed them: for 30 s, or
// as long as a partition may wait for its new owner.
func (g *group) check(records int, slow time.Duration) {
	g.t.Helper()
	admin := kadm.NewClient(g.clients[0])
	limit := time.Now().Add(max(30*time.Second, slow))
	for {
		g.mu.Lock()
		seen := len(g.seen)
		g.mu.Unlock()
		lag := g.lag(admin)
		if seen == records && lag == 0 {
			return
		}
		if time.Now().After(limit) {
			g.t.Errorf("group: %d of %d records read, %d not committed", seen, records, lag)
			return
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
}

// lag returns how many records the group has not committed; -1: not known now.
func (g *group) lag(admin *kadm.Client) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	lags, err := admin.Lag(ctx, g.name)
	if err != nil || lags.Error() != nil {
		return -1
	}
	return lags[g.name].Lag.Total()
}

// leads returns the partitions that a broker leads, as the brokers tell clients.
func (g *group) leads(id int) []int32 {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	topics, err := kadm.NewClient(g.clients[0]).ListTopics(ctx, g.topic)
	if err != nil {
		g.t.Fatal(err)
	}
	var all []int32
	for _, p := range topics[g.topic].Partitions {
		if p.Leader == int32(id) {
			all = append(all, p.Partition)
		}
	}
	return all
}
