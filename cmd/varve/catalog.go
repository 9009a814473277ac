package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/meta/sqlite"
	"github.com/varvelog/varve/tiering/rebuild"
)

func newCatalogCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "catalog", Short: "Rebuild a lost catalogue"}
	cmd.AddCommand(newCatalogRebuild())
	return cmd
}

type rebuildFlags struct {
	storeFlags
	write, replace, accept bool
	slots                  int
	names, skip            []string
}

func newCatalogRebuild() *cobra.Command {
	f := new(rebuildFlags)
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Rebuild a lost catalogue from the objects, after all brokers have been stopped",
		Long: "Rebuild a lost catalogue from the objects, after all brokers and functions have been stopped.\n\n" +
			"It reads a listing of all objects and their footers, works out what the catalogue has said, proves that brokers can recover from it,\n" +
			"and says what it found. Only with --write does it write, into a catalogue that is empty. Killed on the way it is run again; until it has\n" +
			"ended no broker starts on that catalogue. No object is written or deleted.\n\n" +
			"What is nowhere in the objects does not come back: committed offsets and members of groups, what DeleteRecords has removed in the last five\n" +
			"minutes, changes of topics and settings in the last seconds. docs/operations.md says more.\n\n" +
			"Exit code 0: all is there; 2: something is lost or undecided, and nothing was written unless --accept-loss says so; 1: it could not be told.",
		Example: "  varve catalog rebuild --data ./varve-data\n  varve catalog rebuild --bucket my-log --table my-log --create --write",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.register(fs, "data directory")
	fs.Bool("json", false, "print JSON")
	fs.BoolVar(&f.create, "create", false, "with --write: make the table where there is none")
	fs.BoolVar(&f.write, "write", false, "write the catalogue; else it is only said what it would be")
	fs.BoolVar(&f.replace, "replace", false, "with --write: write over a catalogue that is there")
	fs.BoolVar(&f.accept, "accept-loss", false, "with --write: write it though something is lost or undecided")
	fs.IntVar(&f.slots, "slots", 0, "the cluster's number of slots, where there is no manifest (256)")
	fs.StringArrayVar(&f.names, "topic", nil, "ID[=NAME]: take this topic, though the manifest does not have it (repeatable)")
	fs.StringArrayVar(&f.skip, "skip-topic", nil, "ID: leave this topic out (repeatable)")
	return cmd
}

func (f *rebuildFlags) options() (o rebuild.Options, err error) {
	o = rebuild.Options{Slots: f.slots, Names: map[kafka.TopicID]string{}, Skip: map[kafka.TopicID]bool{}}
	for _, s := range f.names {
		text, name, _ := strings.Cut(s, "=")
		id, err := kafka.ParseTopicID(text)
		if err != nil {
			return o, fmt.Errorf("--topic: %w", err)
		}
		o.Names[id] = name
	}
	for _, s := range f.skip {
		id, err := kafka.ParseTopicID(s)
		if err != nil {
			return o, fmt.Errorf("--skip-topic: %w", err)
		}
		o.Skip[id] = true
	}
	return o, nil
}

// rebuildResult is what the command prints.
type rebuildResult struct {
	*rebuild.Report
	Written bool `json:"written"`
}

func (f *rebuildFlags) run(cmd *cobra.Command) (err error) {
	o, err := f.options()
	if err != nil {
		return err
	}
	objects, err := f.openObjects(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, objects.Close()) }()
	dir, err := os.MkdirTemp("", "varve-rebuild-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	scratch, err := sqlite.Open(cmd.Context(), filepath.Join(dir, "meta.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	o.Store = objects.objects
	built, err := rebuild.Build(cmd.Context(), o, scratch)
	if err != nil {
		return err
	}
	out := rebuildResult{Report: built.Report}
	refused := built.Report.Damaged() && !f.accept
	if f.write && !refused {
		if err := f.writeTo(cmd.Context(), built); err != nil {
			return err
		}
		out.Written = true
	}
	if err := printerOf(cmd).value(out, out.print); err != nil || !built.Report.Damaged() {
		return err
	}
	if !refused {
		return &exitError{code: 2, err: errors.New("something is lost or undecided")}
	}
	return &exitError{code: 2, err: errors.New("something is lost or undecided: nothing was written (--accept-loss)")}
}

// writeTo writes the catalogue, which it may have to make.
func (f *rebuildFlags) writeTo(ctx context.Context, built *rebuild.Rebuilt) error {
	st, err := f.open(ctx, true, nil)
	if err != nil {
		return err
	}
	err = built.WriteTo(ctx, catalog.New(st.meta), f.replace)
	if errors.Is(err, catalog.ErrExists) {
		err = fmt.Errorf("%w: there is a catalogue in %s (--replace)", err, f.place())
	}
	return errors.Join(err, st.Close())
}

func (r rebuildResult) print(w io.Writer) {
	for _, f := range r.Findings {
		fmt.Fprintln(w, f)
	}
	total := 0
	for _, n := range r.Kinds {
		total += n
	}
	if total > len(r.Findings) {
		fmt.Fprintf(w, "… and %d more\n", total-len(r.Findings))
	}
	fmt.Fprintf(w, "cluster %s, %d slots: %d topics, %d partitions\n", r.ClusterID, r.Slots, r.Topics, r.Partitions)
	fmt.Fprintf(w, "%d segments (%d others were replaced by them), %d checkpoints of slots, %d WAL objects; %d sessions to be ended\n", r.Segments, r.Replaced, r.Checkpoints, r.WAL, r.Sessions)
	fmt.Fprintln(w, "not in the objects: committed offsets and members of groups")
	if r.Written {
		fmt.Fprintln(w, "the catalogue is written: start the brokers, then run varve verify")
	} else {
		fmt.Fprintln(w, "nothing was written (--write)")
	}
}
