package faults

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestBadInput sends to a running broker what no client should: it answers
// with Kafka's error or closes the connection with a line in its log, its
// memory stays bounded, and it goes on serving.
func TestBadInput(t *testing.T) {
	b := brokertest.Start(t)
	p := dial(t, b.Addr)
	p.create("t", 1)
	p.produce("t", 0, batch(t, []byte("warm")))
	before := peakRSS(t, b.PID())

	t.Run("frames", func(t *testing.T) { badFrames(t, b) })
	t.Run("arrays", func(t *testing.T) { hugeArrays(t, b) })
	t.Run("elements", func(t *testing.T) { manyElements(t, b) })
	t.Run("records", func(t *testing.T) { badRecords(t, b) })
	t.Run("topics", func(t *testing.T) { badTopics(t, b) })

	if !b.Alive() {
		t.Fatal("the broker has ended")
	}
	after := peakRSS(t, b.PID())
	t.Logf("peak of the resident memory: %d MiB before, %d MiB after", before>>20, after>>20)
	if after > before+384<<20 {
		t.Errorf("resident memory grew from %d MiB to %d MiB", before>>20, after>>20)
	}
	if res := p.produce("t", 0, batch(t, []byte("still here"))); res.ErrorCode != 0 {
		t.Errorf("produce afterwards: %v", kerr.ErrorForCode(res.ErrorCode))
	}
}

// badFrames: the connection is closed, and the log says why.
func badFrames(t *testing.T, b *brokertest.Broker) {
	garbage := make([]byte, 64<<10)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range garbage {
		garbage[i] = byte(rng.Uint32())
	}
	garbage[0] = 0x7f // a length that can't be
	tests := []struct {
		name string
		send func(p *peer)
		log  string
	}{
		{"garbage", func(p *peer) { p.send(garbage) }, "frame size"},
		{"garbage in a frame", func(p *peer) { p.frame(append([]byte{0x7f}, garbage...)) }, "no such request"},
		{"http", func(p *peer) { p.send([]byte("GET / HTTP/1.1\r\n\r\n")) }, "frame size"},
		{"tls", func(p *peer) { p.send([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}) }, "frame size"},
		{"largest length", func(p *peer) { p.send([]byte{0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 1}) }, "frame size"},
		{"negative length", func(p *peer) { p.send([]byte{0xff, 0xff, 0xff, 0xff, 0, 3, 0, 1}) }, "frame size"},
		{"unknown key", func(p *peer) { p.frame(header(999, 0, false)) }, "key 999"},
		{"unknown version", func(p *peer) { p.frame(header(1, 99, true)) }, "key 1 version 99"},
		{"removed version", func(p *peer) { p.frame(header(0, 2, false)) }, "key 0 version 2"},
		{"client id longer than the frame", func(p *peer) { p.frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff}) }, "request header"},
		{"no body", func(p *peer) { p.frame(header(3, 1, false)) }, "decode Metadata"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen := strings.Count(b.Log(), tt.log)
			p := dial(t, b.Addr)
			tt.send(p)
			p.closed()
			eventually(t, "a line with "+strconv.Quote(tt.log), func() bool { return strings.Count(b.Log(), tt.log) > seen })
		})
	}
}

// header returns a request header.
func header(key, version int16, flexible bool) []byte {
	h := binary.BigEndian.AppendUint16(nil, uint16(key))
	h = binary.BigEndian.AppendUint16(h, uint16(version))
	h = append(h, 0, 0, 0, 1, 0, 1, 'x')
	if flexible {
		h = append(h, 0)
	}
	return h
}

// hugeArrays claims a hundred million elements in requests of several kinds:
// in a short frame; with a body of zeros behind it that could be elements, as
// much as the broker takes.
func hugeArrays(t *testing.T, b *brokertest.Broker) {
	const claim = 100_000_000
	fixed := binary.BigEndian.AppendUint32(nil, claim)
	compact := binary.AppendUvarint(nil, claim+1)
	requests := []struct {
		name         string
		key, version int16
		flexible     bool
		before       []byte // the array's length
	}{
		{"Produce v3", 0, 3, false, []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 3, 0xe8}},
		{"Produce v9", 0, 9, true, []byte{0, 0xff, 0xff, 0, 0, 3, 0xe8}},
		{"Fetch v4", 1, 4, false, make([]byte, 17)},
		{"Fetch v12", 1, 12, true, make([]byte, 25)},
		{"ListOffsets v1", 2, 1, false, make([]byte, 4)},
		{"Metadata v1", 3, 1, false, nil},
		{"Metadata v12", 3, 12, true, nil},
		{"OffsetCommit v8", 8, 8, true, []byte{2, 'g', 0, 0, 0, 0, 1, 0}},
		{"OffsetFetch v8", 9, 8, true, nil},
		{"FindCoordinator v4", 10, 4, true, []byte{0}},
		{"JoinGroup v0", 11, 0, false, []byte{0, 1, 'g', 0, 0, 0x27, 0x10, 0, 0, 0, 1, 'c'}},
		{"SyncGroup v0", 14, 0, false, []byte{0, 1, 'g', 0, 0, 0, 0, 0, 0}},
		{"LeaveGroup v4", 13, 4, true, []byte{2, 'g'}},
		{"DescribeGroups v0", 15, 0, false, nil},
		{"CreateTopics v2", 19, 2, false, nil},
		{"DeleteTopics v4", 20, 4, true, nil},
		{"DeleteRecords v2", 21, 2, true, nil},
		{"DescribeConfigs v1", 32, 1, false, nil},
		{"IncrementalAlterConfigs v1", 44, 1, true, nil},
		{"DescribeTopicPartitions v0", 75, 0, true, nil},
	}
	for _, r := range requests {
		length := fixed
		if r.flexible {
			length = compact
		}
		body := bytes.Join([][]byte{header(r.key, r.version, r.flexible), r.before, length}, nil)
		for _, zeros := range []int{0, 4<<20 - 100} {
			t.Run(fmt.Sprintf("%s and %d bytes", r.name, zeros), func(t *testing.T) {
				p := dial(t, b.Addr)
				p.frame(append(body[:len(body):len(body)], make([]byte, zeros)...))
				p.closed()
			})
		}
	}
	if !strings.Contains(b.Log(), "decode DescribeTopicPartitions") {
		t.Error("no line in the log")
	}
}

// manyElements has as many elements in a request as the broker takes, which is
// answered, and more, which is not. What asks for much with little is answered as far as
// the answer stays bounded.
func manyElements(t *testing.T, b *brokertest.Broker) {
	const most = 100_000
	names := func(n int) []byte { // of groups or topics, each of one byte
		return append(binary.BigEndian.AppendUint32(nil, uint32(n)), bytes.Repeat([]byte{0, 1, 't'}, n)...)
	}
	for _, r := range []struct {
		name         string
		key, version int16
		after        []byte
	}{
		{"Metadata v1", 3, 1, nil},
		{"Metadata v8", 3, 8, make([]byte, 3)},
		{"DescribeGroups v0", 15, 0, nil},
		{"DeleteGroups v0", 42, 0, nil},
		{"DeleteTopics v1", 20, 1, make([]byte, 4)},
	} {
		t.Run(r.name, func(t *testing.T) {
			send := func(n int) *peer {
				p := dial(t, b.Addr)
				p.frame(bytes.Join([][]byte{header(r.key, r.version, false), names(n), r.after}, nil))
				return p
			}
			send(most + 1).closed()
			send(1_300_000).closed()
			if r.key != 20 { // which would delete the topic
				send(most).answered()
			}
		})
	}
	t.Run("DescribeConfigs", func(t *testing.T) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.IncludeDocumentation, req.IncludeSynonyms = true, true
		req.Resources = make([]kmsg.DescribeConfigsRequestResource, most)
		for i := range req.Resources {
			req.Resources[i].ResourceType, req.Resources[i].ResourceName = kmsg.ConfigResourceTypeTopic, "t"
		}
		resp := ask[*kmsg.DescribeConfigsResponse](dial(t, b.Addr), req, 4)
		if first := resp.Resources[0]; first.ErrorCode != 0 || len(first.Configs) == 0 {
			t.Errorf("the first: error %d, %d settings", first.ErrorCode, len(first.Configs))
		}
		if last := resp.Resources[most-1]; last.ErrorCode != kerr.InvalidRequest.Code || last.ErrorMessage == nil {
			t.Errorf("the last: error %d", last.ErrorCode)
		}
	})
}

// badRecords: the error that Apache Kafka answers.
func badRecords(t *testing.T, b *brokertest.Broker) {
	p := dial(t, b.Addr)
	good := batch(t, []byte("one"), []byte("two"))
	change := func(at int, v byte) []byte {
		bad := bytes.Clone(good)
		bad[at] = v
		return bad
	}
	tests := []struct {
		name    string
		records []byte
		want    *kerr.Error
	}{
		{"wrong CRC", change(17, good[17]+1), kerr.CorruptMessage},
		{"changed record", change(len(good)-2, 'X'), kerr.CorruptMessage},
		{"truncated", good[:len(good)-3], kerr.InvalidRecord},
		{"truncated header", good[:30], kerr.InvalidRecord},
		{"nothing", []byte{}, kerr.InvalidRecord},
		{"null", nil, kerr.InvalidRecord},
		{"two batches", append(bytes.Clone(good), good...), kerr.InvalidRecord},
		{"message format v0", oldMessage(0), kerr.InvalidRecord},
		{"message format v1", oldMessage(1), kerr.InvalidRecord},
		{"message format v3", change(16, 3), kerr.CorruptMessage},
		{"huge batch length", change(8, 0x7f), kerr.InvalidRecord},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := kerr.ErrorForCode(p.produce("t", 0, tt.records).ErrorCode); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// oldMessage is a message set of one message in format 0 or 1.
func oldMessage(magic byte) []byte {
	be := binary.BigEndian
	m := []byte{magic, 0}
	if magic == 1 {
		m = be.AppendUint64(m, 1)
	}
	m = append(m, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 'v')
	m = append(be.AppendUint32(nil, crc32.ChecksumIEEE(m)), m...)
	return append(be.AppendUint32(make([]byte, 8), uint32(len(m))), m...)
}

// badTopics: names that can't be topics.
func badTopics(t *testing.T, b *brokertest.Broker) {
	p := dial(t, b.Addr)
	for _, name := range []string{"", ".", "..", "a b", "ä", "a/b", strings.Repeat("x", 250)} {
		if got := kerr.ErrorForCode(p.tryCreate(name, 1)); got != kerr.InvalidTopicException {
			t.Errorf("create %q: %v", name, got)
		}
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &name
		req.Topics, req.AllowAutoTopicCreation = append(req.Topics, rt), true
		if got := kerr.ErrorForCode(ask[*kmsg.MetadataResponse](p, req, 9).Topics[0].ErrorCode); got != kerr.InvalidTopicException {
			t.Errorf("metadata of %q: %v", name, got)
		}
	}
}

// peakRSS returns the most resident memory that a process ever had.
func peakRSS(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
