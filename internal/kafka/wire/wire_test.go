package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
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
			ot.Partitions, tt.Partitions = append(ot.Partitions, op), append(tt.Partitions, tp)
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
			ot.Partitions, tt.Partitions = append(ot.Partitions, op), append(tt.Partitions, tp)
		}
		ours.Topics, theirs.Topics = append(ours.Topics, ot), append(theirs.Topics, tt)
		compare(t, ours.AppendTo(nil), framed(theirs, corr))
	})
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

func TestRequestHeader(t *testing.T) {
	for _, v := range []int16{0, 8, 9, 12} {
		r := kmsg.NewPtrMetadataRequest()
		r.SetVersion(v)
		frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("me")).AppendRequest(nil, r, 42)[4:]
		h, body, err := ParseRequestHeader(frame)
		if err != nil || h.Key != 3 || h.Version != v || h.CorrelationID != 42 || h.ClientID == nil || *h.ClientID != "me" {
			t.Fatalf("version %d: %+v, %v", v, h, err)
		}
		if err := kmsg.NewPtrMetadataRequest().ReadFrom(body); v == 0 && err != nil {
			t.Fatal(err)
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
	got, err := ReadFrame(bytes.NewReader(b), 100<<20)
	if err != nil || !bytes.Equal(got, frame) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for _, size := range []uint32{0, 7, 101 << 20, 1 << 31, 0xffffffff} {
		if _, err := ReadFrame(bytes.NewReader(binary.BigEndian.AppendUint32(nil, size)), 100<<20); !errors.Is(err, ErrFrameSize) {
			t.Errorf("%d: %v", size, err)
		}
	}
	if _, err := ReadFrame(bytes.NewReader(append([]byte{5, 0, 0, 0, 0, 3, 0, 9}, frame...)), 100<<20); !errors.Is(err, ErrFrameSize) {
		t.Errorf("a large Metadata request: %v", err)
	}
	if allocated := testing.AllocsPerRun(5, func() {
		_, err = ReadFrame(&arriving{}, 1<<30)
	}); !errors.Is(err, io.ErrUnexpectedEOF) || allocated > 10 {
		t.Errorf("a frame that does not arrive: %v, %v allocations", err, allocated)
	}
}

func BenchmarkFetch(b *testing.B) {
	r := FetchResponse{Version: 16, Topics: []FetchTopic{{Partitions: make([]FetchPartition, 100)}}}
	data := make([]byte, 1024)
	for i := range r.Topics[0].Partitions {
		r.Topics[0].Partitions[i].Records = [][]byte{data}
	}
	var bufs net.Buffers
	var scratch []byte
	b.ReportAllocs()
	for b.Loop() {
		bufs, scratch = r.AppendTo(bufs[:0], scratch)
	}
}
