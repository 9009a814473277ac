package enginetest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/wire"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

// meddler is a broker's connection to another one while a rule of reading from
// followers (KIP-392) is broken: what it asks a leader on behalf of its
// consumers, or what it is answered, is changed on the way.
type meddler struct {
	net.Conn
	ledger *ledger
	in     *bufio.Reader
	asked  *kmsg.FetchRequest // the newest question; nil: another one, which is left alone
	answer []byte             // what is left of its answer
}

func newMeddler(c net.Conn, l *ledger) *meddler {
	return &meddler{Conn: c, ledger: l, in: bufio.NewReader(c)}
}

const (
	requestHead = 14 // length, key, version, correlation id, length of the client's id
	maxAnswer   = 64 << 20
)

// Write sends a question, which comes whole, without the leader epoch that the consumer knows, if that is the rule.
func (m *meddler) Write(b []byte) (int, error) {
	m.asked = nil
	if key := int16(binary.BigEndian.Uint16(b[4:])); key != kmsg.Fetch.Int16() {
		return m.Conn.Write(b)
	}
	m.asked = kmsg.NewPtrFetchRequest()
	m.asked.SetVersion(int16(binary.BigEndian.Uint16(b[6:])))
	body := requestHead + int(binary.BigEndian.Uint16(b[12:])) + 1 // no tags
	if err := m.asked.ReadFrom(b[body:]); err != nil {
		panic(err) // it comes whole
	}
	if m.ledger.broken != followerForgets {
		return m.Conn.Write(b)
	}
	for i := range m.asked.Topics {
		for j := range m.asked.Topics[i].Partitions {
			m.asked.Topics[i].Partitions[j].CurrentLeaderEpoch = -1
		}
	}
	changed := m.asked.AppendTo(append([]byte(nil), b[:body]...))
	binary.BigEndian.PutUint32(changed, uint32(len(changed)-4))
	_, err := m.Conn.Write(changed)
	return len(b), err
}

// Read returns an answer, with more in it than the leader said, if that is the rule.
func (m *meddler) Read(b []byte) (int, error) {
	if len(m.answer) == 0 {
		frame, err := wire.ReadResponse(m.in, maxAnswer)
		if err != nil {
			return 0, err
		}
		if m.ledger.broken == followerAhead && m.asked != nil {
			frame = m.ahead(frame)
		}
		m.answer = append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
	}
	n := copy(b, m.answer)
	m.answer = m.answer[n:]
	return n, nil
}

// ahead puts what the leader's WAL has on its way into the places that a leader names.
func (m *meddler) ahead(frame []byte) []byte {
	const head = 5 // correlation id, no tags
	resp := m.asked.ResponseKind().(*kmsg.FetchResponse)
	if err := resp.ReadFrom(frame[head:]); err != nil {
		panic(err)
	}
	from := make(map[kafka.TopicPartition]kafka.Offset)
	for _, t := range m.asked.Topics {
		for _, p := range t.Partitions {
			from[kafka.TopicPartition{Topic: t.TopicID, Partition: p.Partition}] = kafka.Offset(p.FetchOffset)
		}
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			row := &resp.Topics[i].Partitions[j]
			tp := kafka.TopicPartition{Topic: resp.Topics[i].TopicID, Partition: row.Partition}
			place, err := partition.ParsePlace(row.RecordBatches)
			if err != nil || row.ErrorCode != 0 || place.Sealed {
				continue
			}
			end := from[tp]
			if n := len(place.Slices); n > 0 {
				end = place.Slices[n-1].Last + 1
			}
			if end != place.HighWatermark {
				continue
			}
			for next, ok := m.ledger.onItsWay(tp, end); ok; next, ok = m.ledger.onItsWay(tp, end) {
				place.Slices = append(place.Slices, next)
				end = next.Last + 1
			}
			place.HighWatermark, place.LastStable = end, end
			if row.RecordBatches, err = json.Marshal(&place); err != nil {
				panic(err)
			}
		}
	}
	return resp.AppendTo(append([]byte(nil), frame[:head]...))
}

// send notes a WAL object that is on its way, where somebody may read it too early.
func (l *ledger) send(key string, body []byte) {
	if l.broken != followerAhead {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	o, err := bundle.Parse(body)
	if err != nil || o.Kind != bundle.KindWAL || l.sent[key] != nil {
		return
	}
	l.sent[key] = body
	for i := range o.Slices {
		s := &o.Slices[i]
		at := place{s.TP.Partition, int64(s.Batches[0].BaseOffset)}
		if l.early[s.TP.Topic] == nil {
			l.early[s.TP.Topic] = make(map[place]bundle.Ref)
		}
		l.early[s.TP.Topic][at] = s.Ref(key)
	}
}

// readAt reads an object, also one that is on its way, where somebody may read it too early.
func (l *ledger) readAt(ctx context.Context, key string, b []byte, off int64) (n int, size int64, err error) {
	n, size, err = l.objects.ReadAt(ctx, key, b, off)
	if l.broken != followerAhead || !errors.Is(err, objstore.ErrNotFound) {
		return n, size, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	body, ok := l.sent[key]
	if !ok {
		return n, size, err
	}
	from, count, eof := objstore.Range(int64(len(body)), off, len(b))
	n = copy(b, body[from:from+int64(count)])
	if eof {
		return n, int64(len(body)), io.EOF
	}
	return n, int64(len(body)), nil
}

// onItsWay returns what was sent last, landed or not, that begins at an offset.
func (l *ledger) onItsWay(tp kafka.TopicPartition, from kafka.Offset) (r bundle.Ref, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok = l.early[tp.Topic][place{tp.Partition, int64(from)}]
	return r, ok
}
