// Package slot holds slots for one session of a broker. Any number of brokers
// do, over one catalogue and one object store, without a controller: each
// ends sessions that are suspected, takes the slots of those whose heir it is for who should have them by what all
// see, rebuilds the partitions of its own from checkpoints and WAL footers, keeps their
// tails short (rolls segments, writes checkpoints, trims the WAL), and hands slots over
// where others should have them.
//
// Nothing here decides by a clock what is safe. A session is ended by the
// seal in its WAL, a slot changes hands by a commit that checks what it stands on, and a WAL
// object goes only after the slot items that named it no longer do.
//
//	Begin ─▶ fence, seal, record own predecessors ─▶ new session ─▶ turn
//	turn  ─▶ finish what others have fenced ─▶ take what is nobody's, as its heir for all ─▶ recover, open what is mine
//	Run   ─▶ WAL writer │ beat: renew, watch, suspect │ owner: fence, turn │ keeper: seal segments → checkpoint → commit
//	         slots → trim; hand over │ follow: open and close logs as topics come and go │ spread: balance by load
//	Leave ─▶ hand over ─▶ flush ─▶ checkpoint ─▶ own seal ─▶ record
//
// A slot is held here between being opened and being given away:
//
//	catalogue: mine ─▶ recover ─▶ held ─▶ stopped (no appends) ─▶ flushed ─▶ handed over ─▶ another's
//	                               ▲                                │ unknown
//	                               └──── read, or written with epoch+1 by myself ◀──┘
package slot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/wal"
)

// Options are what a session needs. All fields but the metrics, Room, Dial
// and Follows are required.
type Options struct {
	Catalog    *catalog.Catalog
	Store      objstore.Store
	Cache      *objcache.Cache
	Cold       *cold.Reader
	Config     func() *config.Broker
	Broker     int32  // this broker's id
	Addr       string // host:port that clients reach it at
	Rack       string
	View       *member.View // of the same catalogue
	Logger     *slog.Logger
	Logs       *partition.Set     // where the session's open logs go
	LogMetrics *partition.Metrics // nil: none
	WALMetrics *wal.Metrics       // nil: none
	// Room returns the bytes that the object store has room for, on a disk that all live sessions share. It is
	// called for each produce request. Nil: no end of it.
	Room func() int64
	// Dial connects to another broker's address, to see when it has gone; an
	// error that wraps syscall.ECONNREFUSED says that nobody listens there. Nil: only heartbeats tell.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Follows is the newest session of this process, the zero value where there was none; Begin puts
	// the one that it begins there. Where another process has begun one of this broker id since, Begin
	// fails with catalog.ErrSuperseded. Nil: whatever there was.
	Follows *catalog.Session
}

func (o *Options) validate() error {
	switch {
	case o.Catalog == nil, o.Store == nil, o.Cache == nil, o.Cold == nil, o.Config == nil, o.Logger == nil, o.Logs == nil, o.View == nil:
		return errors.New("slot options: a port is missing")
	case o.View.Slots <= 0:
		return fmt.Errorf("slot options: %d slots", o.View.Slots)
	}
	return nil
}

// Bounds on single calls to the catalogue and the object store.
const (
	callTimeout  = 30 * time.Second
	parallel     = 32          // reads of the catalogue at a time
	moveBatch    = 50          // slots in one hand-over, during which they wait
	takeBatch    = 97          // slots, their former owners and their new ones in one take, which has two more items
	hastyFor     = time.Second // in which the WAL's interval is short behind a change of owner
	fewSlots     = 8           // slots that are read one by one
	commitBatch  = 90          // slots in one checkpoint commit
	maxCkpts     = 8           // checkpoints a slot names before they are merged
	ownSegment   = 16 << 20    // hot bytes from which a partition gets a segment of its own at a checkpoint
	leaveBytes   = 64 << 20    // of WAL that a leaving session still gathers into a checkpoint
	moveObjects  = 16          // of WAL behind the newest checkpoint with which a slot is handed over
	trimBatch    = 1000        // objects in one delete
	urgent       = 0.5         // of what may be hot where there is little room: a checkpoint is written
	keeperPeriod = time.Second
	sweepPeriod  = time.Minute
	expirePeriod = 10 * time.Minute // of looking for idle producer ids, as Kafka does
)

// numbers returns the numbers of slots, in their order.
func numbers(slots []catalog.Slot) []kafka.Slot {
	all := make([]kafka.Slot, len(slots))
	for i, s := range slots {
		all[i] = s.Slot
	}
	return all
}

// setOf returns the numbers of slots, to ask whether one is among them.
func setOf(slots []catalog.Slot) map[kafka.Slot]bool {
	set := make(map[kafka.Slot]bool, len(slots))
	for _, s := range slots {
		set[s.Slot] = true
	}
	return set
}
