package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/varvelog/varve/internal/catalog"
)

// upgradeRow is a broker in what `varve cluster upgrade` prints.
type upgradeRow struct {
	ID   int32  `json:"id"`
	Addr string `json:"address"`
	Min  int    `json:"min_level"`
	Max  int    `json:"max_level"`
}

type upgradeStatus struct {
	Level   int          `json:"level"`
	To      int          `json:"to"`
	Raised  bool         `json:"raised"`
	Brokers []upgradeRow `json:"brokers"`
	Behind  []int32      `json:"behind"` // brokers that do not work at To
}

func newClusterUpgrade(f *storeFlags) *cobra.Command {
	var to int
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Raise the cluster's feature level, once all brokers run a program that knows it",
		Long: "Raise the cluster's feature level, once all brokers run a program that knows it. Until then each may go back to the program before;\n" +
			"afterwards programs that do not work at the level refuse to start. It cannot be lowered.",
		Example: "  varve cluster upgrade --dry-run\n  varve cluster upgrade",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().IntVar(&to, "level", catalog.Level, "the level, of those that this program knows")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say whether it could be done")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		return withCluster(ctx, f, func(p placed) error {
			if err := p.Refresh(ctx); err != nil {
				return err
			}
			m := p.Members()
			st := upgradeStatus{Level: p.Level(), To: max(to, p.Level()), Brokers: []upgradeRow{}, Behind: []int32{}}
			for _, s := range append(m.Live(), m.Fenced()...) {
				l := s.Levels.OrFirst()
				st.Brokers = append(st.Brokers, upgradeRow{s.ID.Broker, s.Addr, l.Min, l.Max})
			}
			for _, s := range m.Behind(st.To) {
				st.Behind = append(st.Behind, s.ID.Broker)
			}
			var err error
			if st.To > st.Level && !dryRun {
				err = p.RaiseLevel(ctx, to)
				st.Raised = err == nil
			}
			if dryRun && len(st.Behind) > 0 {
				err = fmt.Errorf("%w: brokers %v", catalog.ErrTooOld, st.Behind)
			}
			return errors.Join(printerOf(cmd).value(st, func(w io.Writer) { st.print(printer{w: w}) }), err)
		})
	}
	return cmd
}

func (st upgradeStatus) print(p printer) {
	_ = p.table(nil, "BROKER\tADDRESS\tLEVELS", func(w io.Writer) {
		for _, b := range st.Brokers {
			fmt.Fprintf(w, "%d\t%s\t%d–%d\n", b.ID, b.Addr, b.Min, b.Max)
		}
	})
	switch {
	case st.Raised:
		fmt.Fprintf(p.w, "the feature level was %d and is %d\n", st.Level, st.To)
	case st.To == st.Level:
		fmt.Fprintf(p.w, "the feature level is %d\n", st.Level)
	case len(st.Behind) > 0:
		fmt.Fprintf(p.w, "the feature level is %d; brokers %v do not work at %d\n", st.Level, st.Behind, st.To)
	default:
		fmt.Fprintf(p.w, "the feature level is %d; all brokers work at %d\n", st.Level, st.To)
	}
}
