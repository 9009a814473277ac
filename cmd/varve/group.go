package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

func newGroupCommand() *cobra.Command {
	f := new(clientFlags)
	cmd := &cobra.Command{Use: "group", Short: "List, describe, reset and delete consumer groups"}
	f.add(cmd)
	cmd.AddCommand(newGroupList(f), newGroupDescribe(f), newGroupReset(f), newGroupDelete(f))
	return cmd
}

type groupRow struct {
	Group    string `json:"group"`
	State    string `json:"state"`
	Protocol string `json:"protocol_type"`
}

func newGroupList(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List groups", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				groups, err := adm.ListGroups(ctx)
				if err != nil {
					return err
				}
				rows := make([]groupRow, 0, len(groups))
				for _, g := range groups.Sorted() {
					rows = append(rows, groupRow{g.Group, g.State, g.ProtocolType})
				}
				return printerOf(cmd).table(rows, "GROUP\tSTATE\tTYPE", func(w io.Writer) {
					for _, r := range rows {
						fmt.Fprintf(w, "%s\t%s\t%s\n", r.Group, r.State, r.Protocol)
					}
				})
			})
		},
	}
}

type lagRow struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"`
	End       int64  `json:"end"`
	Lag       int64  `json:"lag"`
	Member    string `json:"member,omitempty"`
}

type groupDescription struct {
	Group    string   `json:"group"`
	State    string   `json:"state"`
	Protocol string   `json:"protocol"`
	Members  int      `json:"members"`
	Offsets  []lagRow `json:"offsets"`
}

func newGroupDescribe(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME …", Short: "Show members, committed offsets and lag", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				lags, err := adm.Lag(ctx, args...)
				if err != nil {
					return err
				}
				var rows []groupDescription
				for _, l := range lags.Sorted() {
					if err := l.Error(); err != nil {
						return fmt.Errorf("group %s: %w", l.Group, err)
					}
					rows = append(rows, describeGroup(l))
				}
				return printerOf(cmd).value(rows, func(w io.Writer) { printGroups(printer{w: w}, rows) })
			})
		},
	}
}

func describeGroup(l kadm.DescribedGroupLag) groupDescription {
	d := groupDescription{Group: l.Group, State: l.State, Protocol: l.Protocol, Members: len(l.Members), Offsets: []lagRow{}}
	for _, p := range l.Lag.Sorted() {
		row := lagRow{Topic: p.Topic, Partition: p.Partition, Committed: p.Commit.At, End: p.End.Offset, Lag: p.Lag}
		if p.Member != nil {
			row.Member = p.Member.MemberID
		}
		d.Offsets = append(d.Offsets, row)
	}
	return d
}

func printGroups(p printer, groups []groupDescription) {
	for _, g := range groups {
		fmt.Fprintf(p.w, "%s  %s, %d members, protocol %q\n", g.Group, g.State, g.Members, g.Protocol)
		_ = p.table(nil, "TOPIC\tPARTITION\tCOMMITTED\tEND\tLAG\tMEMBER", func(w io.Writer) {
			for _, r := range g.Offsets {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", r.Topic, r.Partition, r.Committed, r.End, r.Lag, r.Member)
			}
		})
	}
}

func newGroupReset(f *clientFlags) *cobra.Command {
	var to string
	var topics []string
	var dry bool
	cmd := &cobra.Command{
		Use: "reset-offsets NAME", Short: "Set a group's committed offsets; the group must have no members", Args: cobra.ExactArgs(1),
		Example: "  varve group reset-offsets etl --topic clicks --to beginning",
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := parsePlace(to, time.Now())
			if err != nil {
				return fmt.Errorf("--to %w", err)
			}
			if len(topics) == 0 {
				return errors.New("give at least one --topic")
			}
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				return resetGroup(ctx, cmd, adm, resetRequest{group: args[0], to: at, topics: topics, dry: dry})
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "beginning", placeUsage)
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "topic to reset; may be repeated")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show the offsets without committing them")
	return cmd
}

type resetRequest struct {
	group  string
	to     place
	topics []string
	dry    bool
}

func resetGroup(ctx context.Context, cmd *cobra.Command, adm *kadm.Client, r resetRequest) error {
	listed, err := listAt(ctx, adm, r.to, r.topics)
	if err != nil {
		return err
	}
	if err := listed.Error(); err != nil {
		return err
	}
	if !r.dry {
		if err := adm.CommitAllOffsets(ctx, r.group, listed.Offsets()); err != nil {
			return err
		}
	}
	rows := []lagRow{}
	listed.Each(func(o kadm.ListedOffset) {
		rows = append(rows, lagRow{Topic: o.Topic, Partition: o.Partition, Committed: o.Offset})
	})
	return printerOf(cmd).table(rows, "TOPIC\tPARTITION\tOFFSET", func(w io.Writer) {
		for _, row := range rows {
			fmt.Fprintf(w, "%s\t%d\t%d\n", row.Topic, row.Partition, row.Committed)
		}
	})
}

// listAt resolves a place in the log to the offsets that topics have there,
// which lie from their beginnings to their ends.
func listAt(ctx context.Context, adm *kadm.Client, at place, topics []string) (kadm.ListedOffsets, error) {
	switch {
	case at.end:
		return adm.ListEndOffsets(ctx, topics...)
	case !at.time.IsZero():
		return adm.ListOffsetsAfterMilli(ctx, at.time.UnixMilli(), topics...)
	}
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err != nil || at.offset < 0 {
		return starts, err
	}
	ends, err := adm.ListEndOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	for _, parts := range ends {
		for p, o := range parts {
			start, _ := starts.Lookup(o.Topic, p)
			o.Offset = max(start.Offset, min(at.offset, o.Offset))
			parts[p] = o
		}
	}
	return ends, nil
}

func newGroupDelete(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME …", Short: "Delete groups without members, with their offsets", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				resp, err := adm.DeleteGroups(ctx, args...)
				if err != nil {
					return err
				}
				var errs []error
				done := []string{}
				for _, r := range resp.Sorted() {
					if r.Err != nil {
						errs = append(errs, fmt.Errorf("group %s: %w", r.Group, r.Err))
						continue
					}
					done = append(done, r.Group)
				}
				err = printerOf(cmd).value(done, func(w io.Writer) {
					for _, g := range done {
						fmt.Fprintln(w, "deleted", g)
					}
				})
				return errors.Join(append(errs, err)...)
			})
		},
	}
}
