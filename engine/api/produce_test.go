package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/internal/meta/memmeta"
)

// rowOf prints what a produce response says of a partition.
func rowOf(p kmsg.ProduceResponseTopicPartition) string {
	message := ""
	if p.ErrorMessage != nil {
		message = " " + *p.ErrorMessage
	}
	appendTime := "none"
	if p.LogAppendTime >= 0 {
		appendTime = "some"
	}
	return fmt.Sprintf("%v base=%d time=%s start=%d records=%d%s", kafka.ErrorCode(p.ErrorCode), p.BaseOffset, appendTime, p.LogStartOffset, len(p.ErrorRecords), message)
}

// TestProduceAnswers compares answers with Apache Kafka's, in the order in
// which they are asked for.
func TestProduceAnswers(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 2)
	c.create("small", 1, "max.message.bytes", "100")
	c.create("compacted", 1, "cleanup.policy", "compact")
	c.create("stamped", 1, "message.timestamp.type", "LogAppendTime")
	good := func() []byte { return batch(t, "v") }
	badCRC, old, transactional := good(), good(), build(t, func(b *record.Builder) { b.Transactional = true })
	badCRC[len(badCRC)-1]++
	old[16] = 1
	control, err := record.Marker(7, 0, true, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	txn := "txn"
	const plain = "base=-1 time=none start=-1 records=0"
	tests := []struct {
		name    string
		topic   string
		version int16
		change  func(*kmsg.ProduceRequest)
		records []byte
		want    string
	}{
		{"acks=all", "t", 9, nil, good(), "NONE base=0 time=none start=0 records=0"},
		{"acks=1", "t", 9, func(r *kmsg.ProduceRequest) { r.Acks = 1 }, good(), "NONE base=1 time=none start=0 records=0"},
		{"by id", "t", 13, nil, good(), "NONE base=2 time=none start=0 records=0"},
		{"no timeout", "t", 9, func(r *kmsg.ProduceRequest) { r.TimeoutMillis = 0 }, good(), "NONE base=3 time=none start=0 records=0"},
		{"acks=2", "t", 9, func(r *kmsg.ProduceRequest) { r.Acks = 2 }, good(), "INVALID_REQUIRED_ACKS " + plain},
		{"unknown topic", "nope", 9, nil, good(), "UNKNOWN_TOPIC_OR_PARTITION " + plain},
		{"unknown id", "t", 13, func(r *kmsg.ProduceRequest) { r.Topics[0].TopicID[0]++ }, good(), "UNKNOWN_TOPIC_ID " + plain},
		{"unknown partition", "t", 9, func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Partition = 2 }, good(), "UNKNOWN_TOPIC_OR_PARTITION " + plain},
		{"negative partition", "t", 9, func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Partition = -1 }, good(), "UNKNOWN_TOPIC_OR_PARTITION " + plain},
		{"null", "t", 9, nil, nil, "INVALID_RECORD " + plain},
		{"empty", "t", 9, nil, []byte{}, "INVALID_RECORD " + plain},
		{"truncated", "t", 9, nil, good()[:50], "INVALID_RECORD " + plain},
		{"two batches", "t", 9, nil, append(good(), good()...), "INVALID_RECORD " + plain},
		{"checksum", "t", 9, nil, badCRC, "CORRUPT_MESSAGE " + plain},
		{"format v1", "t", 9, nil, old, "INVALID_RECORD " + plain},
		{"control", "t", 9, nil, control, "INVALID_RECORD base=-1 time=none start=0 records=0"},
		{"too large", "small", 9, nil, batch(t, strings.Repeat("x", 200)), "MESSAGE_TOO_LARGE " + plain},
		{"log append time", "stamped", 9, nil, good(), "NONE base=0 time=some start=0 records=0"},
		{"transactional id", "t", 9, func(r *kmsg.ProduceRequest) { r.TransactionID = &txn }, good(), "NONE base=4 time=none start=0 records=0"},
		{"transactional batch", "t", 9, nil, transactional, "INVALID_TXN_STATE " + plain},
		{"unknown transaction", "t", 9, func(r *kmsg.ProduceRequest) { r.TransactionID = &txn }, transactional, "INVALID_PRODUCER_ID_MAPPING " + plain},
		{"no key", "compacted", 9, nil, good(), "INVALID_RECORD base=-1 time=none start=0 records=1 One or more records have been rejected due to 1 record errors in total, and only showing the first three errors at most: " +
			"[RecordError(batchIndex=0, message='Compacted topic cannot accept message without key in topic partition compacted-0')]"},
	}
	for _, tt := range tests {
		req := produceReq(tt.topic, id, 0, -1, tt.records)
		if tt.change != nil {
			tt.change(req)
		}
		if got := rowOf(c.produce(req, tt.version)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func build(t testing.TB, change func(*record.Builder)) []byte {
	t.Helper()
	b := record.NewBuilder(record.None)
	b.ProducerID, b.ProducerEpoch, b.BaseSequence = 7, 0, 0
	change(b)
	b.Append(time.Now().UnixMilli(), nil, []byte("v"))
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestIdempotence: a duplicate that comes before its original is durable
// waits with it, and both are answered alike.
func TestIdempotence(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 1)
	init := ask[*kmsg.InitProducerIDResponse](c, kmsg.NewPtrInitProducerIDRequest(), 4)
	if init.ErrorCode != 0 || init.ProducerID < 0 || init.ProducerEpoch != 0 {
		t.Fatalf("%+v", init)
	}
	numbered := func(seq int32) []byte {
		return build(t, func(b *record.Builder) { b.ProducerID, b.BaseSequence = init.ProducerID, seq })
	}
	release := hold(r.store)
	defer release()
	req := produceReq("t", id, 0, -1, numbered(0))
	a := c.send(req, 9)
	req = produceReq("t", id, 0, -1, numbered(0))
	b := c.send(req, 9)
	gap := c.send(produceReq("t", id, 0, -1, numbered(2)), 9)
	release()
	for _, corr := range []int32{a, b} {
		if p := c.receive(req, corr).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != 0 {
			t.Errorf("%+v", p)
		}
	}
	if p := c.receive(req, gap).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; kafka.ErrorCode(p.ErrorCode) != kafka.OutOfOrderSequenceNumber {
		t.Errorf("gap: %v", kafka.ErrorCode(p.ErrorCode))
	}
}

// TestEndedSessionDoesNotJudge: a session that somebody has ended, and that
// does not know it yet, tells no client that its sequence or its offset is wrong: its own
// log may end too early.
func TestEndedSessionDoesNotJudge(t *testing.T) {
	table := memmeta.New()
	s, store := newServerOn(t, table, nil)
	r := serve(t, s, store)
	c := r.dial()
	id := c.create("t", 1)
	numbered := func(seq int32) []byte {
		return build(t, func(b *record.Builder) { b.ProducerID, b.BaseSequence = 7, seq })
	}
	if p := c.produce(produceReq("t", id, 0, -1, numbered(0)), 9); p.ErrorCode != 0 {
		t.Fatalf("%+v", p)
	}
	other := catalog.New(table) // the server does not hear of it
	sessions, err := other.AllSessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.FenceSession(t.Context(), sessions[0]); err != nil {
		t.Fatal(err)
	}
	if p := c.produce(produceReq("t", id, 0, -1, numbered(2)), 9); kafka.ErrorCode(p.ErrorCode) != kafka.NotLeaderOrFollower {
		t.Errorf("produce: %v", kafka.ErrorCode(p.ErrorCode))
	}
	if p := ask[*kmsg.FetchResponse](c, fetchReq("t", id, 0, 5), 12).Topics[0].Partitions[0]; kafka.ErrorCode(p.ErrorCode) != kafka.NotLeaderOrFollower {
		t.Errorf("fetch: %v", kafka.ErrorCode(p.ErrorCode))
	}
}

// TestProduceTimesOut: without a store acks=all is answered, retriably, when
// the request's time is over.
func TestProduceTimesOut(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial()
	id := c.create("t", 1)
	defer hold(r.store)()
	req := produceReq("t", id, 0, -1, batch(t, "v"))
	req.TimeoutMillis = 1
	if got := rowOf(c.produce(req, 9)); got != "REQUEST_TIMED_OUT base=-1 time=none start=-1 records=0" {
		t.Error(got)
	}
}

// FuzzDecodeProduce compares the decoder with kmsg's, over all versions.
func FuzzDecodeProduce(f *testing.F) {
	for v := int16(3); v <= 13; v++ {
		req := produceReq("topic", kafka.TopicID{1}, 3, -1, []byte("records"))
		req.Topics = append(req.Topics, req.Topics[0])
		req.Topics[1].Partitions = nil
		req.SetVersion(v)
		f.Add(v, req.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		if version < 3 || version > 13 {
			t.Skip()
		}
		want := kmsg.NewPtrProduceRequest()
		want.Version = version
		wantErr := want.ReadFrom(body)
		got, err := decodeProduce(version, body)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("error %v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if got.acks != want.Acks || got.timeoutMs != want.TimeoutMillis || got.transactional != (want.TransactionID != nil) || len(got.topics) != len(want.Topics) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		for i, wt := range want.Topics {
			gt := got.topics[i]
			if gt.name != wt.Topic || gt.id != wt.TopicID || len(gt.parts) != len(wt.Partitions) {
				t.Fatalf("topic %+v, want %+v", gt, wt)
			}
			for j, wp := range wt.Partitions {
				gp := gt.parts[j]
				if gp.index != wp.Partition || string(gp.records) != string(wp.Records) || (gp.records == nil) != (wp.Records == nil) {
					t.Fatalf("partition %+v, want %+v", gp, wp)
				}
			}
		}
	})
}
