package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

func produceMax(ctx context.Context, c config, out map[string]any) error {
	opts, err := ready(ctx, &c, out)
	if err != nil {
		return err
	}
	p := newPayloads(c.recordBytes)
	out["zstd_ratio"] = round(p.ratio(), 2)
	out["producers"] = c.producers
	var acked, ackedBytes, seq atomic.Int64
	var ec errCount
	var hmu sync.Mutex
	h := newHist()
	var lastAck atomic.Int64
	// one warm-up record so that connection set-up and topic discovery are not timed
	var cls []*kgo.Client
	for i := 0; i < c.producers; i++ {
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			return err
		}
		defer cl.Close()
		w := kgo.SliceRecord(p.value(0, time.Now().UnixNano(), false))
		if err := cl.ProduceSync(ctx, w).FirstErr(); err != nil {
			return fmt.Errorf("warm-up produce: %w", err)
		}
		cls = append(cls, cl)
	}
	start := time.Now()
	var deadline time.Time
	if c.seconds > 0 {
		deadline = start.Add(time.Duration(c.seconds * float64(time.Second)))
	}
	var wg sync.WaitGroup
	for _, cl := range cls {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				n := seq.Add(1)
				if c.count > 0 && n > c.count {
					return
				}
				if !deadline.IsZero() && n%64 == 0 && time.Now().After(deadline) || ctx.Err() != nil {
					return
				}
				t0 := time.Now()
				r := kgo.SliceRecord(p.value(uint64(n), t0.UnixNano(), false))
				r.Key = key(c, uint64(n))
				cl.Produce(ctx, r, func(r *kgo.Record, err error) {
					if err != nil {
						ec.add(err)
						return
					}
					acked.Add(1)
					ackedBytes.Add(int64(len(r.Value) + len(r.Key)))
					now := time.Now()
					lastAck.Store(now.UnixNano())
					hmu.Lock()
					_ = h.RecordValue(now.Sub(t0).Microseconds())
					hmu.Unlock()
				})
			}
		}()
	}
	wg.Wait()
	for _, cl := range cls {
		if err := cl.Flush(ctx); err != nil {
			ec.add(err)
		}
	}
	el := time.Duration(lastAck.Load() - start.UnixNano())
	if el <= 0 {
		el = time.Since(start)
	}
	out["records"] = acked.Load()
	out["seconds"] = round(el.Seconds(), 3)
	out["records_s"] = round(float64(acked.Load())/el.Seconds(), 0)
	out["mb_s"] = round(float64(ackedBytes.Load())/1e6/el.Seconds(), 2)
	out["ack_latency"] = hist(h)
	ec.put(out)
	return nil
}

// paced calls f(seq, intended) at a fixed rate, never slowing for the receiver.
func paced(ctx context.Context, rate, seconds float64, count int64, f func(seq int64, intended time.Time)) int64 {
	start := time.Now()
	total := int64(rate * seconds)
	if seconds == 0 {
		total = count
	} else if count > 0 && count < total {
		total = count
	}
	gap := float64(time.Second) / rate
	for i := int64(0); i < total; i++ {
		at := start.Add(time.Duration(float64(i) * gap))
		if d := time.Until(at); d > 200*time.Microsecond {
			time.Sleep(d)
		}
		if ctx.Err() != nil {
			return i
		}
		f(i, at)
	}
	return total
}

// steady sends records at --rate, whatever the answers do, and measures from the
// intended time of each until it is acknowledged.
type steady struct {
	sent  int64
	acked atomic.Int64
	ec    errCount

	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

func (s *steady) send(ctx context.Context, c config, cl *kgo.Client, p *payloads) {
	s.sent = paced(ctx, c.rate, c.seconds, c.count, func(seq int64, at time.Time) {
		r := kgo.SliceRecord(p.value(uint64(seq), at.UnixNano(), false))
		r.Key = key(c, uint64(seq))
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				s.ec.add(err)
				return
			}
			s.acked.Add(1)
			d := time.Since(at)
			s.mu.Lock()
			_ = s.h.RecordValue(d.Microseconds())
			s.mu.Unlock()
		})
	})
}

func produceRate(ctx context.Context, c config, out map[string]any) error {
	if c.buffered == 0 {
		c.buffered = 2_000_000_000 / c.recordBytes
	}
	opts, err := ready(ctx, &c, out)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	p := newPayloads(c.recordBytes)
	for i := 0; i < 10; i++ {
		if err := cl.ProduceSync(ctx, kgo.SliceRecord(p.value(0, 0, false))).FirstErr(); err != nil {
			return fmt.Errorf("warm-up produce: %w", err)
		}
	}
	s := &steady{h: newHist()}
	start := time.Now()
	s.send(ctx, c, cl, p)
	sendSecs := time.Since(start).Seconds()
	if err := cl.Flush(ctx); err != nil {
		s.ec.add(err)
	}
	el := time.Since(start).Seconds()
	out["target_rate"] = c.rate
	out["sent"] = s.sent
	out["sent_rate"] = round(float64(s.sent)/sendSecs, 0)
	out["records"] = s.acked.Load()
	out["records_s"] = round(float64(s.acked.Load())/el, 0)
	out["mb_s"] = round(float64(s.acked.Load())*float64(c.recordBytes)/1e6/el, 2)
	out["seconds"] = round(el, 3)
	out["ack_latency"] = hist(s.h)
	s.ec.put(out)
	return nil
}
