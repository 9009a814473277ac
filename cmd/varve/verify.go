package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvelog/varve/tiering/verify"
)

type verifyFlags struct {
	storeFlags
	quick, repair bool
	parallel      int
}

func newVerifyCommand() *cobra.Command {
	f := new(verifyFlags)
	cmd := &cobra.Command{
		Use:   "verify [TOPIC …]",
		Short: "Check that catalogue and objects fit together, and every byte of them",
		Long: "Check that catalogue and objects fit together, and every byte of them: gaps, overlaps, missing objects, checksums, counts,\n" +
			"and litter, which are objects that nothing names. It works beside running brokers and writes nothing.\n" +
			"TOPICs bound whose segments are read; checkpoints, WAL and litter are looked at in any case.\n\n" +
			"--repair then deletes litter that nothing can ever name again: what ended sessions left behind. It never touches what is named,\n" +
			"seals, or objects of sessions that this cluster does not know; nor does it mend damage.\n\n" +
			"Exit code 0: no damage (there may be litter); 2: damage; 1: it could not be told.",
		Example: "  varve verify --data ./varve-data\n  varve verify --bucket my-log --table my-log --quick --json",
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	fs := cmd.Flags()
	f.register(fs, "data directory")
	fs.Bool("json", false, "print JSON")
	fs.BoolVar(&f.quick, "quick", false, "read footers, not records")
	fs.BoolVar(&f.repair, "repair", false, "delete litter that is safe to delete")
	fs.IntVar(&f.parallel, "parallel", 4, "objects read at a time")
	return cmd
}

// verified is what the command prints.
type verified struct {
	*verify.Report
	Deleted []verify.Finding `json:"deleted,omitempty"`
}

func (f *verifyFlags) run(cmd *cobra.Command, topics []string) (err error) {
	cat, st, err := openCluster(cmd.Context(), &f.storeFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	opts := verify.Options{Catalog: cat, Store: st.objects, Topics: topics, Quick: f.quick, Parallel: f.parallel}
	out, err := f.verify(cmd, opts)
	if err != nil {
		return err
	}
	if f.repair {
		if out.Deleted, err = verify.Repair(cmd.Context(), opts); err != nil {
			return err
		}
	}
	if err := printerOf(cmd).value(out, func(w io.Writer) { out.print(w) }); err != nil {
		return err
	}
	if out.Damage > 0 {
		return &exitError{code: 2, err: fmt.Errorf("%d findings of damage", out.Damage)}
	}
	return nil
}

func (f *verifyFlags) verify(cmd *cobra.Command, opts verify.Options) (*verified, error) {
	var progress verify.Progress
	line := startLine(cmd.ErrOrStderr(), func(since time.Duration) string {
		mib := float64(progress.Bytes.Load()) / (1 << 20)
		return fmt.Sprintf("%d objects verified, %.0f MiB, %.0f MiB/s", progress.Objects.Load(), mib, mib/since.Seconds())
	})
	defer line.stop()
	report, err := verify.Run(cmd.Context(), opts, &progress)
	if errors.Is(err, context.Canceled) {
		return nil, errors.New("interrupted")
	}
	return &verified{Report: report}, err
}

func (v *verified) print(w io.Writer) {
	for _, f := range v.Findings {
		fmt.Fprintln(w, f)
	}
	if n := v.Damage + v.Litter - int64(len(v.Findings)); n > 0 {
		fmt.Fprintf(w, "… and %d more\n", n)
	}
	fmt.Fprintf(w, "%d topics, %d partitions, %d segments with %d records; %d objects, %.1f MiB\n", v.Topics, v.Partitions, v.Segments, v.Records, v.Objects, float64(v.Bytes)/(1<<20))
	fmt.Fprintf(w, "%d findings of damage, %d objects of litter\n", v.Damage, v.Litter)
	if len(v.Deleted) > 0 {
		fmt.Fprintf(w, "%d objects of litter deleted\n", len(v.Deleted))
	}
}
