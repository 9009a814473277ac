package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/varvelog/varve/tiering/objstore"
)

// savedBytes bounds the keys that a job's state has of what is held. It has room
// for one lot of the longest keys of writers, and an item for all of it.
const savedBytes = 200 << 10

// errLater ends a run whose time is over before something held may be deleted.
var errLater = errors.New("what is held is deleted by a later run")

// lot are objects that are to be deleted at one time.
type lot struct {
	objects []objstore.Info
	why     []string
	due     time.Time
	upTo    string // the listing's last key that was judged with them
}

// savedLot is a lot in the job's state: what it was judged holds for ever, so
// a later run that finds it due deletes it.
type savedLot struct {
	Objects []objstore.Info `json:"objects"`
	Why     string          `json:"why"` // of the first
	Due     int64           `json:"due"` // ms
	UpTo    string          `json:"upTo"`
}

// save returns the first lots, as many as there is room for.
func save(held []lot) (all []savedLot) {
	room := savedBytes
	for _, l := range held {
		for _, o := range l.objects {
			room -= len(o.Key)
		}
		if room < 0 {
			break
		}
		all = append(all, savedLot{Objects: l.objects, Why: l.why[0], Due: l.due.UnixMilli(), UpTo: l.upTo})
	}
	return all
}

// restore returns the lots of an earlier run. None is due later than if it had
// been found now: the clock may have been ahead.
func restore(saved []savedLot, latest time.Time) (held []lot) {
	for _, s := range saved {
		due := time.UnixMilli(s.Due)
		if due.After(latest) {
			due = latest
		}
		held = append(held, lot{objects: s.Objects, why: slices.Repeat([]string{s.Why}, len(s.Objects)), due: due, upTo: s.UpTo})
	}
	return held
}

// delete deletes the lot that was held first, when it is due.
func (p *pass) delete(ctx context.Context) error {
	l := p.held[0]
	if err := p.wait(ctx, l.due); err != nil {
		return err
	}
	keys := make([]string, len(l.objects))
	for i, o := range l.objects {
		keys[i] = o.Key
	}
	if err := bounded(ctx, func(ctx context.Context) error { return p.Store.Delete(ctx, keys...) }); err != nil {
		return fmt.Errorf("delete %d objects from %s on: %w", len(keys), keys[0], err)
	}
	for i, o := range l.objects {
		p.stats.Bytes += o.Size
		p.Deleted(o, l.why[i])
	}
	p.stats.Objects += int64(len(keys))
	p.Logger.Info("objects swept", "count", len(keys), "from", keys[0], "why", l.why[0])
	p.held, p.after = p.held[1:], l.upTo
	return p.record(ctx)
}

// wait returns at a time, and keeps the lease until then; errLater where the
// run's own time is over before.
func (p *pass) wait(ctx context.Context, until time.Time) error {
	if end, ok := ctx.Deadline(); ok && end.Before(until) {
		return errLater
	}
	for d := time.Until(until); d > 0; d = time.Until(until) {
		select {
		case <-time.After(min(d, keepPeriod)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := p.record(ctx); err != nil {
			return err
		}
	}
	return nil
}
