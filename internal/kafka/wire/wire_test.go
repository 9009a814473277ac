package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// FuzzFetch compares the encoder with kmsg's, over all versions.
func FuzzFetch(f *testing.F) {
	for v := int16(4); v <= 18; v++ {
		f.Add(v, int32(7), int16(3), int64(9), "topic", []byte("some records"), uint8(3), uint8(1))
		f.Add(v, int32(0), int16(0), int64(-1), "", []byte{}, uint8(0), uint8(0))
		for _, tags := range []uint8{4, 8, 12, 0xc0, 0xff} {
			f.Add(v, int32(9), int16(6), int64(300), strings.Repeat("host", 50), []byte{}, uint8(2), tags)
		}
	}
	f.Fuzz(func(t *testing.T, version int16, corr int32, code int16, off int64, name string, data []byte, parts, aborted uint8) {
		if version < 4 || version > 18 || len(name) > 1000 {
			t.Skip()
		}
		ours := FetchResponse{Version: version, CorrelationID: corr, ThrottleMs: corr, Err: kafka.ErrorCode(code), SessionID: corr}
		theirs := kmsg.NewPtrFetchResponse()
		theirs.Version, theirs.ThrottleMillis, theirs.ErrorCode, theirs.SessionID = version, corr, code, corr
		ot, tt := FetchTopic{Name: name, ID: kafka.TopicID{1, byte(code)}}, kmsg.NewFetchResponseTopic()
		tt.Topic, tt.TopicID = name, [16]byte{1, byte(code)}
		for i := range int32(parts % 8) {
			half := len(data) / 2
			op := FetchPartition{Partition: i, Err: kafka.ErrorCode(code), HighWatermark: kafka.Offset(off), LastStableOffset: kafka.Offset(off), LogStartOffset: 4, PreferredReadReplica: -1, Records: [][]byte{data[:half], data[half:]}}
			tp := kmsg.NewFetchResponseTopicPartition()
			tp.Partition, tp.ErrorCode, tp.HighWatermark, tp.LastStableOffset, tp.LogStartOffset, tp.PreferredReadReplica, tp.RecordBatches = i, code, off, off, 4, -1, append([]byte{}, data...)
			for a := range int64(aborted % 4) {
				op.Aborted = append(op.Aborted, Aborted{a, kafka.Offset(off)})
				ta := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
				ta.ProducerID, ta.FirstOffset = a, off
				tp.AbortedTransactions = append(tp.AbortedTransactions, ta)
			}
			if version >= 12 && aborted&4 != 0 {
				op.Diverging, tp.DivergingEpoch.Epoch, tp.DivergingEpoch.EndOffset = &EpochEnd{5, kafka.Offset(off) | 1}, 5, off|1
			}
			if version >= 12 && aborted&8 != 0 {
				op.Leader, tp.CurrentLeader.LeaderID, tp.CurrentLeader.LeaderEpoch = &Leader{corr | 1<<30, 6}, corr|1<<30, 6
			}
			ot.Partitions, tt.Partitions = append(ot.Partitions, op), append(tt.Partitions, tp)
		}
		for i := range int32(aborted >> 6) {
			if version >= 16 {
				ours.Endpoints = append(ours.Endpoints, Endpoint{i, name, corr, rackOf(i)})
				b := kmsg.NewFetchResponseBroker()
				b.NodeID, b.Host, b.Port, b.Rack = i, name, corr, pointer(rackOf(i))
				theirs.Brokers = append(theirs.Brokers, b)
			}
		}
		ours.Topics, theirs.Topics = append(ours.Topics, ot), append(theirs.Topics, tt)
		bufs, _ := ours.AppendTo(nil, nil)
		var got bytes.Buffer
		if _, err := bufs.WriteTo(&got); err != nil {
			t.Fatal(err)
		}
		compare(t, got.Bytes(), framed(theirs, corr))
	})
}

// FuzzProduce compares the encoder with kmsg's, over all versions.
func FuzzProduce(f *testing.F) {
	for v := int16(3); v <= 13; v++ {
		f.Add(v, int32(7), int16(3), int64(9), "topic", "why", uint8(2), uint8(1))
		f.Add(v, int32(9), int16(6), int64(300), strings.Repeat("host", 50), "", uint8(2), uint8(0xc4))
	}
	f.Fuzz(func(t *testing.T, version int16, corr int32, code int16, off int64, name, message string, parts, records uint8) {
		if version < 3 || version > 13 || len(name) > 1000 || len(message) > 1000 {
			t.Skip()
		}
		ours := ProduceResponse{Version: version, CorrelationID: corr, ThrottleMs: corr}
		theirs := kmsg.NewPtrProduceResponse()
		theirs.Version, theirs.ThrottleMillis = version, corr
		ot, tt := ProduceTopic{Name: name, ID: kafka.TopicID{1}}, kmsg.NewProduceResponseTopic()
		tt.Topic, tt.TopicID = name, [16]byte{1}
		for i := range int32(parts % 8) {
			op := ProducePartition{Partition: i, Err: kafka.ErrorCode(code), BaseOffset: kafka.Offset(off), LogAppendTime: off, LogStartOffset: kafka.Offset(off), Message: message}
			tp := kmsg.NewProduceResponseTopicPartition()
			tp.Partition, tp.ErrorCode, tp.BaseOffset, tp.LogAppendTime, tp.LogStartOffset = i, code, off, off, off
			if message != "" {
				tp.ErrorMessage = &message
			}
			for r := range int32(records % 4) {
				op.Records = append(op.Records, RecordError{r, message})
				tr := kmsg.NewProduceResponseTopicPartitionErrorRecord()
				tr.RelativeOffset, tr.ErrorMessage = r, tp.ErrorMessage
				tp.ErrorRecords = append(tp.ErrorRecords, tr)
			}
			if version >= 10 && records&4 != 0 {
				op.Leader, tp.CurrentLeader.LeaderID, tp.CurrentLeader.LeaderEpoch = &Leader{corr | 1<<30, 6}, corr|1<<30, 6
			}
			ot.Partitions, tt.Partitions = append(ot.Partitions, op), append(tt.Partitions, tp)
		}
		for i := range int32(records >> 6) {
			if version >= 10 {
				ours.Endpoints = append(ours.Endpoints, Endpoint{i, name, corr, rackOf(i)})
				b := kmsg.NewProduceResponseBroker()
				b.NodeID, b.Host, b.Port, b.Rack = i, name, corr, pointer(rackOf(i))
				theirs.Brokers = append(theirs.Brokers, b)
			}
		}
		ours.Topics, theirs.Topics = append(ours.Topics, ot), append(theirs.Topics, tt)
		compare(t, ours.AppendTo(nil), framed(theirs, corr))
	})
}

// rackOf is a rack, or none.
func rackOf(i int32) string { return []string{"", "rack"}[i%2] }

func pointer(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func framed(r kmsg.Response, corr int32) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(corr))
	if r.IsFlexible() {
		b = append(b, 0)
	}
	b = r.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func compare(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatal(cmp.Diff(want, got))
	}
}

// FuzzRequestHeader: any frame is read or refused, and what kmsg writes is read.
func FuzzRequestHeader(f *testing.F) {
	for _, k := range []int16{0, 1, 3, 18} {
		r := kmsg.RequestForKey(k)
		r.SetVersion(r.MaxVersion())
		f.Add(kmsg.NewRequestFormatter(kmsg.FormatterClientID("me")).AppendRequest(nil, r, 42)[4:])
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, body, err := ParseRequestHeader(frame)
		if err == nil && len(body) > len(frame) {
			t.Fatalf("%+v: body larger than the frame", h)
		}
	})
}

// TestRequestHeader reads the headers of all requests that kmsg knows.
func TestRequestHeader(t *testing.T) {
	for key := range int16(kmsg.MaxKey + 1) {
		r := kmsg.RequestForKey(key)
		if r == nil || key == 7 { // ControlledShutdown has a header of its own
			continue
		}
		for v := range r.MaxVersion() + 1 {
			r.SetVersion(v)
			frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("me")).AppendRequest(nil, r, 42)[4:]
			h, body, err := ParseRequestHeader(frame)
			if err != nil || h.Key != key || h.Version != v || h.CorrelationID != 42 || h.ClientID == nil || *h.ClientID != "me" {
				t.Fatalf("key %d version %d: %+v, %v", key, v, h, err)
			}
			if want := r.AppendTo(nil); !bytes.Equal(body, want) {
				t.Fatalf("key %d version %d: body %x, want %x", key, v, body, want)
			}
		}
	}
}

// TestRequestTags: tagged fields of the header are skipped, and their lengths
// are not believed.
func TestRequestTags(t *testing.T) {
	head := []byte{0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff}
	for _, c := range []struct {
		tags []byte
		body int // -1: refused
	}{{[]byte{0, 9}, 1}, {[]byte{2, 0, 1, 7, 5, 2, 7, 7, 9, 9}, 2}, {[]byte{1, 0, 9, 1}, -1}, {[]byte{0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0}, -1}, {nil, -1}} {
		h, body, err := ParseRequestHeader(append(bytes.Clone(head), c.tags...))
		if (err != nil) != (c.body < 0) || err == nil && len(body) != c.body || h.ClientID != nil {
			t.Errorf("%x: body %x, %v", c.tags, body, err)
		}
	}
}

// arriving is a peer that claims a large frame and sends little of it.
type arriving struct{ sent int }

func (a *arriving) Read(p []byte) (int, error) {
	if a.sent > 64<<10 {
		return 0, io.EOF
	}
	n := min(len(p), 4096)
	if a.sent == 0 {
		copy(p, []byte{0x06, 0, 0, 0, 0, 0, 0, 9})
		n = min(n, 8)
	}
	a.sent += n
	return n, nil
}

func TestFrames(t *testing.T) {
	frame := bytes.Repeat([]byte{0}, 3<<20+5)
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
	got, err := ReadFrame(bytes.NewReader(b), 100<<20, nil)
	if err != nil || !bytes.Equal(got, frame) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for _, size := range []uint32{0, 7, 101 << 20, 1 << 31, 0xffffffff} {
		if _, err := ReadFrame(bytes.NewReader(binary.BigEndian.AppendUint32(nil, size)), 100<<20, nil); !errors.Is(err, ErrFrameSize) {
			t.Errorf("%d: %v", size, err)
		}
	}
	if _, err := ReadFrame(bytes.NewReader(append([]byte{5, 0, 0, 0, 0, 3, 0, 9}, frame...)), 100<<20, nil); !errors.Is(err, ErrFrameSize) {
		t.Errorf("a large Metadata request: %v", err)
	}
	if allocated := testing.AllocsPerRun(5, func() {
		_, err = ReadFrame(&arriving{}, 1<<30, nil)
	}); !errors.Is(err, io.ErrUnexpectedEOF) || allocated > 10 {
		t.Errorf("a frame that does not arrive: %v, %v allocations", err, allocated)
	}
}

// FuzzFrames: what ReadFrame gives is what was framed, however it arrives, and
// no length makes it allocate far ahead of what has come.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 9, 0, 3, 0, 9, 1, 2, 3, 4, 5}, uint8(1))
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 9}, uint8(7))
	f.Add([]byte{0, 0, 0, 8, 0, 0, 0, 9, 1, 2, 3, 4, 0, 0, 0}, uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, chunk uint8) {
		r := &slowly{data, int(chunk) + 1}
		left := data
		for {
			frame, err := ReadFrame(r, 100<<20, nil)
			if err != nil {
				if len(left) == 0 != (err == io.EOF) {
					t.Fatalf("%v with %d bytes left", err, len(left))
				}
				return
			}
			size := binary.BigEndian.Uint32(left)
			if !bytes.Equal(frame, left[4:4+size]) || cap(frame) > 2*len(frame)+64 {
				t.Fatalf("%d bytes of %d", len(frame), size)
			}
			left = left[4+size:]
		}
	})
}

// slowly gives at most n bytes at a time.
type slowly struct {
	b []byte
	n int
}

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.n)], s.b)
	s.b = s.b[n:]
	return n, nil
}

// room is an Ahead of so many bytes, for one goroutine.
type room struct{ left int64 }

func (r *room) TryAcquire(n int64) bool {
	if n > r.left {
		return false
	}
	r.left -= n
	return true
}

func (r *room) Release(n int64) { r.left += n }

// TestFrameIsOneAllocation: of the frame's size, for an ordinary Produce.
func TestFrameIsOneAllocation(t *testing.T) {
	ahead := &room{2 << 20}
	for _, size := range []int{100, 256 << 10, 1 << 20, 2 << 20} {
		b := append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, size)...)
		r := bytes.NewReader(b)
		var frame []byte
		n := testing.AllocsPerRun(5, func() {
			r.Reset(b)
			var err error
			if frame, err = ReadFrame(r, 100<<20, ahead); err != nil {
				t.Fatal(err)
			}
		})
		if n > 2 || len(frame) != size { // the length's own eight bytes are the other
			t.Errorf("%d bytes: %v allocations", size, n)
		}
	}
	if ahead.left != 2<<20 {
		t.Error("memory was not given back")
	}
	if n := testing.AllocsPerRun(5, func() {
		_, err := ReadFrame(bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, 4<<20), make([]byte, 8)...)), 100<<20, ahead)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}); n > 10 {
		t.Errorf("without memory ahead: %v allocations", n)
	}
}

// TestSteadyState: with what they gave back, the encoders allocate nothing.
func TestSteadyState(t *testing.T) {
	fetch, produce := hundred()
	bufs, scratch := fetch.AppendTo(nil, nil)
	answer := produce.AppendTo(nil)
	if n := testing.AllocsPerRun(10, func() {
		bufs, scratch = fetch.AppendTo(bufs[:0], scratch)
		answer = produce.AppendTo(answer[:0])
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// hundred returns responses of a hundred partitions each.
func hundred() (*FetchResponse, *ProduceResponse) {
	fetch := &FetchResponse{Version: 16, Topics: []FetchTopic{{Partitions: make([]FetchPartition, 100)}}}
	data := make([]byte, 1024)
	for i := range fetch.Topics[0].Partitions {
		fetch.Topics[0].Partitions[i].Records = [][]byte{data, data}
	}
	return fetch, &ProduceResponse{Version: 12, Topics: []ProduceTopic{{Name: "topic", Partitions: make([]ProducePartition, 100)}}}
}

func BenchmarkFetch(b *testing.B) {
	r, _ := hundred()
	var bufs net.Buffers
	var scratch []byte
	b.ReportAllocs()
	for b.Loop() {
		bufs, scratch = r.AppendTo(bufs[:0], scratch)
	}
}

func BenchmarkProduce(b *testing.B) {
	_, r := hundred()
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		out = r.AppendTo(out[:0])
	}
}
