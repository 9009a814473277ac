// Package api speaks the Kafka protocol: it reads requests from connections,
// hands each to its handler, and writes the answers in order.
//
// There is one file for each API key, headed by its versions and behaviour,
// and one literal table of them (table.go), from which ApiVersions and
// docs/protocol.md come.
//
// A connection has two goroutines. The reader takes requests off the wire and
// runs the append half of Produce at once, so that the requests of a connection
// are appended in order while earlier ones still wait for durability. The
// answerer finishes them, and does all of the others, one after the other. At most 64
// requests and 64 MiB wait between the two; then reading stops.
package api

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/varvelog/varve/engine/group"
	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/engine/txn"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/wire"
)

// Options are what a Server needs. All but Await, Arrives, Wake, Follow and Registerer are required.
type Options struct {
	Catalog   *catalog.Catalog
	Logs      *partition.Set
	Groups    *group.Coordinator
	Txns      *txn.Coordinator
	Config    func() *config.Broker
	Self      Broker
	Cluster   func() *member.Cluster // of the moment
	ClusterID string
	// Admit waits until n more bytes may be appended; its error is retriable.
	Admit func(ctx context.Context, n int) error
	// Reconcile makes this broker's logs those of the newest topics.
	Reconcile func(ctx context.Context) error
	// Await waits until all live brokers act on all changes that this one has made. Nil: there are no others.
	Await func(ctx context.Context) error
	// Arrives waits a moment for a slot that is on its way here, and tells whether it is here. Nil: there are no others.
	Arrives func(ctx context.Context, slot kafka.Slot) bool
	// Wake waits a moment until those of the slots are awake that are dormant here. Nil: none ever is.
	Wake func(ctx context.Context, slots iter.Seq[kafka.Slot])
	// Follow reads for consumers in this broker's rack what others lead. Nil: there are no others.
	Follow *Follow
	// SetLogStart raises a log's start offset, durably.
	SetLogStart func(ctx context.Context, l *partition.Log, off kafka.Offset) error
	Logger      *slog.Logger
	Registerer  prometheus.Registerer // nil: no metrics
}

// Server serves connections.
type Server struct {
	o        Options
	metrics  *metrics
	sessions *fetchSessions
	table    []api
	byKey    map[int16]*api
	layouts  map[int16]wire.Layout
	ahead    *semaphore.Weighted // bytes that are read ahead
	frames   *semaphore.Weighted // bytes of large requests that have only begun to arrive
	wg       sync.WaitGroup      // the connections' goroutines

	mu      sync.Mutex
	conns   map[*conn]struct{}
	drained bool // no more requests are taken
}

// New returns a server.
func New(o Options) (*Server, error) {
	if o.Catalog == nil || o.Logs == nil || o.Groups == nil || o.Txns == nil || o.Config == nil || o.Cluster == nil || o.Admit == nil || o.Reconcile == nil || o.SetLogStart == nil || o.Logger == nil {
		return nil, errors.New("api options: something required is missing")
	}
	rows := table()
	s := &Server{
		o: o, metrics: newMetrics(o.Registerer, rows), table: rows,
		sessions: newFetchSessions(o.Config().FetchSessionSlots),
		byKey:    make(map[int16]*api, len(rows)),
		layouts:  layouts(),
		ahead:    semaphore.NewWeighted(maxAhead),
		frames:   semaphore.NewWeighted(maxArriving),
		conns:    make(map[*conn]struct{}),
	}
	for i := range rows {
		s.byKey[rows[i].key] = &rows[i]
	}
	return s, nil
}

// codeOf turns an error into the code that a client is told. What is not a
// protocol error itself is retriable where trying again may help.
func codeOf(err error) kafka.ErrorCode {
	var code kafka.ErrorCode
	switch {
	case err == nil:
		return kafka.None
	case errors.As(err, &code):
		return code
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, catalog.ErrUnknown):
		return kafka.RequestTimedOut
	case errors.Is(err, catalog.ErrNotFound):
		return kafka.UnknownTopicOrPartition
	case errors.Is(err, catalog.ErrFenced):
		return kafka.NotLeaderOrFollower
	default:
		return kafka.UnknownServerError
	}
}
