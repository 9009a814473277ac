package slot

import "github.com/varvelog/varve/engine/partition"

// A full disk stays full: before WAL objects and checkpoints can go, the hot
// records in them are written a second time. So there is always left as much
// room as that takes, while produce is refused, and the keeper gets to work
// before that:
//
//	hot records   0 ──────── ½ ──────── 1 of half the room, by live sessions ──▶
//	                          all that is long is sealed   produce is refused
//
// The other half is for what else writes: packs that are reserved ahead,
// compaction, the catalogue.

// hotCount is how many bytes were hot when the WAL had so many.
type hotCount struct{ hot, at int64 }

// countHot counts the bytes that are hot now: what is written later is added,
// what is sealed later is not taken off until the next count.
func (k *keeper) countHot() {
	if k.m.o.Room == nil {
		return
	}
	c := hotCount{hot: k.m.dormantBytes(), at: k.m.wal.Position().Bytes}
	for _, l := range k.m.set.All() {
		c.hot += l.HotBytes()
	}
	k.counted.Store(&c)
}

// unsealed returns about how many bytes are hot, or are to be.
func (k *keeper) unsealed() int64 {
	p := k.m.wal.Position()
	n := p.Bytes + p.Pending
	if c := k.counted.Load(); c != nil {
		n += c.hot - c.at
	}
	return n
}

// cramped returns the hot bytes, with some more, in parts of the room that there is for them; 0
// where there is no end of it.
func (k *keeper) cramped(more int64) float64 {
	if k.m.o.Room == nil {
		return 0
	}
	share := k.m.o.Room() / 2 / int64(max(1, len(k.m.o.View.Now().Live())))
	return float64(k.unsealed()+more) / float64(max(1, share))
}

// own returns the bytes from which a partition's tail is sealed at a
// checkpoint. Where there is little room that is half of the average, and what is shorter is
// less than half of all.
func (k *keeper) own(logs []*partition.Log) int64 {
	if k.cramped(0) < urgent {
		return ownSegment
	}
	return max(1, min(ownSegment, k.unsealed()/2/int64(max(1, len(logs)))))
}
