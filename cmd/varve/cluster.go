package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvelog/varve/engine/member"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

func newClusterCommand() *cobra.Command {
	f := new(storeFlags)
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Show the brokers of a cluster, and say which should have what",
		Long: "Show the brokers of a cluster, and say which should have what. It is written to the catalogue, where the\n" +
			"brokers see it: only the owner of a slot moves it, and clients are told where to go on.",
	}
	f.register(cmd.PersistentFlags(), "data directory")
	cmd.PersistentFlags().Bool("json", false, "print JSON")
	cmd.AddCommand(newClusterStatus(f), newClusterDrain(f), newClusterMove(f), newClusterUpgrade(f))
	return cmd
}

// placed is a cluster's catalogue, and what it says now.
type placed struct {
	*catalog.Catalog
	slots int
}

// withCluster calls fn with the catalogue of a cluster that is there.
func withCluster(ctx context.Context, f *storeFlags, fn func(p placed) error) error {
	cat, stores, err := openCluster(ctx, f)
	if err != nil {
		return err
	}
	info, err := cat.ReadCluster(ctx)
	if err == nil {
		err = fn(placed{cat, info.Slots})
	}
	return errors.Join(err, stores.Close())
}

// now returns the cluster as it is.
func (p placed) now(ctx context.Context) (*member.Cluster, error) {
	if err := p.Refresh(ctx); err != nil {
		return nil, err
	}
	return member.NewCluster(p.Members(), p.slots), nil
}

type brokerRow struct {
	ID      int32  `json:"id"`
	Session int64  `json:"session"`
	Addr    string `json:"address"`
	Rack    string `json:"rack"`
	State   string `json:"state"`
	Slots   int    `json:"slots"`  // that it has
	Target  int    `json:"target"` // that it should have
}

type clusterStatus struct {
	Brokers []brokerRow          `json:"brokers"`
	Slots   int                  `json:"slots"`
	Nobodys int                  `json:"unowned"` // slots whose owner has ended, or that never had one
	Pins    map[kafka.Slot]int32 `json:"pins"`
}

func newClusterStatus(f *storeFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the brokers and how many slots each has",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withCluster(cmd.Context(), f, func(p placed) error {
				c, err := p.now(cmd.Context())
				if err != nil {
					return err
				}
				st := statusOf(p.Members(), c)
				return printerOf(cmd).value(st, func(w io.Writer) { st.print(printer{w: w}) })
			})
		},
	}
}

func statusOf(m *catalog.Members, c *member.Cluster) clusterStatus {
	st := clusterStatus{Slots: c.Slots(), Pins: m.Placement().Pins}
	at := make(map[catalog.SessionID]int)
	for _, s := range append(m.Live(), m.Fenced()...) {
		row := brokerRow{ID: s.ID.Broker, Session: s.ID.Epoch, Addr: s.Addr, Rack: s.Rack, State: string(s.State)}
		switch {
		case s.Leaving:
			row.State = "leaving"
		case s.State == catalog.Live && slices.Contains(m.Placement().Drained, s.ID.Broker):
			row.State = "drained"
		}
		at[s.ID] = len(st.Brokers)
		st.Brokers = append(st.Brokers, row)
	}
	for s := range kafka.Slot(c.Slots()) {
		if i, ok := at[c.Owner(s).Session]; ok && c.Owner(s).Epoch >= 0 {
			st.Brokers[i].Slots++
		} else {
			st.Nobodys++
		}
		if to, ok := c.Target(s); ok {
			st.Brokers[at[to]].Target++
		}
	}
	return st
}

func (st clusterStatus) print(p printer) {
	_ = p.table(nil, "BROKER\tSESSION\tADDRESS\tRACK\tSTATE\tSLOTS\tTARGET", func(w io.Writer) {
		for _, b := range st.Brokers {
			fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s\t%d\t%d\n", b.ID, b.Session, b.Addr, b.Rack, b.State, b.Slots, b.Target)
		}
	})
	fmt.Fprintf(p.w, "%d slots, %d of them nobody's, %d pinned\n", st.Slots, st.Nobodys, len(st.Pins))
}

// waitFlag adds --wait: how long a command waits until what it asked for is so.
func waitFlag(cmd *cobra.Command) *time.Duration {
	return cmd.Flags().Duration("wait", 30*time.Second, "how long to wait until it is so; 0: not at all")
}

// placement is what the commands that place slots print.
type placement struct {
	Slot   *kafka.Slot `json:"slot,omitempty"` // nil: all of a broker's
	Broker int32       `json:"broker"`         // -1: whichever the balance says
	Undone bool        `json:"undone"`
	Done   bool        `json:"done"` // it is so already
}

func (d placement) print(cmd *cobra.Command) error {
	return printerOf(cmd).value(d, func(w io.Writer) {
		switch {
		case d.Slot == nil && d.Undone:
			fmt.Fprintf(w, "broker %d may own slots again\n", d.Broker)
		case d.Slot == nil && d.Done:
			fmt.Fprintf(w, "broker %d owns no slots any more\n", d.Broker)
		case d.Slot == nil:
			fmt.Fprintf(w, "broker %d is to own no slots\n", d.Broker)
		case d.Undone:
			fmt.Fprintf(w, "slot %d is no longer pinned\n", *d.Slot)
		case d.Done:
			fmt.Fprintf(w, "slot %d is at broker %d\n", *d.Slot, d.Broker)
		default:
			fmt.Fprintf(w, "slot %d is to be at broker %d\n", *d.Slot, d.Broker)
		}
	})
}

// until waits until done is true of the cluster, which the brokers bring about, and prints what was asked for.
func (p placed) until(ctx context.Context, limit time.Duration, what placement, cmd *cobra.Command, done func(*member.Cluster) bool) error {
	if limit <= 0 {
		return what.print(cmd)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := p.now(ctx)
		if err == nil && done(c) {
			what.Done = true
			return what.print(cmd)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("it is asked for, but not done yet (see varve cluster status)")
		}
	}
}

func newClusterDrain(f *storeFlags) *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:     "drain BROKER",
		Short:   "Make a broker hand over all its slots, and take none",
		Example: "  varve cluster drain 2\n  varve cluster drain 2 --undo",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let the broker own slots again")
	wait := waitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseBroker(args[0])
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		return withCluster(ctx, f, func(p placed) error {
			err := p.AlterPlacement(ctx, func(at *catalog.Placement) {
				at.Drained = slices.DeleteFunc(at.Drained, func(b int32) bool { return b == id })
				if !undo {
					at.Drained = append(at.Drained, id)
				}
			})
			if err != nil {
				return err
			}
			done := placement{Broker: id, Undone: undo}
			if undo {
				return done.print(cmd)
			}
			return p.until(ctx, *wait, done, cmd, func(c *member.Cluster) bool {
				for s := range kafka.Slot(c.Slots()) {
					if o := c.Owner(s); o.Epoch >= 0 && o.Session.Broker == id && c.Lives(o.Session) {
						return false
					}
				}
				return true
			})
		})
	}
	return cmd
}

func newClusterMove(f *storeFlags) *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:   "move TOPIC/PARTITION|SLOT [BROKER]",
		Short: "Pin a slot, or that of a partition, to a broker, which gets it while it is there",
		Long: "Pin a slot, or that of a partition, to a broker: it is moved there, and goes there again whenever the broker is there.\n" +
			"Other partitions of the same slot go along.",
		Example: "  varve cluster move orders/0 2\n  varve cluster move 117 3\n  varve cluster move 117 --undo",
		Args:    cobra.RangeArgs(1, 2),
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let the slot go where the balance wants it")
	wait := waitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if undo != (len(args) == 1) {
			return errors.New("name a broker, or --undo")
		}
		to := int32(-1)
		if !undo {
			var err error
			if to, err = parseBroker(args[1]); err != nil {
				return err
			}
		}
		ctx := cmd.Context()
		return withCluster(ctx, f, func(p placed) error {
			s, err := p.slot(args[0])
			if err != nil {
				return err
			}
			err = p.AlterPlacement(ctx, func(at *catalog.Placement) {
				if undo {
					delete(at.Pins, s)
					return
				}
				if at.Pins == nil {
					at.Pins = make(map[kafka.Slot]int32)
				}
				at.Pins[s] = to
			})
			if err != nil {
				return err
			}
			done := placement{Slot: &s, Broker: to, Undone: undo}
			if undo {
				return done.print(cmd)
			}
			return p.until(ctx, *wait, done, cmd, func(c *member.Cluster) bool {
				o := c.Owner(s)
				return o.Epoch >= 0 && o.Session.Broker == to && c.Lives(o.Session)
			})
		})
	}
	return cmd
}

func parseBroker(s string) (int32, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a broker id", s)
	}
	return int32(n), nil
}

// slot returns the slot that TOPIC/PARTITION is in, or that is named by number.
func (p placed) slot(name string) (kafka.Slot, error) {
	topic, part, ok := strings.Cut(name, "/")
	if !ok {
		n, err := strconv.ParseInt(name, 10, 32)
		if err != nil || n < 0 || n >= int64(p.slots) {
			return 0, fmt.Errorf("%q is not TOPIC/PARTITION, nor one of %d slots", name, p.slots)
		}
		return kafka.Slot(n), nil
	}
	t, ok := p.Topics().ByName(topic)
	if !ok {
		return 0, fmt.Errorf("no topic %q", topic)
	}
	n, err := strconv.ParseInt(part, 10, 32)
	if err != nil || n < 0 || n >= int64(t.Partitions) {
		return 0, fmt.Errorf("topic %q has no partition %q", topic, part)
	}
	return kafka.PartitionSlot(topic, int32(n), p.slots), nil
}
