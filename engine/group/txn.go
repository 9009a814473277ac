package group

import (
	"context"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// Offsets that are committed in a transaction wait for its end (KIP-98, KIP-447):
//
//	TxnBegin ─▶ the transaction is looked at ─▶ TxnCommit ─▶ TxnEnd
//	              an end that comes meanwhile makes what was asked void
//
// so that a commit that arrives behind its transaction's end leaves nothing that
// would wait for ever.

// txnPatience is how long a commit waits for the transaction before its own to
// be ended; clients ask again when that was not enough.
const txnPatience = time.Second

// txnCommitJoins is the version of TxnOffsetCommit from which on it enters its group into the transaction,
// each of which has an epoch of its own (KIP-890).
const txnCommitJoins = 5

// Transaction names a producer's transaction.
type Transaction struct {
	ID         string // transactional id
	ProducerID int64
	Epoch      int16
}

// asked stands for looks at a producer's transaction that are under way. It is
// void when a TxnEnd of the producer has come, and when the group was read anew, which does not know of it.
type asked struct {
	looks int
	over  bool // an end has come, or no look is left
}

// TxnBegin says that a producer's transaction is about to be looked at. The
// answer's body is what the TxnCommit that follows, whatever the look has shown, comes with.
type TxnBegin struct {
	Token      Token
	ProducerID int64
}

// TxnCommit is a TxnOffsetCommit request of offsets that have passed the checks
// that need no group.
type TxnCommit struct {
	Token      Token
	Asked      *asked          // TxnBegin's
	Seen       kafka.ErrorCode // what the look at the transaction has shown
	ProducerID int64
	Number     int32 // of the transaction
	MemberID   string
	InstanceID *string
	Generation int32
	Offsets    map[kafka.TopicPartition]catalog.GroupOffset
}

// TxnEnd makes what a producer's transaction has for the group the group's, or
// forgets it.
type TxnEnd struct {
	Token      Token
	ProducerID int64
	Number     int32
	Commit     bool
}

func (TxnBegin) event()  {}
func (TxnCommit) event() {}
func (TxnEnd) event()    {}

func (g *Group) onTxnBegin(r TxnBegin) {
	a := g.asked[r.ProducerID]
	if a == nil {
		a = &asked{}
		g.asked[r.ProducerID] = a
	}
	a.looks++
	g.reply(r.Token, Now, kafka.None, a)
}

func (g *Group) onTxnCommit(now time.Time, r TxnCommit) {
	known := r.Asked != nil && g.asked[r.ProducerID] == r.Asked
	if known {
		if r.Asked.looks--; r.Asked.looks == 0 {
			r.Asked.over = true
			delete(g.asked, r.ProducerID)
		}
	}
	code := r.Seen
	if code == kafka.None {
		code = g.checkTxnCommit(r, known)
	}
	if code != kafka.None {
		g.reply(r.Token, Now, code, nil)
		return
	}
	if !g.created {
		g.created, g.emptySince = true, now
		g.out.Save = true
	}
	p := catalog.PendingOffsets{Number: r.Number, Offsets: maps.Clone(g.txns[r.ProducerID].Offsets)}
	if p.Offsets == nil {
		p.Offsets = make(map[kafka.TopicPartition]catalog.GroupOffset)
	}
	maps.Copy(p.Offsets, g.committed(r.Offsets))
	if len(p.Offsets) > 0 {
		g.txns[r.ProducerID] = p
		g.out.Pending = map[int64]catalog.PendingOffsets{r.ProducerID: p}
	}
	g.reply(r.Token, Written, kafka.None, nil)
}

// checkTxnCommit refuses commits of those who were members, and, unlike
// checkCommit, none of a producer that tells no member.
func (g *Group) checkTxnCommit(r TxnCommit, known bool) kafka.ErrorCode {
	pending, open := g.txns[r.ProducerID]
	switch {
	case g.state == Dead:
		return kafka.CoordinatorNotAvailable
	case r.Asked == nil || r.Asked.over && !known || g.ending[r.ProducerID] && pending.Number == r.Number:
		return kafka.TransactionAbortable // it has ended meanwhile
	case !known:
		return kafka.CoordinatorLoadInProgress // nobody knows whether it has: the client asks again
	case open && pending.Number != r.Number:
		return kafka.ConcurrentTransactions // the one before has not ended here
	case !g.created && r.Generation >= 0:
		return kafka.IllegalGeneration
	case r.Generation < 0 && r.MemberID == "" && r.InstanceID == nil, r.Generation < 0 && g.state == Empty:
		return kafka.None
	}
	if _, code := g.check(r.MemberID, r.InstanceID); code != kafka.None {
		return code
	}
	if r.Generation != g.generation {
		return kafka.IllegalGeneration
	}
	return kafka.None
}

// onTxnEnd answers when the end is durable: until then what it is about stays pending. Where nothing
// is there to end, it answers when a read has shown that it is not with another coordinator.
func (g *Group) onTxnEnd(r TxnEnd) {
	if a := g.asked[r.ProducerID]; a != nil {
		a.over = true
		delete(g.asked, r.ProducerID)
	}
	p, ok := g.txns[r.ProducerID]
	switch {
	case !ok || p.Number != r.Number:
		g.reply(r.Token, Confirmed, kafka.None, nil)
		return
	case g.ending[r.ProducerID]: // somebody else has told it, and it is being written
		g.reply(r.Token, Written, kafka.None, nil)
		return
	}
	g.ending[r.ProducerID] = true
	g.out.Pending = map[int64]catalog.PendingOffsets{r.ProducerID: {Number: p.Number}}
	if r.Commit {
		g.out.Set = make(map[kafka.TopicPartition]catalog.GroupOffset)
		for tp, o := range p.Offsets {
			if g.orderOf(tp) <= o.Order { // else it was committed since
				g.out.Set[tp] = o
			}
		}
	}
	g.reply(r.Token, Written, kafka.None, nil)
}

// unstable tells whether a transaction may yet change a partition's offset.
func (g *Group) unstable(tp kafka.TopicPartition) bool {
	for _, p := range g.txns {
		if _, ok := p.Offsets[tp]; ok {
			return true
		}
	}
	return false
}

// TxnOffsetCommit handles TxnOffsetCommit, versions 0 to 5; from 5 on the
// group enters the transaction with it (KIP-890).
func (c *Coordinator) TxnOffsetCommit(ctx context.Context, req *kmsg.TxnOffsetCommitRequest) *kmsg.TxnOffsetCommitResponse {
	resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	commit := TxnCommit{
		ProducerID: req.ProducerID, MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation,
		Offsets: make(map[kafka.TopicPartition]catalog.GroupOffset),
	}
	if req.Version < 3 {
		commit.Generation = -1
	}
	asked := c.checkTxnCommit(req, resp, commit.Offsets)
	if len(asked) == 0 {
		return resp
	}
	code := kafka.InvalidGroupID
	if ValidID(req.Group, false) {
		code = c.txnCommit(ctx, req, commit)
	}
	if code == kafka.TransactionAbortable && req.Version < 4 {
		code = kafka.InvalidTxnState
	}
	if code != kafka.None {
		for _, p := range asked {
			*p = int16(code)
		}
	}
	return resp
}

func (c *Coordinator) txnCommit(ctx context.Context, req *kmsg.TxnOffsetCommitRequest, commit TxnCommit) kafka.ErrorCode {
	if c.o.InTxn == nil {
		return kafka.InvalidTxnState
	}
	for limit, pause := time.Now().Add(txnPatience), time.Millisecond; ; pause *= 2 {
		code := c.tryTxnCommit(ctx, req, commit)
		// Below txnCommitJoins the epoch does not tell the producer's transactions apart: it would wait for the next.
		if code != kafka.ConcurrentTransactions || req.Version < txnCommitJoins || time.Now().Add(pause).After(limit) {
			return code
		}
		select { // the transaction before is being ended
		case <-time.After(pause):
		case <-ctx.Done():
			return code
		}
	}
}

func (c *Coordinator) tryTxnCommit(ctx context.Context, req *kmsg.TxnOffsetCommitRequest, commit TxnCommit) kafka.ErrorCode {
	begun := c.call(ctx, req.Group, func(t Token) Event { return TxnBegin{t, req.ProducerID} })
	if begun.Code != kafka.None {
		return begun.Code
	}
	commit.Asked, _ = begun.Body.(*asked)
	commit.Number, commit.Seen = c.o.InTxn(ctx, Transaction{req.TransactionalID, req.ProducerID, req.ProducerEpoch}, req.Group, req.Version >= txnCommitJoins)
	// What was asked is forgotten with the commit, whoever waits for it.
	return c.call(context.WithoutCancel(ctx), req.Group, func(t Token) Event { commit.Token = t; return commit }).Code
}

// checkTxnCommit fills resp with the codes of what can be told without the
// group, and offsets with what is left. It returns where the group's code goes.
func (c *Coordinator) checkTxnCommit(req *kmsg.TxnOffsetCommitRequest, resp *kmsg.TxnOffsetCommitResponse, offsets map[kafka.TopicPartition]catalog.GroupOffset) (asked []*int16) {
	plain := kmsg.NewPtrOffsetCommitRequest()
	plain.Version = 9 // names, leader epochs, no retention of the client's
	for _, t := range req.Topics {
		pt := kmsg.NewOffsetCommitRequestTopic()
		pt.Topic = t.Topic
		for _, p := range t.Partitions {
			pp := kmsg.NewOffsetCommitRequestTopicPartition()
			pp.Partition, pp.Offset, pp.LeaderEpoch, pp.Metadata = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata
			if req.Version < 2 {
				pp.LeaderEpoch = -1
			}
			pt.Partitions = append(pt.Partitions, pp)
		}
		plain.Topics = append(plain.Topics, pt)
	}
	checked := plain.ResponseKind().(*kmsg.OffsetCommitResponse)
	c.checkCommit(plain, checked, offsets)
	for _, t := range checked.Topics {
		rt := kmsg.NewTxnOffsetCommitResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.TxnOffsetCommitResponseTopicPartition, len(t.Partitions))
		for i, p := range t.Partitions {
			rt.Partitions[i].Partition, rt.Partitions[i].ErrorCode = p.Partition, p.ErrorCode
			if p.ErrorCode == 0 {
				asked = append(asked, &rt.Partitions[i].ErrorCode)
			}
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return asked
}

// EndTxn makes what a producer's transaction has for a group the group's, or
// forgets it, durably. It may be called again, whatever became of it.
func (c *Coordinator) EndTxn(ctx context.Context, group string, producerID int64, number int32, commit bool) kafka.ErrorCode {
	return c.call(ctx, group, func(t Token) Event { return TxnEnd{t, producerID, number, commit} }).Code
}
