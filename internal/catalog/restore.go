package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta"
)

// ErrRestoring means that a restoring of the catalogue was begun and not
// finished: it has to be run again before anything else works.
var ErrRestoring = errors.New("catalog: a rebuild was not finished")

// restoring is the feature level of a cluster whose catalogue is being
// restored: no program knows it, so none works on half a catalogue.
const restoring = math.MaxInt32

// changeRestored is the kind of the change that a restored catalogue begins with.
const changeRestored = "restored"

// restoreOps is how many items one commit of a restoring writes.
const restoreOps = 90

// Restorer writes a catalogue's items as they are told to it, whatever was there
// before. It is for one process at a time, while no broker and no function runs on the
// catalogue. Each of its calls may be repeated, after a kill as well: Begin
// makes the catalogue unusable, Finish makes it usable again.
type Restorer struct{ c *Catalog }

// Restorer returns one for this catalogue.
func (c *Catalog) Restorer() Restorer { return Restorer{c} }

// Begin begins, or goes on with what was begun and not finished. ErrExists: there
// is a cluster, and replace is false.
func (r Restorer) Begin(ctx context.Context, replace bool) error {
	err := again(ctx, func() error {
		item, err := r.c.get(ctx, clusterPK, infoSK)
		if err != nil {
			return err
		}
		attrs := meta.Attrs{"v": format, "id": "", "slots": int64(0), "level": int64(restoring)}
		if item.Version == 0 {
			topics, err := r.c.all(ctx, topicsPK, "")
			brokers, berr := r.c.all(ctx, "sessions", "")
			if err := errors.Join(err, berr); err != nil {
				return err
			}
			if len(topics)+len(brokers) > 0 && !replace {
				return ErrExists
			}
		} else {
			f := read(item)
			if f.int("level") == restoring || f.err != nil {
				return f.err
			}
			if !replace {
				return ErrExists
			}
			attrs = maps.Clone(item.Attrs)
			attrs["level"] = int64(restoring)
		}
		_, err = r.c.commit(ctx, meta.Put(item, attrs))
		return err
	})
	if err != nil {
		return fmt.Errorf("begin to restore: %w", err)
	}
	return nil
}

// Finish ends the restoring: from here on it is the catalogue of cl. The change
// feed goes on, or begins. What was noted as dead is so no more: it may be in the log again.
func (r Restorer) Finish(ctx context.Context, cl Cluster) error {
	if err := r.exactly(ctx, deadPK, "", nil); err != nil {
		return err
	}
	err := again(ctx, func() error {
		item, err := r.c.get(ctx, clusterPK, infoSK)
		if err != nil {
			return err
		}
		last, err := r.c.lastChange(ctx)
		if err != nil {
			return err
		}
		attrs := meta.Attrs{"v": format, "id": cl.ID, "slots": int64(cl.Slots), "level": int64(cl.Level)}
		_, err = r.c.commit(ctx, meta.Put(item, attrs), entry{kind: changeRestored}.create(last+1))
		return err
	})
	if err != nil {
		return fmt.Errorf("finish to restore: %w", err)
	}
	return nil
}

// Topics makes these the topics, without tombstones of others.
func (r Restorer) Topics(ctx context.Context, topics []Topic) error {
	want := make(map[string]meta.Attrs, len(topics))
	for _, t := range topics {
		want[t.Name] = t.attrs()
	}
	return errors.Join(r.exactly(ctx, topicsPK, "", want), r.exactly(ctx, "tombstones", "", nil))
}

// Brokers sets the dynamic settings of brokers ("": of all); others stay.
func (r Restorer) Brokers(ctx context.Context, configs map[string]map[string]string) error {
	for name, c := range configs {
		if err := r.put(ctx, "config", "broker/"+name, meta.Attrs{"v": format, "configs": jsonText(c)}); err != nil {
			return err
		}
	}
	return nil
}

// Segments makes these the entries of a partition.
func (r Restorer) Segments(ctx context.Context, tp kafka.TopicPartition, segs []Segment) error {
	want := make(map[string]meta.Attrs, len(segs))
	for _, s := range segs {
		want[segSK(s.Base)] = s.attrs()
	}
	return r.exactly(ctx, logPK(tp), "seg/", want)
}

// Slots makes these the slots' items.
func (r Restorer) Slots(ctx context.Context, slots []Slot) error {
	want := make(map[string]meta.Attrs, len(slots))
	for _, s := range slots {
		want[slotSK(s.Slot)] = s.attrs()
	}
	return r.exactly(ctx, slotsPK, "", want)
}

// LogStarts makes these the log starts of a slot.
func (r Restorer) LogStarts(ctx context.Context, slot kafka.Slot, starts map[kafka.TopicPartition]kafka.Offset) error {
	want := make(map[string]meta.Attrs, len(starts))
	for tp, off := range starts {
		want[tpSK(tp)] = startAttrs(tp, off)
	}
	return r.exactly(ctx, startsPK(slot), "", want)
}

// Sessions makes these the sessions, of brokers whose highest session epochs
// are at least those given. Heartbeats go.
func (r Restorer) Sessions(ctx context.Context, highest map[int32]int64, sessions []Session) error {
	known, err := r.c.SessionEpochs(ctx)
	if err != nil {
		return err
	}
	for b, e := range highest {
		known[b] = max(known[b], e)
	}
	all, want := make(map[string]meta.Attrs, len(known)), make(map[int32]map[string]meta.Attrs, len(known))
	for b, e := range known {
		all[brokerSK(b)] = meta.Attrs{"v": format, "broker": int64(b), "epoch": e}
		want[b] = make(map[string]meta.Attrs)
	}
	for _, s := range sessions {
		want[s.ID.Broker][fmt.Sprintf("%020d", s.ID.Epoch)] = s.attrs()
	}
	errs := []error{r.exactly(ctx, "sessions", "", all), r.exactly(ctx, heartbeatsPK, "", nil)}
	for b, w := range want {
		errs = append(errs, r.exactly(ctx, sessionPK(b), "", w))
	}
	return errors.Join(errs...)
}

// ProducerIDs sees to it that producer ids below next are never given to anyone.
func (r Restorer) ProducerIDs(ctx context.Context, next int64) error {
	return again(ctx, func() error {
		item, err := r.c.get(ctx, "pids", "next")
		if err != nil {
			return err
		}
		if f := read(item); item.Version > 0 && (f.int("next") >= next || f.err != nil) {
			return f.err
		}
		_, err = r.c.commit(ctx, meta.Put(item, meta.Attrs{"v": format, "next": next}))
		return err
	})
}

// LeaseEpoch sees to it that a job's next holder has an epoch above epoch.
func (r Restorer) LeaseEpoch(ctx context.Context, job string, epoch int64) error {
	return again(ctx, func() error {
		l, err := r.c.Lease(ctx, job)
		if err != nil || l.Epoch >= epoch {
			return err
		}
		l.Epoch = epoch
		_, err = r.c.writeLease(ctx, l)
		return err
	})
}

func (r Restorer) put(ctx context.Context, pk, sk string, attrs meta.Attrs) error {
	err := again(ctx, func() error {
		item, err := r.c.get(ctx, pk, sk)
		if err == nil {
			_, err = r.c.commit(ctx, meta.Put(item, attrs))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("restore %s %s: %w", pk, sk, err)
	}
	return nil
}

// exactly makes the items under pk whose sort keys have a prefix exactly those
// that are wanted, by sort key.
func (r Restorer) exactly(ctx context.Context, pk, prefix string, want map[string]meta.Attrs) error {
	err := again(ctx, func() error {
		items, err := r.c.all(ctx, pk, prefix)
		if err != nil {
			return err
		}
		var ops []meta.Op
		there := make(map[string]bool, len(items))
		for _, it := range items {
			there[it.SK] = true
			switch attrs, ok := want[it.SK]; {
			case !ok:
				ops = append(ops, meta.Delete(it))
			case !reflect.DeepEqual(attrs, it.Attrs):
				ops = append(ops, meta.Replace(it, attrs))
			}
		}
		for _, sk := range slices.Sorted(maps.Keys(want)) {
			if !there[sk] {
				ops = append(ops, meta.Create(meta.Key{PK: pk, SK: sk}, want[sk]))
			}
		}
		for batch := range slices.Chunk(ops, restoreOps) {
			if _, err := r.c.commit(ctx, batch...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("restore %s: %w", pk, err)
	}
	return nil
}
