package main

import (
	"fmt"
	"hash/crc32"
	"math/rand"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A pool of JSON-like values: fixed field names, low-cardinality enums and
// numbers, and a random hex/base64-like part, so that a batch compresses to
// roughly half. seq, nanos and crc are stamped into fixed-width hex slots.
const (
	poolSize = 2048
	seqOff   = 8  // {"seq":"................
	tsOff    = 32 // ","ts":"................
	crcOff   = 57 // ","crc":"........
	headLen  = 67
)

const head = `{"seq":"0000000000000000","ts":"0000000000000000","crc":"00000000",`

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type payloads struct {
	pool [][]byte
	size int
}

func newPayloads(size int) *payloads {
	if size < headLen+8 {
		size = headLen + 8
	}
	r := rand.New(rand.NewSource(42))
	p := &payloads{size: size}
	levels := []string{"INFO", "WARN", "ERROR", "DEBUG"}
	regions := []string{"us-east-1", "us-west-2", "eu-west-1", "ap-south-1", "sa-east-1"}
	services := []string{"checkout", "catalog", "payments", "search", "sessions", "inventory", "shipping"}
	words := strings.Fields("the order was accepted by upstream after retry and cached response for customer account with status pending region failover timeout while reading segment offset index partition leader")
	const alpha = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := 0; i < poolSize; i++ {
		b := []byte(head)
		b = append(b, fmt.Sprintf(`"user_id":%d,"region":"%s","service":"%s","level":"%s","latency_ms":%.3f,"price":%d.%02d,`,
			r.Intn(5_000_000), regions[r.Intn(len(regions))], services[r.Intn(len(services))], levels[r.Intn(len(levels))],
			r.ExpFloat64()*20, r.Intn(900), r.Intn(100))...)
		for f := 0; len(b) < size-2; f++ {
			if f%2 == 0 {
				b = append(b, fmt.Sprintf(`"message_%d":"`, f)...)
				for w := 0; w < 9; w++ {
					b = append(b, words[r.Intn(len(words))]...)
					b = append(b, ' ')
				}
			} else {
				b = append(b, fmt.Sprintf(`"token_%d":"`, f)...)
				for w := 0; w < 64; w++ {
					b = append(b, alpha[r.Intn(64)])
				}
			}
			b = append(b, '"', ',')
		}
		b = b[:size-2]
		b = append(b, '"', '}')
		p.pool = append(p.pool, b)
	}
	return p
}

const hexd = "0123456789abcdef"

func putHex(b []byte, v uint64, n int) {
	for i := n - 1; i >= 0; i-- {
		b[i] = hexd[v&15]
		v >>= 4
	}
}

func getHex(b []byte) (uint64, bool) {
	var v uint64
	for _, ch := range b {
		var d byte
		switch {
		case ch >= '0' && ch <= '9':
			d = ch - '0'
		case ch >= 'a' && ch <= 'f':
			d = ch - 'a' + 10
		default:
			return 0, false
		}
		v = v<<4 | uint64(d)
	}
	return v, true
}

// value returns a fresh value carrying seq and ts, and a crc of everything else.
func (p *payloads) value(seq uint64, ts int64, withCRC bool) []byte {
	src := p.pool[(seq*2654435761)%poolSize]
	b := make([]byte, len(src))
	copy(b, src)
	putHex(b[seqOff:], seq, 16)
	putHex(b[tsOff:], uint64(ts), 16)
	if withCRC {
		putHex(b[crcOff:], uint64(crc32.Checksum(b, castagnoli)), 8)
	}
	return b
}

// check returns seq and whether the embedded crc holds.
func check(b []byte) (uint64, uint32, bool) {
	if len(b) < headLen {
		return 0, 0, false
	}
	seq, ok := getHex(b[seqOff : seqOff+16])
	want, ok2 := getHex(b[crcOff : crcOff+8])
	if !ok || !ok2 {
		return seq, 0, false
	}
	t := make([]byte, len(b))
	copy(t, b)
	copy(t[crcOff:], "00000000")
	return seq, uint32(want), uint32(want) == crc32.Checksum(t, castagnoli)
}

// ratio is raw bytes over zstd-compressed bytes of a 64-record batch.
func (p *payloads) ratio() float64 {
	enc, _ := zstd.NewWriter(nil)
	var raw []byte
	for i := uint64(0); i < 64; i++ {
		raw = append(raw, p.value(i, time.Now().UnixNano(), true)...)
	}
	return float64(len(raw)) / float64(len(enc.EncodeAll(raw, nil)))
}
