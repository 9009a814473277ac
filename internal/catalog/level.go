package catalog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/varvelog/varve/internal/meta"
)

// changeLevel is the kind of the change that raised the feature level; its
// value is the new one.
const changeLevel = "level"

// Levels are the feature levels that a program works at.
type Levels struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// OrFirst returns those of a program that told none: it is older than levels.
func (l Levels) OrFirst() Levels {
	if l.Max == 0 {
		return Levels{1, 1}
	}
	return l
}

// ErrTooOld means that live brokers do not work at a feature level yet.
var ErrTooOld = errors.New("catalog: brokers that run do not work at that feature level")

// Level returns the cluster's feature level, without I/O, as the newest snapshot
// has it: what programs of that level and the next can read may be written.
func (c *Catalog) Level() int { return c.topics.Load().level }

func (c *Catalog) readLevel(ctx context.Context) (int, error) {
	item, err := c.get(ctx, clusterPK, infoSK)
	if err != nil || item.Version == 0 {
		return 0, err
	}
	cl, err := clusterOf(item)
	return cl.Level, err
}

// Behind returns the sessions, live or fenced, whose programs do not work at a
// feature level. A fenced one's process may begin another session.
func (m *Members) Behind(level int) []Member {
	var all []Member
	for _, s := range append(m.Live(), m.Fenced()...) {
		if l := s.Levels.OrFirst(); level < l.Min || level > l.Max {
			all = append(all, s)
		}
	}
	return all
}

// RaiseLevel raises the cluster's feature level, if all members work at the new
// one. Members that come meanwhile are seen, since their coming is in the change feed, and who
// comes later finds the new level. It never falls. ErrTooOld; ErrLevel: this program
// does not know the level; ErrNotFound: there is no cluster.
func (c *Catalog) RaiseLevel(ctx context.Context, to int) error {
	if to < MinLevel || to > Level {
		return fmt.Errorf("raise feature level: %w: %d", ErrLevel, to)
	}
	e := entry{kind: changeLevel, value: strconv.Itoa(to)}
	_, err := c.change(ctx, &e, func(now *Topics) ([]meta.Op, error) {
		if behind := now.members.Behind(to); len(behind) > 0 {
			names := make([]string, len(behind))
			for i, s := range behind {
				names[i] = fmt.Sprintf("%d (%s) up to %d", s.ID.Broker, s.Addr, s.Levels.OrFirst().Max)
			}
			return nil, fmt.Errorf("%w: broker %s", ErrTooOld, strings.Join(names, ", broker "))
		}
		item, err := c.get(ctx, clusterPK, infoSK)
		if err != nil {
			return nil, err
		}
		if item.Version == 0 {
			return nil, ErrNotFound
		}
		cl, err := clusterOf(item)
		if err != nil {
			return nil, err
		}
		if cl.Level >= to {
			return nil, errAsIs
		}
		return []meta.Op{meta.Replace(item, meta.Attrs{"v": format, "id": cl.ID, "slots": int64(cl.Slots), "level": int64(to)})}, nil
	})
	if err != nil && !errors.Is(err, errAsIs) {
		return fmt.Errorf("raise feature level to %d: %w", to, err)
	}
	return nil
}
