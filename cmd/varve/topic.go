package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/varvelog/varve/internal/kafka"
)

func newTopicCommand() *cobra.Command {
	f := new(clientFlags)
	cmd := &cobra.Command{Use: "topic", Short: "Create, list, describe, alter and delete topics"}
	f.add(cmd)
	cmd.AddCommand(newTopicCreate(f), newTopicList(f), newTopicDescribe(f), newTopicAlter(f), newTopicDelete(f))
	return cmd
}

func newTopicCreate(f *clientFlags) *cobra.Command {
	var partitions int32
	var rf int16
	var configs []string
	var ifNotExists bool
	cmd := &cobra.Command{
		Use: "create NAME …", Short: "Create topics", Args: cobra.MinimumNArgs(1),
		Example: "  varve topic create clicks --partitions 6 --config retention.ms=-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			kv, err := keyValues(configs)
			if err != nil {
				return err
			}
			values := make(map[string]*string, len(kv))
			for k, v := range kv {
				values[k] = &v
			}
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				resp, err := adm.CreateTopics(ctx, partitions, rf, values, args...)
				if err != nil {
					return err
				}
				return reportTopics(cmd, resp.Sorted(), func(r kadm.CreateTopicResponse) (topicResult, error) {
					err := withMessage(r.Err, r.ErrMessage)
					if ifNotExists && isCode(r.Err, "TOPIC_ALREADY_EXISTS") {
						err = nil
					}
					return topicResult{Topic: r.Topic, ID: kafka.TopicID(r.ID).String(), Partitions: r.NumPartitions, Done: "created"}, err
				})
			})
		},
	}
	cmd.Flags().Int32Var(&partitions, "partitions", -1, "partitions (-1: the broker's num.partitions)")
	cmd.Flags().Int16Var(&rf, "replication-factor", -1, "stored and reported; the object store keeps the copies (-1: the broker's default)")
	cmd.Flags().StringArrayVar(&configs, "config", nil, "topic config key=value; may be repeated")
	cmd.Flags().BoolVar(&ifNotExists, "if-not-exists", false, "no error for topics that exist")
	return cmd
}

func newTopicDelete(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME …", Short: "Delete topics and all their records", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				resp, err := adm.DeleteTopics(ctx, args...)
				if err != nil {
					return err
				}
				return reportTopics(cmd, resp.Sorted(), func(r kadm.DeleteTopicResponse) (topicResult, error) {
					return topicResult{Topic: r.Topic, ID: kafka.TopicID(r.ID).String(), Done: "deleted"}, withMessage(r.Err, r.ErrMessage)
				})
			})
		},
	}
}

func newTopicList(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List topics", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				topics, err := adm.ListTopics(ctx)
				if err != nil {
					return err
				}
				rows := make([]topicResult, 0, len(topics))
				for _, t := range topics.Sorted() {
					rows = append(rows, topicResult{Topic: t.Topic, ID: kafka.TopicID(t.ID).String(), Partitions: int32(len(t.Partitions))})
				}
				return printerOf(cmd).table(rows, "TOPIC\tPARTITIONS\tID", func(w io.Writer) {
					for _, r := range rows {
						fmt.Fprintf(w, "%s\t%d\t%s\n", r.Topic, r.Partitions, r.ID)
					}
				})
			})
		},
	}
}

type partitionRow struct {
	Partition int32 `json:"partition"`
	Leader    int32 `json:"leader"`
	Epoch     int32 `json:"leader_epoch"`
	Start     int64 `json:"log_start_offset"`
	End       int64 `json:"high_watermark"`
}

type topicDescription struct {
	Topic      string            `json:"topic"`
	ID         string            `json:"id"`
	Configs    map[string]string `json:"configs"`
	Partitions []partitionRow    `json:"partitions"`
}

func newTopicDescribe(f *clientFlags) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "describe NAME …", Short: "Show partitions, offsets and configs", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				rows, err := describeTopics(ctx, adm, args, all)
				if err != nil {
					return err
				}
				return printerOf(cmd).value(rows, func(w io.Writer) { printTopics(printer{w: w}, rows) })
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all-configs", false, "show the defaults too")
	return cmd
}

func describeTopics(ctx context.Context, adm *kadm.Client, names []string, all bool) ([]topicDescription, error) {
	topics, err := adm.ListTopics(ctx, names...)
	if err != nil {
		return nil, err
	}
	if err := topics.Error(); err != nil {
		return nil, err
	}
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	configs, err := adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, err
	}
	var rows []topicDescription
	for _, t := range topics.Sorted() {
		d := topicDescription{Topic: t.Topic, ID: kafka.TopicID(t.ID).String(), Configs: make(map[string]string)}
		for _, p := range t.Partitions.Sorted() {
			start, _ := starts.Lookup(t.Topic, p.Partition)
			end, _ := ends.Lookup(t.Topic, p.Partition)
			d.Partitions = append(d.Partitions, partitionRow{p.Partition, p.Leader, p.LeaderEpoch, start.Offset, end.Offset})
		}
		rc, err := configs.On(t.Topic, nil)
		if err != nil {
			return nil, err
		}
		for _, c := range rc.Configs {
			if all || c.Source.String() == "DYNAMIC_TOPIC_CONFIG" {
				d.Configs[c.Key] = c.MaybeValue()
			}
		}
		rows = append(rows, d)
	}
	return rows, nil
}

func printTopics(p printer, topics []topicDescription) {
	for _, t := range topics {
		fmt.Fprintf(p.w, "%s  id %s\n", t.Topic, t.ID)
		keys := make([]string, 0, len(t.Configs))
		for k := range t.Configs {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			fmt.Fprintf(p.w, "  %s=%s\n", k, t.Configs[k])
		}
		_ = p.table(nil, "PARTITION\tLEADER\tEPOCH\tSTART\tEND", func(w io.Writer) {
			for _, r := range t.Partitions {
				fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\n", r.Partition, r.Leader, r.Epoch, r.Start, r.End)
			}
		})
	}
}

func newTopicAlter(f *clientFlags) *cobra.Command {
	var partitions int
	var set, unset []string
	cmd := &cobra.Command{
		Use: "alter NAME", Short: "Change configs or add partitions", Args: cobra.ExactArgs(1),
		Example: "  varve topic alter clicks --config retention.ms=3600000 --delete-config cleanup.policy --partitions 12",
		RunE: func(cmd *cobra.Command, args []string) error {
			kv, err := keyValues(set)
			if err != nil {
				return err
			}
			if partitions == 0 && len(kv) == 0 && len(unset) == 0 {
				return errors.New("nothing to alter: give --partitions, --config or --delete-config")
			}
			return f.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				if err := alterTopic(ctx, adm, args[0], partitions, kv, unset); err != nil {
					return fmt.Errorf("topic %s: %w", args[0], err)
				}
				done := topicResult{Topic: args[0], Done: "altered"}
				return printerOf(cmd).value(done, done.print)
			})
		},
	}
	cmd.Flags().IntVar(&partitions, "partitions", 0, "new number of partitions")
	cmd.Flags().StringArrayVar(&set, "config", nil, "set a topic config, key=value; may be repeated")
	cmd.Flags().StringArrayVar(&unset, "delete-config", nil, "go back to the default of a topic config; may be repeated")
	return cmd
}

func alterTopic(ctx context.Context, adm *kadm.Client, topic string, partitions int, set map[string]string, unset []string) error {
	if partitions > 0 {
		resp, err := adm.UpdatePartitions(ctx, partitions, topic)
		if err != nil {
			return err
		}
		for _, r := range resp.Sorted() {
			if err := withMessage(r.Err, r.ErrMessage); err != nil {
				return err
			}
		}
	}
	var changes []kadm.AlterConfig
	for k, v := range set {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
	}
	for _, k := range unset {
		changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
	}
	if len(changes) == 0 {
		return nil
	}
	resp, err := adm.AlterTopicConfigs(ctx, changes, topic)
	if err != nil {
		return err
	}
	for _, r := range resp {
		if err := withMessage(r.Err, r.ErrMessage); err != nil {
			return err
		}
	}
	return nil
}

type topicResult struct {
	Topic      string `json:"topic"`
	ID         string `json:"id,omitempty"`
	Partitions int32  `json:"partitions,omitempty"`
	Done       string `json:"done,omitempty"`
}

func (r topicResult) print(w io.Writer) { fmt.Fprintf(w, "%s %s\n", r.Done, r.Topic) }

// reportTopics prints what was done to each topic and joins what failed.
func reportTopics[R any](cmd *cobra.Command, responses []R, read func(R) (topicResult, error)) error {
	done := []topicResult{}
	var errs []error
	for _, r := range responses {
		res, err := read(r)
		if err != nil {
			errs = append(errs, fmt.Errorf("topic %s: %w", res.Topic, err))
			continue
		}
		done = append(done, res)
	}
	err := printerOf(cmd).value(done, func(w io.Writer) {
		for _, r := range done {
			r.print(w)
		}
	})
	return errors.Join(append(errs, err)...)
}
