package group

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// trace drives one group by a script. Commands:
//
//	new [delay=3s] [max=100] [retention=1h]
//	join r=<request> [m=<member>] [inst=<instance>] [new=<id>] [protos=range:a,rr:b] [type=] [session=10s] [rebalance=60s] [v=4]
//	sync r= m= gen= [inst=] [a:<member>=<assignment> …] [proto=] [type=]
//	hb r= m= gen= [inst=]        leave r= m=a,b | inst=a
//	commit r= [m=] [gen=-1] [v=8] [inst=] t:<partition>=<offset> [retention=1s]
//	txn-begin r= pid=1           txn-commit r= pid=1 n=<number> [m=] [gen=-1] [topic=t0] [p=0] [offset=1] [seen=<code>] [asked=<request>]
//	txn-end r= pid=1 n=<number> [abort=1]          stable [topic=t0] [p=0]
//	delete-offsets r= topic=t0 p=0      delete r=      expire [gone=t0]
//	advance d=5s  (ticks whenever one is due)      reload      show
//	hold  (from here on writes are under way)      written  (they are durable)
type trace struct {
	g    *Group
	now  time.Time
	toks []string
	asks map[string]*asked // by the request that asked
	last map[int64]*asked  // by producer id
	hold bool              // writes are under way
	held []func()
	out  strings.Builder
}

func (tr *trace) token(name string) Token {
	i := slices.Index(tr.toks, name)
	if i < 0 {
		i = len(tr.toks)
		tr.toks = append(tr.toks, name)
	}
	return Token(i + 1)
}

func TestTraces(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		tr := &trace{now: time.UnixMilli(1_000_000), asks: map[string]*asked{}, last: map[int64]*asked{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			tr.out.Reset()
			tr.run(t, d)
			if d.Cmd != "new" && d.Cmd != "show" {
				fmt.Fprintf(&tr.out, "= %s\n", tr.summary())
			}
			return tr.out.String()
		})
	})
}

func arg(d *datadriven.TestData, key, otherwise string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return strings.Join(a.Vals, ",")
		}
	}
	return otherwise
}

func ptr(d *datadriven.TestData, key string) *string {
	if v := arg(d, key, "-"); v != "-" {
		return &v
	}
	return nil
}

func dur(t *testing.T, d *datadriven.TestData, key, otherwise string) time.Duration {
	v, err := time.ParseDuration(arg(d, key, otherwise))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func num(d *datadriven.TestData, key string, otherwise int) (n int) {
	_, _ = fmt.Sscan(arg(d, key, fmt.Sprint(otherwise)), &n)
	return n
}

func (tr *trace) run(t *testing.T, d *datadriven.TestData) {
	switch d.Cmd {
	case "new":
		tr.g = NewGroup()
		tr.g.Limits = Limits{InitialDelay: dur(t, d, "delay", "0s"), MaxSize: num(d, "max", 100), Retention: dur(t, d, "retention", "1h")}
	case "advance":
		tr.advance(dur(t, d, "d", ""))
	case "reload":
		tr.reload(t)
	case "hold":
		tr.hold = true
	case "written":
		for _, applied := range tr.held {
			applied()
		}
		tr.hold, tr.held = false, nil
	case "show":
		tr.show()
	case "stable":
		p := offsetOf(tr.g, tp(arg(d, "topic", "t0"), num(d, "p", 0)), lookup{stable: true})
		fmt.Fprintf(&tr.out, "%s offset %d\n", code(kafka.ErrorCode(p.ErrorCode)), p.Offset)
	default:
		tr.step(tr.event(t, d))
	}
}

func (tr *trace) event(t *testing.T, d *datadriven.TestData) Event {
	tok, m, gen := tr.token(arg(d, "r", "")), arg(d, "m", ""), int32(num(d, "gen", -1))
	switch d.Cmd {
	case "join":
		j := Join{
			Token: tok, MemberID: m, InstanceID: ptr(d, "inst"), ClientID: "c", ClientHost: "/h", NewID: arg(d, "new", ""),
			Session: dur(t, d, "session", "10s"), Rebalance: dur(t, d, "rebalance", "60s"), ProtocolType: arg(d, "type", "consumer"),
			RequireID: num(d, "v", 3) >= 4, SkipAssignment: num(d, "v", 3) >= 9,
		}
		for _, p := range strings.Split(arg(d, "protos", "range:x"), ",") {
			if name, meta, ok := strings.Cut(p, ":"); ok {
				j.Protocols = append(j.Protocols, Protocol{Name: name, Metadata: metadata(meta)})
			}
		}
		return j
	case "sync":
		s := Sync{Token: tok, MemberID: m, InstanceID: ptr(d, "inst"), Generation: gen, Protocol: ptr(d, "proto"), ProtocolType: ptr(d, "type"), Assignments: map[string][]byte{}}
		for _, a := range d.CmdArgs {
			if who, ok := strings.CutPrefix(a.Key, "a:"); ok {
				s.Assignments[who] = []byte(a.Vals[0])
			}
		}
		return s
	case "hb":
		return Heartbeat{Token: tok, MemberID: m, InstanceID: ptr(d, "inst"), Generation: gen}
	case "leave":
		l := Leave{Token: tok}
		if inst := ptr(d, "inst"); inst != nil {
			l.Members = append(l.Members, Leaver{MemberID: m, InstanceID: inst})
			return l
		}
		for id := range strings.SplitSeq(m, ",") {
			l.Members = append(l.Members, Leaver{MemberID: id})
		}
		return l
	case "commit":
		c := Commit{Token: tok, MemberID: m, InstanceID: ptr(d, "inst"), Generation: gen, NewErrors: num(d, "v", 8) >= 9, Offsets: map[kafka.TopicPartition]catalog.GroupOffset{}}
		o := catalog.GroupOffset{Offset: kafka.Offset(num(d, "offset", 1)), CommitMs: tr.now.UnixMilli()}
		if keep := dur(t, d, "retention", "0s"); keep > 0 {
			o.ExpireMs = tr.now.Add(keep).UnixMilli()
		}
		c.Offsets[tp(arg(d, "topic", "t0"), num(d, "p", 0))] = o
		return c
	case "txn-begin":
		return TxnBegin{Token: tok, ProducerID: int64(num(d, "pid", 1))}
	case "txn-commit":
		c := TxnCommit{
			Token: tok, MemberID: m, InstanceID: ptr(d, "inst"), Generation: gen, ProducerID: int64(num(d, "pid", 1)), Number: int32(num(d, "n", 1)), Seen: kafka.ErrorCode(num(d, "seen", 0)),
			Offsets: map[kafka.TopicPartition]catalog.GroupOffset{
				tp(arg(d, "topic", "t0"), num(d, "p", 0)): {Offset: kafka.Offset(num(d, "offset", 1)), CommitMs: tr.now.UnixMilli()},
			},
		}
		if c.Asked = tr.last[c.ProducerID]; arg(d, "asked", "") != "" {
			c.Asked = tr.asks[arg(d, "asked", "")]
		}
		return c
	case "txn-end":
		return TxnEnd{Token: tok, ProducerID: int64(num(d, "pid", 1)), Number: int32(num(d, "n", 1)), Commit: num(d, "abort", 0) == 0}
	case "delete-offsets":
		name := arg(d, "topic", "t0")
		return DeleteOffsets{Token: tok, Topics: []TopicOffsets{{Name: name, All: []kafka.TopicPartition{tp(name, num(d, "p", 0))}}}}
	case "delete":
		return Delete{Token: tok}
	case "expire":
		gone := arg(d, "gone", "")
		return Expire{Name: func(id kafka.TopicID) (string, bool) {
			name := strings.TrimRight(string(id[:]), "\x00")
			return name, name != gone
		}}
	}
	t.Fatalf("unknown command %q", d.Cmd)
	return nil
}

// metadata makes a subscription of topics joined by '+'; of "x", none that can be read.
func metadata(topics string) []byte {
	if !strings.HasPrefix(topics, "t") {
		return []byte(topics)
	}
	names := strings.Split(topics, "+")
	b := []byte{0, 1, 0, 0, 0, byte(len(names))}
	for _, n := range names {
		b = append(append(b, 0, byte(len(n))), n...)
	}
	return append(b, 0xff, 0xff, 0xff, 0xff)
}

func tp(topic string, partition int) kafka.TopicPartition {
	p := kafka.TopicPartition{Partition: int32(partition)}
	copy(p.Topic[:], topic)
	return p
}

func topicName(tp kafka.TopicPartition) string {
	return fmt.Sprintf("%s-%d", strings.TrimRight(string(tp.Topic[:]), "\x00"), tp.Partition)
}

func (tr *trace) step(ev Event) {
	e := tr.g.Step(tr.now, ev)
	if e.Save {
		fmt.Fprintf(&tr.out, "save\n")
	}
	for tp, o := range e.Set {
		fmt.Fprintf(&tr.out, "set %s=%d\n", topicName(tp), o.Offset)
	}
	del := make(map[kafka.TopicPartition]bool)
	for _, tp := range e.Del {
		fmt.Fprintf(&tr.out, "del %s\n", topicName(tp))
		del[tp] = true
	}
	for _, pid := range slices.Sorted(maps.Keys(e.Pending)) {
		fmt.Fprintf(&tr.out, "pending %d: %d of transaction %d\n", pid, len(e.Pending[pid].Offsets), e.Pending[pid].Number)
	}
	if applied := func() { tr.g.Applied(e.Set, del, e.Pending) }; tr.hold {
		tr.held = append(tr.held, applied)
	} else {
		applied()
	}
	if e.Delete {
		fmt.Fprintf(&tr.out, "remove\n")
	}
	for _, r := range e.Replies {
		if a, ok := r.Body.(*asked); ok {
			tr.asks[tr.toks[r.Token-1]], tr.last[ev.(TxnBegin).ProducerID] = a, a
		}
		fmt.Fprintf(&tr.out, "%s: %s%s\n", tr.toks[r.Token-1], code(r.Code), body(r))
	}
}

func code(c kafka.ErrorCode) string {
	if c == kafka.None {
		return "ok"
	}
	return fmt.Sprintf("error %d", c)
}

func body(r Reply) string {
	when := [...]string{"", " [saved]", " [written]", " [deleted]", " [confirmed]"}[r.When]
	switch b := r.Body.(type) {
	case Joined:
		if r.Code != kafka.None {
			return fmt.Sprintf(" id=%q%s", b.MemberID, when)
		}
		s := fmt.Sprintf(" id=%q gen=%d %s/%s leader=%s", b.MemberID, b.Generation, *b.ProtocolType, *b.Protocol, b.Leader)
		if b.SkipAssignment {
			s += " skip"
		}
		for _, m := range b.Members {
			s += fmt.Sprintf(" %s", m.ID)
		}
		return s + when
	case Synced:
		return fmt.Sprintf(" %s/%s %q%s", b.ProtocolType, b.Protocol, b.Assignment, when)
	case []kafka.ErrorCode:
		return fmt.Sprintf(" %d%s", b, when)
	}
	return when
}

func (tr *trace) advance(d time.Duration) {
	start, end := tr.now, tr.now.Add(d)
	for range 1000 {
		next := tr.g.Next()
		if next.IsZero() || next.After(end) {
			break
		}
		if next.After(tr.now) {
			tr.now = next
		}
		fmt.Fprintf(&tr.out, "+%v tick\n", tr.now.Sub(start))
		tr.step(Tick{})
	}
	tr.now = end
}

func (tr *trace) reload(t *testing.T) {
	f := fence{Broker: 1, Session: 2, Epoch: 3}
	g, got, err := decode(encode(tr.g, f))
	if err != nil || got != f {
		t.Fatalf("decode: fence %v, %v", got, err)
	}
	g.Limits = tr.g.Limits
	g.hold(tr.g.offsets, tr.g.txns)
	g.resume(tr.now)
	tr.g = g
}

func (tr *trace) summary() string {
	g := tr.g
	s := fmt.Sprintf("%s gen=%d members=%d", g.state, g.generation, len(g.members))
	if len(g.pending) > 0 {
		s += fmt.Sprintf(" pending=%d", len(g.pending))
	}
	if !g.created {
		s += " (not there)"
	}
	if n := g.Next(); !n.IsZero() {
		s += fmt.Sprintf(" next=+%v", n.Sub(tr.now))
	}
	return s
}

func (tr *trace) show() {
	g := tr.g
	fmt.Fprintf(&tr.out, "%s type=%s proto=%s leader=%s\n", tr.summary(), g.protocolType, g.protocol, g.leader)
	for _, m := range g.members {
		fmt.Fprintf(&tr.out, "  %s assignment=%q\n", m.ID, m.Assignment)
	}
	var all []kafka.TopicPartition
	for tp := range g.offsets {
		all = append(all, tp)
	}
	slices.SortFunc(all, kafka.TopicPartition.Compare)
	for _, tp := range all {
		fmt.Fprintf(&tr.out, "  %s=%d\n", topicName(tp), g.offsets[tp].Offset)
	}
}
