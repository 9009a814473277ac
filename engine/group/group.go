// Package group coordinates classic consumer groups: who is a member, which
// protocol they share, who leads, what each is assigned, and the offsets that
// they commit. It behaves as Apache Kafka's group coordinator does.
//
// A group is a pure state machine (Group.Step): an event and the time go in,
// effects come out. An actor per group drives it: it takes requests in order,
// runs Step, writes the state to the catalogue where it changed, and lets the
// answers leave only after that commit. Timers are the actor's; no safety rests
// on them. Offset commits of one group coalesce into one write at a time.
//
// The catalogue's condition on the group's state item is the fence: a broker
// that lost the group's slot cannot write, drops the group, and answers
// NOT_COORDINATOR.
package group

import (
	"context"
	"log/slog"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/config"
)

// Options are what a Coordinator needs.
type Options struct {
	Catalog *catalog.Catalog
	Slot    func(group string) (catalog.Slot, bool) // the slot of a group's coordinator; false: not owned here
	Slots   func() []catalog.Slot                   // all that are owned here
	Config  func() *config.Broker                   // the settings of now
	Logger  *slog.Logger
}

// Coordinator coordinates the groups of the slots that this broker owns. All
// methods are safe for concurrent use.
type Coordinator struct {
	o Options
}

// New returns a coordinator. It answers while Run runs.
func New(o Options) *Coordinator { return &Coordinator{o: o} }

// Run keeps timers and expiry going until ctx ends; everything in flight has
// ended when it returns.
func (c *Coordinator) Run(ctx context.Context) error { <-ctx.Done(); return nil }
