package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
	"github.com/varvelog/varve/tiering/cold"
)

// Movers copy each partition of keptTopic to that of movedTopic, in
// transactions that also commit how far they are (KIP-98): what a reader of what is committed
// finds there in the end is the same records, each once, in their order, whatever became of
// movers and brokers. Some transactions are aborted, some movers vanish within one, and some go on
// though another has taken their transactional id.
const (
	movedTopic  = "moved"
	moversGroup = "movers"
	moveTimeout = 8 * time.Second // transaction.timeout.ms
	moveAtOnce  = 7               // records in a transaction, at most
)

// errLeft ends a mover's session on purpose.
var errLeft = errors.New("the mover goes")

// mover is one session of a partition's mover.
type mover struct {
	w         *world
	cl        *client
	stream    string
	partition int32
	raises    bool // speaks the versions with which each end raises the epoch (KIP-890)
	pid       int64
	epoch     int16
	seq       int32
	next      int64 // of keptTopic
}

// did notes what a session did, to be printed where the outcome is wrong.
func (m *mover) did(format string, args ...any) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	line := fmt.Sprintf("%s producer %d/%d at sequence %d, from %d: ", time.Now().Format("15:04:05.000"), m.pid, m.epoch, m.seq, m.next)
	m.w.moves[m.partition] = append(m.w.moves[m.partition], line+fmt.Sprintf(format, args...))
}

func (m *mover) id() string { return fmt.Sprintf("mover %d", m.partition) }

// move copies a partition until ctx ends, one session after the other.
func (w *world) move(ctx context.Context, partition int32) {
	stream := fmt.Sprintf("mover %d", partition)
	var zombies sync.WaitGroup
	defer zombies.Wait()
	for ctx.Err() == nil {
		m := &mover{w: w, stream: stream, partition: partition, raises: !w.dice.oneIn(stream, 2)}
		speaks := kversion.V3_8_0()
		if m.raises {
			speaks = kversion.V4_0_0()
		}
		m.cl = w.client(kgo.MaxVersions(speaks))
		life, cancel := context.WithTimeout(ctx, 2*time.Second+w.dice.upTo(stream, 30*time.Second))
		if w.cluster.faults.isCalm() {
			cancel()
			life, cancel = context.WithCancel(ctx)
		}
		if w.dice.oneIn(stream, 3) { // it goes on, and does not know that another begins
			zombies.Go(func() {
				defer cancel()
				m.run(life)
			})
			wait(ctx, w.dice.upTo(stream, 5*time.Second))
			continue
		}
		m.run(life)
		cancel()
		wait(ctx, w.dice.upTo(stream, 300*time.Millisecond))
	}
}

// run is one session.
func (m *mover) run(ctx context.Context) {
	defer m.cl.Close()
	defer context.AfterFunc(ctx, m.cl.line.cut)()
	if !insist(ctx, func() error { return m.begin(ctx) }) {
		return
	}
	reader := m.w.client(kgo.FetchMaxWait(100*time.Millisecond), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		keptTopic: {m.partition: kgo.NewOffset().At(m.next)},
	}))
	defer reader.Close()
	for ctx.Err() == nil {
		poll, cancel := context.WithTimeout(ctx, 5*time.Second)
		records := reader.PollRecords(poll, 1+m.w.dice.below(m.stream, moveAtOnce)).Records()
		cancel()
		if len(records) == 0 {
			continue
		}
		if records[0].Offset != m.next {
			m.w.report("mover %d: reads offset %d of %s, wanted %d", m.partition, records[0].Offset, keptTopic, m.next)
			return
		}
		if m.transact(ctx, records) != nil {
			return
		}
	}
}

// begin gets the producer its id and epoch, and reads where to go on.
func (m *mover) begin(ctx context.Context) error {
	req := kmsg.NewPtrInitProducerIDRequest()
	id := m.id()
	req.TransactionalID, req.TransactionTimeoutMillis = &id, int32(moveTimeout.Milliseconds())
	resp, err := req.RequestWith(ctx, m.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return err
	}
	m.pid, m.epoch, m.seq = resp.ProducerID, resp.ProducerEpoch, 0
	if m.next, err = m.w.movedUpTo(ctx, m.cl, m.partition); err == nil {
		m.did("begins, raises epochs: %t", m.raises)
	}
	return err
}

// movedUpTo returns the stable offset that movers have committed.
func (w *world) movedUpTo(ctx context.Context, cl *client, partition int32) (int64, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable = true
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = moversGroup
	t := kmsg.NewOffsetFetchRequestGroupTopic()
	t.Topic, t.TopicID, t.Partitions = keptTopic, w.kept, []int32{partition}
	g.Topics = append(g.Topics, t)
	req.Groups = append(req.Groups, g)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, err
	}
	if len(resp.Groups) != 1 || resp.Groups[0].ErrorCode != 0 || len(resp.Groups[0].Topics) != 1 || len(resp.Groups[0].Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("fetch offsets: %+v", resp.Groups)
	}
	p := resp.Groups[0].Topics[0].Partitions[0]
	return max(p.Offset, 0), kerr.ErrorForCode(p.ErrorCode)
}

// transact copies records in a transaction. An error ends the session, whose
// transaction the next one aborts if this one has not.
func (m *mover) transact(ctx context.Context, records []*kgo.Record) error {
	err := m.copy(ctx, records)
	taken := m.w.event()
	d := m.w.dice
	switch {
	case err != nil:
		if !d.oneIn(m.stream, 2) { // else it vanishes
			_ = m.end(ctx, false) // at best
		}
		return err
	case d.oneIn(m.stream, 12):
		return errLeft // within the transaction
	case d.oneIn(m.stream, 6):
		if err := m.end(ctx, false); err != nil {
			return err
		}
		return errLeft // where it is now, the next one finds
	}
	if err := m.end(ctx, true); err != nil {
		return err
	}
	m.next = records[len(records)-1].Offset + 1
	m.w.pledged(m.partition, taken, m.next)
	return nil
}

// copy writes the records and the offset behind them.
func (m *mover) copy(ctx context.Context, records []*kgo.Record) error {
	if !m.raises {
		if err := m.again(ctx, func() error { return m.addPartition(ctx) }); err != nil {
			return err
		}
	}
	batch, err := m.batch(records)
	if err != nil {
		return err
	}
	if err := m.again(ctx, func() error { return m.produce(ctx, batch) }); err != nil {
		return err
	}
	m.seq += int32(len(records))
	wait(ctx, m.w.dice.upTo(m.stream, 200*time.Millisecond))
	if !m.raises {
		if err := m.again(ctx, func() error { return m.addOffsets(ctx) }); err != nil {
			return err
		}
	}
	return m.again(ctx, func() error { return m.commitOffset(ctx, records[len(records)-1].Offset+1) })
}

// again repeats a request while its error is one that clients repeat, for a while.
func (m *mover) again(ctx context.Context, fn func() error) error {
	for limit := time.Now().Add(6 * time.Second); ; wait(ctx, 50*time.Millisecond) {
		err := fn()
		var ke *kerr.Error
		if err == nil || ctx.Err() != nil || time.Now().After(limit) {
			return err
		}
		if errors.As(err, &ke) && !ke.Retriable && !errors.Is(err, kerr.ConcurrentTransactions) {
			return err
		}
	}
}

func (m *mover) addPartition(ctx context.Context) error {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = m.id(), m.pid, m.epoch
	t := kmsg.NewAddPartitionsToTxnRequestTopic()
	t.Topic, t.Partitions = movedTopic, []int32{m.partition}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, m.cl)
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return fmt.Errorf("add partition: %+v", resp)
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

func (m *mover) batch(records []*kgo.Record) ([]byte, error) {
	b := record.NewBuilder(record.None)
	b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.Transactional = m.pid, m.epoch, m.seq, true
	for _, r := range records {
		b.Append(r.Timestamp.UnixMilli(), nil, r.Value)
	}
	return b.Bytes()
}

// produce sends a batch to the partition's leader.
func (m *mover) produce(ctx context.Context, batch []byte) error {
	req := kmsg.NewPtrProduceRequest()
	id := m.id()
	req.TransactionID, req.Acks, req.TimeoutMillis = &id, -1, 3000
	t := kmsg.NewProduceRequestTopic()
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = m.partition, batch
	t.Topic, t.Partitions = movedTopic, append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	leader, err := m.w.leaderOf(ctx, m.cl, movedTopic, m.partition)
	if err != nil {
		return err
	}
	kresp, err := m.cl.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return err
	}
	resp := kresp.(*kmsg.ProduceResponse)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return fmt.Errorf("produce: %+v", resp)
	}
	err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	m.did("produces at %d: %v", resp.Topics[0].Partitions[0].BaseOffset, err)
	return err
}

// leaderOf asks who leads a partition.
func (w *world) leaderOf(ctx context.Context, cl *client, topic string, partition int32) (int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.Partition == partition {
				return p.Leader, kerr.ErrorForCode(p.ErrorCode)
			}
		}
	}
	return 0, kerr.UnknownTopicOrPartition
}

func (m *mover) addOffsets(ctx context.Context) error {
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = m.id(), m.pid, m.epoch, moversGroup
	resp, err := req.RequestWith(ctx, m.cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

func (m *mover) commitOffset(ctx context.Context, next int64) error {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = m.id(), moversGroup, m.pid, m.epoch, -1
	t := kmsg.NewTxnOffsetCommitRequestTopic()
	t.Topic = keptTopic
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch = m.partition, next, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, m.cl)
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return fmt.Errorf("commit offset: %+v", resp)
	}
	err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	m.did("commits offset %d: %v", next, err)
	return err
}

// end decides the transaction, again while that may help.
func (m *mover) end(ctx context.Context, commit bool) error {
	return m.again(ctx, func() error {
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = m.id(), m.pid, m.epoch, commit
		resp, err := req.RequestWith(ctx, m.cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		m.did("ends, commit %t: %v", commit, err)
		if err == nil && m.raises {
			m.pid, m.epoch, m.seq = resp.ProducerID, resp.ProducerEpoch, 0
		}
		return err
	})
}

// awaitMovers waits until all is moved.
func (w *world) awaitMovers(ctx context.Context) {
	cl := w.client()
	defer cl.Close()
	ends := w.ends(ctx, cl, keptTopic)
	moved := make(map[int32]int64)
	if overdue(ctx, 5*time.Minute, time.Second, func() bool {
		for p := range int32(partitions) {
			if at, err := w.movedUpTo(ctx, cl, p); err == nil {
				moved[p] = at
			}
		}
		return equal(moved, ends)
	}) {
		w.report("movers: are at %v, the log ends at %v", moved, ends)
	}
}

// checkMoved reads what is committed of movedTopic and compares it with what was moved.
func (w *world) checkMoved(ctx context.Context) {
	cl := w.client(kgo.ConsumeTopics(movedTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer cl.Close()
	want, got, from := make(map[int32][]string), make(map[int32][]string), make(map[int32][]string)
	take := func(r *kgo.Record) {
		got[r.Partition] = append(got[r.Partition], string(r.Value))
		from[r.Partition] = append(from[r.Partition], fmt.Sprintf("%d: %s of producer %d/%d", r.Offset, r.Value, r.ProducerID, r.ProducerEpoch))
	}
	left := 0
	for _, s := range w.read {
		want[s.partition] = append(want[s.partition], s.value)
		left++
	}
	limit, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for left > 0 && limit.Err() == nil {
		cl.PollFetches(limit).EachRecord(func(r *kgo.Record) {
			take(r)
			left--
		})
	}
	for quiet, end := context.WithTimeout(ctx, 5*time.Second); ; { // nothing may follow
		fetches := cl.PollFetches(quiet)
		if quiet.Err() != nil {
			end()
			break
		}
		fetches.EachRecord(take)
	}
	for p := range int32(partitions) {
		for i := range max(len(want[p]), len(got[p])) {
			if i >= len(want[p]) || i >= len(got[p]) || want[p][i] != got[p][i] {
				w.report("moved: partition %d has %d records, wanted %d; record %d differs", p, len(got[p]), len(want[p]), i)
				w.tellSegments(ctx, movedTopic, p)
				w.t.Logf("moved, partition %d:\n%s\n%s", p, strings.Join(from[p][max(0, i-8):min(len(from[p]), i+20)], "\n"), strings.Join(w.moves[p], "\n"))
				break
			}
		}
	}
	w.checkStable(ctx, cl)
}

// checkStable sees to it that no transaction stays open.
func (w *world) checkStable(ctx context.Context, cl *client) {
	var stable, ends map[int32]int64
	if overdue(ctx, time.Minute, time.Second, func() bool {
		stable = w.list(ctx, func() (kadm.ListedOffsets, error) {
			return kadm.NewClient(cl.Client).ListCommittedOffsets(ctx, movedTopic)
		})
		ends = w.ends(ctx, cl, movedTopic)
		return equal(stable, ends)
	}) {
		w.report("moved: a transaction is open still: stable %v, end %v", stable, ends)
	}
}

// tellSegments logs what the segments of a partition say of aborted transactions.
func (w *world) tellSegments(ctx context.Context, topic string, p int32) {
	cat := catalog.New(w.cluster.ledger.items)
	if err := cat.Refresh(ctx); err != nil {
		w.t.Logf("segments of %s: %v", topic, err)
		return
	}
	t, _ := cat.Topics().ByName(topic)
	segs, err := cat.Segments(ctx, kafka.TopicPartition{Topic: t.ID, Partition: p}, 0, 0)
	if err != nil {
		w.t.Logf("segments of %s: %v", topic, err)
	}
	for _, seg := range segs {
		footer, err := cold.ReadFooter(ctx, w.cluster.ledger.objects, seg)
		if err != nil {
			w.t.Log(err)
			continue
		}
		w.t.Logf("segment %d–%d: last stable %d, aborted %+v", seg.Base, seg.End, footer.State.LastStable, footer.Aborted)
	}
}
