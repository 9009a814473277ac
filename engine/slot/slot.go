// Package slot holds slots for one session of a broker: it ends the sessions
// that this broker id left behind, begins a new one, takes the slots, rebuilds
// their partitions from checkpoints and WAL footers, and then keeps their tails short:
// rolls segments, writes checkpoints, trims the WAL.
//
// Nothing here decides by a clock what is safe. A predecessor is ended by the
// seal in its WAL, a slot is taken by a commit that checks that seal, and a WAL
// object goes only after the slot items that named it no longer do.
//
//	Begin ─▶ fence, seal, record ─▶ new session ─▶ take slots ─▶ recover ─▶ Reconcile opens the logs
//	Run   ─▶ WAL writer │ keeper: seal segments → checkpoint → commit slots → trim
//	Leave ─▶ flush ─▶ checkpoint ─▶ own seal ─▶ record
package slot

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/cold"
	"github.com/varvelog/varve/tiering/objcache"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/wal"
)

// ErrForeignSlot means that a live session of another broker owns a slot that
// this one would have to take.
var ErrForeignSlot = errors.New("slot: owned by a live session of another broker")

// Options are what a session needs. All fields but the metrics
// are required.
type Options struct {
	Catalog    *catalog.Catalog
	Store      objstore.Store
	Cache      *objcache.Cache
	Cold       *cold.Reader
	Config     func() *config.Broker
	Broker     int32  // this broker's id
	Addr       string // host:port that clients reach it at
	Rack       string
	Slots      int // of the cluster
	Logger     *slog.Logger
	Logs       *partition.Set     // where the session's open logs go
	LogMetrics *partition.Metrics // nil: none
	WALMetrics *wal.Metrics       // nil: none
}

func (o *Options) validate() error {
	switch {
	case o.Catalog == nil, o.Store == nil, o.Cache == nil, o.Cold == nil, o.Config == nil, o.Logger == nil, o.Logs == nil:
		return errors.New("slot options: a port is missing")
	case o.Slots <= 0:
		return fmt.Errorf("slot options: %d slots", o.Slots)
	}
	return nil
}

// Bounds on single calls to the catalogue and the object store.
const (
	callTimeout  = 30 * time.Second
	beginReads   = 32       // reads of the catalogue at a time when a session begins
	takeBatch    = 40       // slots in one take
	commitBatch  = 90       // slots in one checkpoint commit
	maxCkpts     = 8        // checkpoints a slot names before they are merged
	ownSegment   = 16 << 20 // hot bytes from which a partition gets a segment of its own at a checkpoint
	leaveBytes   = 64 << 20 // of WAL that a leaving session still gathers into a checkpoint
	trimBatch    = 1000     // objects in one delete
	keeperPeriod = time.Second
	watchPeriod  = time.Second      // between two looks at the session's own item
	expirePeriod = 10 * time.Minute // of looking for idle producer ids, as Kafka does
)
