package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func offsets(ctx context.Context, c config) (start, end map[int32]int64, err error) {
	cl, err := kgo.NewClient(baseOpts(c)...)
	if err != nil {
		return nil, nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	so, err := adm.ListStartOffsets(ctx, c.topic)
	if err != nil {
		return nil, nil, fmt.Errorf("list start offsets: %w", err)
	}
	eo, err := adm.ListEndOffsets(ctx, c.topic)
	if err != nil {
		return nil, nil, fmt.Errorf("list end offsets: %w", err)
	}
	start, end = map[int32]int64{}, map[int32]int64{}
	var ferr error
	so.Each(func(o kadm.ListedOffset) {
		if o.Err != nil {
			ferr = o.Err
		}
		start[o.Partition] = o.Offset
	})
	eo.Each(func(o kadm.ListedOffset) {
		if o.Err != nil {
			ferr = o.Err
		}
		end[o.Partition] = o.Offset
	})
	return start, end, ferr
}

func consumeMax(ctx context.Context, c config, out map[string]any) error {
	so, eo, err := offsets(ctx, c)
	if err != nil {
		return err
	}
	var want int64
	left := map[int32]int64{}
	for p, e := range eo {
		if e > so[p] {
			want += e - so[p]
			left[p] = e
		}
	}
	out["offset_span"] = want
	out["partitions"] = len(eo)
	if want == 0 {
		return errors.New("topic is empty")
	}
	opts := append(baseOpts(c),
		kgo.ConsumeTopics(c.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(int32(c.fetchMax)),
		kgo.FetchMaxPartitionBytes(int32(c.fetchPart)),
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.MaxConcurrentFetches(3),
	)
	if c.group != "" {
		opts = append(opts, kgo.ConsumerGroup(c.group), kgo.DisableAutoCommit())
	}
	var recs, bytes, understated int64
	var ec errCount
	var mu sync.Mutex
	cctx, stop := context.WithCancel(ctx)
	defer stop()
	start := time.Now()
	var first, last time.Duration
	var wg sync.WaitGroup
	progress := time.Now()
	for i := 0; i < c.consumers; i++ {
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			return err
		}
		defer cl.Close()
		wg.Add(1)
		go func() {
			defer wg.Done()
			for cctx.Err() == nil {
				pctx, pc := context.WithTimeout(cctx, time.Second)
				fs := cl.PollFetches(pctx)
				pc()
				mu.Lock()
				fs.EachError(func(_ string, _ int32, err error) {
					if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
						ec.add(err)
					}
				})
				if first == 0 && fs.NumRecords() > 0 {
					first = time.Since(start)
				}
				n := 0
				fs.EachPartition(func(p kgo.FetchTopicPartition) {
					if k := len(p.Records); k > 0 && p.HighWatermark > eo[p.Partition] {
						understated += p.HighWatermark - eo[p.Partition] // ListOffsets said less than Fetch does
						eo[p.Partition] = p.HighWatermark
						left[p.Partition] = p.HighWatermark
					}
				})
				fs.EachRecord(func(r *kgo.Record) {
					recs++
					n++
					bytes += int64(len(r.Value) + len(r.Key))
					if e, ok := left[r.Partition]; ok && r.Offset >= e-1 {
						delete(left, r.Partition)
					}
				})
				if n > 0 {
					progress = time.Now()
					last = time.Since(start)
				}
				done := len(left) == 0 || c.count > 0 && recs >= c.count || time.Since(progress) > 15*time.Second
				mu.Unlock()
				if done {
					stop()
				}
			}
		}()
	}
	wg.Wait()
	if last <= 0 {
		last = time.Since(start)
	}
	out["records"] = recs
	out["seconds"] = round(last.Seconds(), 3)
	out["records_s"] = round(float64(recs)/last.Seconds(), 0)
	out["mb_s"] = round(float64(bytes)/1e6/last.Seconds(), 2)
	if understated > 0 {
		out["end_offsets_understated_by"] = understated
	}
	out["first_record_ms"] = round(float64(first.Microseconds())/1000, 1)
	ec.put(out)
	if len(left) > 0 && c.count == 0 {
		out["unfinished_partitions"] = len(left)
		return fmt.Errorf("read %d of %d records, then no progress", recs, want)
	}
	return ctx.Err()
}

// sortedParts keeps output stable.
func sortedParts(m map[int32]int64) []int32 {
	var ps []int32
	for p := range m {
		ps = append(ps, p)
	}
	sort.Slice(ps, func(i, j int) bool { return ps[i] < ps[j] })
	return ps
}
