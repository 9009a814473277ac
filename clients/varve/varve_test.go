package varve_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/varvelog/varve/clients/varve"
)

func cluster() varve.Config { return varve.Config{Bootstrap: []string{address}} }

func fill(t *testing.T, topic string, n int) {
	t.Helper()
	p, err := varve.NewProducer(t.Context(), cluster())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		p.Send(t.Context(), &varve.Record{Topic: topic, Value: []byte(strconv.Itoa(i))}, func(_ *varve.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func consumer(t *testing.T, s varve.Subscription) *varve.Consumer {
	t.Helper()
	c, err := varve.NewConsumer(t.Context(), cluster(), s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// take returns the offsets of the next n records.
func take(t *testing.T, c *varve.Consumer, n int) (offsets []int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for r, err := range c.Records(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if offsets = append(offsets, r.Offset); len(offsets) == n {
			break
		}
	}
	return offsets
}

// A loop that ends by break has handled its last record, whatever else was
// received with it: neither the same consumer nor the group's next member sees it again,
// and none is passed over.
func TestConsumerGoesOnBehindBreak(t *testing.T) {
	fill(t, "break", 10)
	c := consumer(t, varve.Subscription{Topics: []string{"break"}, Group: "break"})
	got := append(take(t, c, 3), take(t, c, 2)...)
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = consumer(t, varve.Subscription{Topics: []string{"break"}, Group: "break"})
	got = append(got, take(t, c, 5)...)
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, o := range got {
		if o != int64(i) {
			t.Fatalf("offsets %v", got)
		}
	}
}

func TestConsumerFrom(t *testing.T) {
	fill(t, "from", 5)
	for _, c := range []struct {
		from varve.Bound
		want int64
	}{{varve.Bound{}, 0}, {varve.Offset(3), 3}, {varve.Time(time.Now().Add(-time.Hour)), 0}} {
		cl := consumer(t, varve.Subscription{Topics: []string{"from"}, From: c.from})
		if got := take(t, cl, 1); got[0] != c.want {
			t.Errorf("from %v: offset %d, want %d", c.from, got[0], c.want)
		}
		if err := cl.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestRecordsEndWithContext(t *testing.T) {
	fill(t, "context", 1)
	c := consumer(t, varve.Subscription{Topics: []string{"context"}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	records := 0
	var last error
	for _, err := range c.Records(ctx) {
		if last = err; err == nil {
			records++
			cancel()
		}
	}
	if records != 1 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d records, then %v", records, last)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEnsureTopic(t *testing.T) {
	a, err := varve.NewAdmin(t.Context(), cluster())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, c := range []struct {
		partitions int32
		settings   map[string]string
		err        string
	}{
		{3, map[string]string{"retention.ms": "none"}, "retention.ms"},
		{3, map[string]string{"retention.ms": "-1"}, ""},
		{3, nil, ""},
		{-1, nil, ""},
		{4, nil, "has 3 partitions, not 4"},
	} {
		err := a.EnsureTopic(t.Context(), "ensured", c.partitions, c.settings)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("EnsureTopic(%d, %v): %v, want %q", c.partitions, c.settings, err, c.err)
		}
	}
}

func TestOpenFails(t *testing.T) {
	nobody := varve.Config{Bootstrap: []string{"127.0.0.1:1"}, Timeout: 200 * time.Millisecond}
	if _, err := varve.NewProducer(t.Context(), nobody); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("producer of no cluster: %v", err)
	}
	if _, err := varve.NewConsumer(t.Context(), cluster(), varve.Subscription{}); err == nil {
		t.Error("a consumer of no topics")
	}
	if _, err := varve.OpenBucket(t.Context(), varve.Bucket{Bucket: "b"}); err == nil {
		t.Error("a log without a table")
	}
}

// A broker may be killed as a connection to it begins: what is under way goes on with the next one.
func TestEndsAsItBegins(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for n := 0; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if n == 0 {
				_, _ = conn.Read(make([]byte, 4096)) // so that it ends in order, not by a reset
				_ = conn.Close()
				continue
			}
			broker, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			go func() { _, _ = io.Copy(broker, conn) }()
			go func() { _, _ = io.Copy(conn, broker) }()
		}
	}()
	p, err := varve.NewProducer(t.Context(), varve.Config{Bootstrap: []string{ln.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
