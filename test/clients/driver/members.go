package driver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Members counts the partitions that each member of a group has.
type Members struct {
	mu      sync.Mutex
	have    map[string]int
	changed chan struct{}
}

// NewMembers returns a count of nothing.
func NewMembers() *Members {
	return &Members{have: make(map[string]int), changed: make(chan struct{}, 1)}
}

// Set says how many partitions a member has now; a member that left has -1.
func (m *Members) Set(member string, partitions int) {
	m.mu.Lock()
	m.have[member] = partitions
	if partitions < 0 {
		delete(m.have, member)
	}
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Add changes how many partitions a member has.
func (m *Members) Add(member string, by int) {
	m.mu.Lock()
	n := m.have[member] + by
	m.mu.Unlock()
	m.Set(member, n)
}

// Await waits until the members have these numbers of partitions, in any order.
func (m *Members) Await(ctx context.Context, want ...int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		m.mu.Lock()
		var have []int
		for _, n := range m.have {
			have = append(have, n)
		}
		m.mu.Unlock()
		slices.Sort(have)
		if slices.Equal(have, want) {
			return nil
		}
		select {
		case <-m.changed:
		case <-ctx.Done():
			return fmt.Errorf("members have %v partitions, want %v", have, want)
		}
	}
}

// Rebalance starts a member, a second one, and ends the second, and waits each
// time until the topic's 4 partitions are spread evenly. member runs a member
// of the given name until its context ends, keeping the count up to date.
func Rebalance(ctx context.Context, member func(ctx context.Context, name string, m *Members) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := NewMembers()
	var wg sync.WaitGroup
	start := func(name string) func() {
		ctx, stop := context.WithCancel(ctx)
		wg.Go(func() {
			if err := member(ctx, name, m); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("member %s: %w", name, err))
			}
			m.Set(name, -1)
		})
		return stop
	}
	defer wg.Wait()
	defer start("a")()
	if err := m.Await(ctx, 4); err != nil {
		return fmt.Errorf("one member: %w %v", err, context.Cause(ctx))
	}
	stop := start("b")
	defer stop()
	if err := m.Await(ctx, 2, 2); err != nil {
		return fmt.Errorf("two members: %w %v", err, context.Cause(ctx))
	}
	stop()
	if err := m.Await(ctx, 4); err != nil {
		return fmt.Errorf("one left: %w %v", err, context.Cause(ctx))
	}
	return nil
}
