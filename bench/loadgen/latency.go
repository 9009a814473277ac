package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func e2e(ctx context.Context, c config, out map[string]any) error {
	opts, err := ready(ctx, &c, out)
	if err != nil {
		return err
	}
	prod, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer prod.Close()
	cons, err := kgo.NewClient(append(baseOpts(c),
		kgo.ConsumeTopics(c.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.FetchMinBytes(1), kgo.FetchMaxWait(500*time.Millisecond))...)
	if err != nil {
		return err
	}
	defer cons.Close()
	p := newPayloads(c.recordBytes)
	const mark = uint64(1) << 62
	h, s := newHist(), &steady{h: newHist()}
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var dups int64
	warm := make(chan struct{})
	var once sync.Once
	var got atomic.Int64
	cctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for cctx.Err() == nil {
			fs := cons.PollFetches(cctx)
			now := time.Now().UnixNano()
			fs.EachError(func(_ string, _ int32, err error) {
				if !errors.Is(err, context.Canceled) {
					s.ec.add(err)
				}
			})
			mu.Lock()
			fs.EachRecord(func(r *kgo.Record) {
				seq, _ := getHex(r.Value[seqOff : seqOff+16])
				ts, _ := getHex(r.Value[tsOff : tsOff+16])
				if seq >= mark {
					once.Do(func() { close(warm) })
					return
				}
				if seen[seq] {
					dups++
					return
				}
				seen[seq] = true
				got.Add(1)
				_ = h.RecordValue((now - int64(ts)) / 1000)
			})
			mu.Unlock()
		}
	}()
	// warm both sides: send until the consumer sees one
	for i := uint64(0); ; i++ {
		if err := prod.ProduceSync(ctx, kgo.SliceRecord(p.value(mark+i, 0, false))).FirstErr(); err != nil {
			return fmt.Errorf("warm-up produce: %w", err)
		}
		select {
		case <-warm:
		case <-time.After(100 * time.Millisecond):
			if i > 300 {
				return errors.New("consumer saw nothing during warm-up")
			}
			continue
		}
		break
	}
	time.Sleep(500 * time.Millisecond)
	start := time.Now()
	s.send(ctx, c, prod, p)
	_ = prod.Flush(ctx)
	for i := 0; i < 200 && got.Load() < s.acked.Load(); i++ {
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	mu.Lock()
	defer mu.Unlock()
	out["target_rate"] = c.rate
	out["sent"] = s.sent
	out["acked"] = s.acked.Load()
	out["received"] = got.Load()
	out["duplicates"] = dups
	out["seconds"] = round(time.Since(start).Seconds(), 3)
	out["e2e_latency"] = hist(h)
	out["ack_latency"] = hist(s.h)
	s.ec.put(out)
	return nil
}

func syncLatency(ctx context.Context, c config, out map[string]any) error {
	if c.count == 0 {
		c.count = 2000
	}
	if err := ensureTopic(ctx, c, out); err != nil {
		return err
	}
	opts, err := producerOpts(ctx, c, out)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	p := newPayloads(c.recordBytes)
	for i := 0; i < 20; i++ {
		if err := cl.ProduceSync(ctx, kgo.SliceRecord(p.value(0, 0, false))).FirstErr(); err != nil {
			return fmt.Errorf("warm-up produce: %w", err)
		}
	}
	h := newHist()
	var ec errCount
	start := time.Now()
	var n int64
	for n = 0; n < c.count && (c.seconds == 0 || time.Since(start).Seconds() < c.seconds) && ctx.Err() == nil; n++ {
		r := kgo.SliceRecord(p.value(uint64(n), 0, false))
		r.Key = key(c, uint64(n))
		t := time.Now()
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			ec.add(err)
			continue
		}
		_ = h.RecordValue(time.Since(t).Microseconds())
	}
	el := time.Since(start).Seconds()
	out["records"] = h.TotalCount()
	out["seconds"] = round(el, 3)
	out["records_s"] = round(float64(h.TotalCount())/el, 1)
	out["sync_latency"] = hist(h)
	ec.put(out)
	return nil
}
