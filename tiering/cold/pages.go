package cold

import (
	"container/list"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// pageLife is how long a page is believed. What it says stays readable after
// compaction has replaced it, until nobody has its objects any more; but
// whoever reads should not see for long what is no longer in the log.
const pageLife = time.Minute

// maxPages is how many pages of one partition are kept: readers at as many
// places don't disturb each other.
const maxPages = 16

// pages keeps segment entries as the catalogue returned them. The least
// recently used page goes first.
type pages struct {
	limit int // entries

	mu      sync.Mutex
	parts   map[kafka.TopicPartition][]*page // the newest last
	order   *list.List                       // of *page, the most recently used first
	entries int
}

// page is all segments of a partition that hold offsets from `from` up to the
// end of the last one. segs is not empty and never changes.
type page struct {
	tp   kafka.TopicPartition
	from kafka.Offset
	segs []catalog.Segment
	at   time.Time // when it was read
	elem *list.Element
}

func newPages(limit int) *pages {
	return &pages{limit: limit, parts: make(map[kafka.TopicPartition][]*page), order: list.New()}
}

// lookup returns the segment that holds an offset or is the next one behind it, if a
// page knows.
func (p *pages) lookup(tp kafka.TopicPartition, off kafka.Offset) (catalog.Segment, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pg := range slices.Backward(p.parts[tp]) {
		i := sort.Search(len(pg.segs), func(i int) bool { return pg.segs[i].End > off })
		if off >= pg.from && i < len(pg.segs) && time.Since(pg.at) < pageLife {
			p.order.MoveToFront(pg.elem)
			return pg.segs[i], true
		}
	}
	return catalog.Segment{}, false
}

// add keeps what the catalogue returned for an offset; segs is not empty.
func (p *pages) add(tp kafka.TopicPartition, from kafka.Offset, segs []catalog.Segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// What the new page covers of older ones is as new or newer.
	end := segs[len(segs)-1].End
	for _, old := range slices.Clone(p.parts[tp]) {
		if old.from >= from && old.segs[len(old.segs)-1].End <= end {
			p.drop(old)
		}
	}
	if len(p.parts[tp]) >= maxPages {
		p.drop(p.parts[tp][0])
	}
	pg := &page{tp: tp, from: from, segs: segs, at: time.Now()}
	pg.elem = p.order.PushFront(pg)
	p.parts[tp] = append(p.parts[tp], pg)
	p.entries += len(segs)
	for p.entries > p.limit && p.order.Len() > 1 {
		p.drop(p.order.Back().Value.(*page))
	}
}

func (p *pages) remove(tp kafka.TopicPartition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pg := range slices.Clone(p.parts[tp]) {
		p.drop(pg)
	}
}

// drop is called with mu held.
func (p *pages) drop(pg *page) {
	p.order.Remove(pg.elem)
	p.entries -= len(pg.segs)
	left := slices.DeleteFunc(p.parts[pg.tp], func(other *page) bool { return other == pg })
	if len(left) == 0 {
		delete(p.parts, pg.tp)
		return
	}
	p.parts[pg.tp] = left
}
