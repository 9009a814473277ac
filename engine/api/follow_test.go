package api

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/engine/peer"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta/memmeta"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objcache"
)

// newRacks returns a leader in rack a, a follower in rack b, and a topic of one partition
// with replicas on both.
func newRacks(t *testing.T) (leader, follower *rig, topic kafka.TopicID) {
	t.Helper()
	table := memmeta.New()
	s, store := newServerOn(t, table, nil)
	s.o.Self.Rack, s.o.Follow = "a", &Follow{}
	leader = serve(t, s, store)
	cat := catalog.New(table)
	if _, err := cat.StartSession(t.Context(), 2, "localhost:9093", "b"); err != nil {
		t.Fatal(err)
	}
	if err := s.o.Catalog.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10_000
	row := kmsg.NewCreateTopicsRequestTopic()
	row.Topic, row.NumPartitions, row.ReplicationFactor = "t", 1, 2
	req.Topics = append(req.Topics, row)
	created := ask[*kmsg.CreateTopicsResponse](leader.dial(), req, 7).Topics[0]
	if created.ErrorCode != 0 {
		t.Fatal(kafka.ErrorCode(created.ErrorCode))
	}
	if err := cat.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	cache, err := objcache.New(objcache.Options{Store: store, RAMBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := cold.New(cold.Options{Catalog: cat, Cache: cache, Store: store, RAMBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	peers := peer.NewPool("broker-2", func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", leader.addr)
	})
	t.Cleanup(peers.Close)
	view := &member.View{Catalog: cat, Slots: testSlots}
	cfg := testConfig(t, nil)
	f, err := New(Options{
		Catalog: cat, Logs: partition.NewSet(), Groups: s.o.Groups, Txns: s.o.Txns, Config: func() *config.Broker { return cfg }, Cluster: view.Now,
		Self: Broker{ID: 2, Host: "localhost", Port: 9093, Rack: "b"}, Admit: s.o.Admit, Reconcile: s.o.Reconcile, SetLogStart: s.o.SetLogStart,
		Follow: &Follow{Peers: peers, Cache: cache, Cold: reader}, Logger: s.o.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	return leader, serve(t, f, store), created.TopicID
}

// fetchIn fetches as a consumer in a rack.
func fetchIn(c *client, rack string, version int16, topic kafka.TopicID, from int64, change ...func(*kmsg.FetchRequest)) kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	req := fetchReq("t", topic, 0, from)
	req.Rack, req.MaxWaitMillis = rack, 100
	for _, fn := range change {
		fn(req)
	}
	return ask[*kmsg.FetchResponse](c, req, version).Topics[0].Partitions[0]
}

// TestRedirect: who is sent to a broker in the consumer's rack, and who reads from the leader.
func TestRedirect(t *testing.T) {
	leader, _, topic := newRacks(t)
	leader.dial().produce(produceReq("t", topic, 0, -1, batch(t, "one", "two")), 13)
	for _, c := range []struct {
		name    string
		rack    string
		version int16
		from    int64
		to      int32
		err     kafka.ErrorCode
	}{
		{"a broker is in the rack", "b", 11, 0, 2, kafka.None},
		{"at the end of the log", "b", 17, 2, 2, kafka.None},
		{"the leader is in the rack", "a", 17, 0, -1, kafka.None},
		{"nobody is in the rack", "c", 17, 0, -1, kafka.None},
		{"no rack", "", 17, 0, -1, kafka.None},
		{"too old a client", "b", 10, 0, -1, kafka.None},
		{"behind the end of the log", "b", 17, 3, -1, kafka.OffsetOutOfRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := fetchIn(leader.dial(), c.rack, c.version, topic, c.from)
			records := c.err == kafka.None && c.to < 0
			if c.version >= 11 && p.PreferredReadReplica != c.to || kafka.ErrorCode(p.ErrorCode) != c.err || (len(p.RecordBatches) > 0) != records {
				t.Errorf("replica %d, %v, %d bytes", p.PreferredReadReplica, kafka.ErrorCode(p.ErrorCode), len(p.RecordBatches))
			}
			if c.err == kafka.None && p.HighWatermark != 2 {
				t.Errorf("high watermark %d", p.HighWatermark)
			}
		})
	}
	c := leader.dial()
	if p := fetchIn(c, "b", 17, topic, 0); p.PreferredReadReplica != 2 {
		t.Errorf("the first time: replica %d", p.PreferredReadReplica)
	}
	if p := fetchIn(c, "b", 17, topic, 0); p.PreferredReadReplica != -1 || len(p.RecordBatches) == 0 {
		t.Errorf("who is back at once is sent away again, to %d", p.PreferredReadReplica)
	}
}

// TestAstray: a consumer that was sent to a broker which has changed its rack since is sent back to the
// leader, unless what it knows of that is old.
func TestAstray(t *testing.T) {
	leader, follower, topic := newRacks(t)
	leader.dial().produce(produceReq("t", topic, 0, -1, batch(t, "one")), 13)
	for _, c := range []struct {
		name  string
		rack  string
		epoch int32
		to    int32
	}{
		{"it knows the leader", "a", 0, 1},
		{"it knows no epoch", "a", -1, -1},
		{"no rack", "", 0, -1},
	} {
		p := fetchIn(follower.dial(), c.rack, 17, topic, 0, func(req *kmsg.FetchRequest) { req.Topics[0].Partitions[0].CurrentLeaderEpoch = c.epoch })
		if kafka.ErrorCode(p.ErrorCode) != kafka.NotLeaderOrFollower || p.PreferredReadReplica != c.to {
			t.Errorf("%s: %v, replica %d, want %d", c.name, kafka.ErrorCode(p.ErrorCode), p.PreferredReadReplica, c.to)
		}
	}
}

// TestFollow reads at the follower what the leader has.
func TestFollow(t *testing.T) {
	leader, follower, topic := newRacks(t)
	l, f := leader.dial(), follower.dial()
	for _, v := range []string{"one", "two", "three"} {
		l.produce(produceReq("t", topic, 0, -1, batch(t, v)), 13)
	}
	for from := range int64(4) {
		for _, version := range []int16{11, 12, 13, 17, 18} {
			want, got := fetchIn(l, "a", version, topic, from), fetchIn(f, "b", version, topic, from)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(kmsg.Tags{})); diff != "" {
				t.Errorf("version %d, offset %d: %s", version, from, diff)
			}
		}
	}
	if p := fetchIn(f, "", 17, topic, 0); kafka.ErrorCode(p.ErrorCode) != kafka.NotLeaderOrFollower || p.CurrentLeader.LeaderID != 1 {
		t.Errorf("who is in no rack: %v, leader %d", kafka.ErrorCode(p.ErrorCode), p.CurrentLeader.LeaderID)
	}
	if p := fetchIn(f, "b", 17, topic, 4); kafka.ErrorCode(p.ErrorCode) != kafka.OffsetNotAvailable || p.PreferredReadReplica != 1 {
		t.Errorf("behind the end: %v, replica %d", kafka.ErrorCode(p.ErrorCode), p.PreferredReadReplica)
	}
	newer := func(req *kmsg.FetchRequest) { req.Topics[0].Partitions[0].CurrentLeaderEpoch = 99 }
	if p := fetchIn(f, "b", 17, topic, 0, newer); kafka.ErrorCode(p.ErrorCode) != kafka.UnknownLeaderEpoch {
		t.Errorf("a newer epoch: %v", kafka.ErrorCode(p.ErrorCode))
	}
	log := leader.s.o.Logs.All()[0]
	if err := leader.s.o.SetLogStart(t.Context(), log, 2); err != nil {
		t.Fatal(err)
	}
	if p := fetchIn(f, "b", 17, topic, 1); kafka.ErrorCode(p.ErrorCode) != kafka.OffsetOutOfRange || p.LogStartOffset != 2 || p.PreferredReadReplica != 1 {
		t.Errorf("below the start: %v, start %d, replica %d", kafka.ErrorCode(p.ErrorCode), p.LogStartOffset, p.PreferredReadReplica)
	}
	leader.stop()
	if p := fetchIn(f, "b", 17, topic, 2); kafka.ErrorCode(p.ErrorCode) != kafka.NotLeaderOrFollower || p.PreferredReadReplica != 1 {
		t.Errorf("without the leader: %v, replica %d", kafka.ErrorCode(p.ErrorCode), p.PreferredReadReplica)
	}
}

// TestFollowWaits: a long poll at the follower ends when the leader has something.
func TestFollowWaits(t *testing.T) {
	leader, follower, topic := newRacks(t)
	f := follower.dial()
	for i, v := range []string{"one", "two"} {
		long := fetchReq("t", topic, 0, int64(i))
		long.Rack, long.MaxWaitMillis = "b", 60_000
		corr := f.send(long, 17)
		leader.dial().produce(produceReq("t", topic, 0, -1, batch(t, v)), 13)
		begin := time.Now()
		p := f.receive(long, corr).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if got := values(t, p.RecordBatches); !slices.Equal(got, []string{v}) || time.Since(begin) > 20*time.Second {
			t.Errorf("%q after %v", got, time.Since(begin))
		}
	}
}

// TestSilentLeader: nobody is sent to a broker that is silent, for a partition or as a coordinator (whose slots are all its own here).
func TestSilentLeader(t *testing.T) {
	_, follower, topic := newRacks(t)
	members := follower.s.o.Catalog.Members()
	follower.s.o.Cluster = func() *member.Cluster { return member.NewCluster(members, testSlots, members.Live()[0].ID) }
	c := follower.dial()

	meta := ask[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 12)
	if len(meta.Brokers) != 1 || meta.Brokers[0].NodeID != 2 {
		t.Errorf("brokers: %+v", meta.Brokers)
	}
	i := slices.IndexFunc(meta.Topics, func(m kmsg.MetadataResponseTopic) bool { return m.TopicID == topic })
	if p := meta.Topics[i].Partitions[0]; p.Leader != -1 || kafka.ErrorCode(p.ErrorCode) != kafka.LeaderNotAvailable || !slices.Equal(p.Replicas, []int32{2}) {
		t.Errorf("metadata of its partition: %+v", p)
	}
	cluster := kmsg.NewPtrDescribeClusterRequest()
	for _, fenced := range []bool{false, true} {
		cluster.IncludeFencedBrokers = fenced
		all := map[int32]bool{} // and whether they are fenced
		for _, b := range ask[*kmsg.DescribeClusterResponse](c, cluster, 2).Brokers {
			all[b.NodeID] = b.IsFenced
		}
		want := map[int32]bool{2: false}
		if fenced {
			want[1] = true
		}
		if diff := cmp.Diff(want, all); diff != "" {
			t.Errorf("the cluster's brokers, fenced ones: %v: %s", fenced, diff)
		}
	}
	described := ask[*kmsg.DescribeTopicPartitionsResponse](c, kmsg.NewPtrDescribeTopicPartitionsRequest(), 0)
	if p := described.Topics[0].Partitions[0]; p.LeaderID != -1 || kafka.ErrorCode(p.ErrorCode) != kafka.LeaderNotAvailable {
		t.Errorf("description of its partition: %+v", p)
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKeys = []string{"g"}
	if row := ask[*kmsg.FindCoordinatorResponse](c, find, 4).Coordinators[0]; row.NodeID != -1 || kafka.ErrorCode(row.ErrorCode) != kafka.CoordinatorNotAvailable {
		t.Errorf("coordinator: %+v", row)
	}
}
