// Varve is a log service that speaks the Kafka protocol and keeps its log in
// object storage. This is its one binary: the broker and its tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker (make build).
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the first signal ends the work in order, a second one ends the process
	err := newRoot().ExecuteContext(ctx)
	if err == nil {
		return
	}
	var coded *exitError
	if errors.As(err, &coded) {
		if coded.err != nil {
			fmt.Fprintln(os.Stderr, "varve:", coded.err)
		}
		stop()
		os.Exit(coded.code)
	}
	fmt.Fprintln(os.Stderr, "varve:", err)
	stop()
	os.Exit(1)
}

// exitError carries a process exit code other than 1.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }
func (e *exitError) Unwrap() error { return e.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "varve",
		Short:         "A log service that speaks the Kafka protocol and keeps its log in object storage",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newBrokerCommand(), newDevCommand(), newClusterCommand(), newTopicCommand(), newProduceCommand(), newConsumeCommand(), newReplayCommand(), newGroupCommand(), newSegmentCommand(), newVerifyCommand(), newCatalogCommand(), newCostCommand(), newBenchCommand())
	refuseUnknown(root)
	return root
}

// refuseUnknown makes commands that only have sub-commands fail where they are
// given another one, rather than print their help and succeed.
func refuseUnknown(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		refuseUnknown(sub)
	}
	if !cmd.HasParent() || !cmd.HasSubCommands() {
		return
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return fmt.Errorf("unknown command %q for %q (--help lists them)", args[0], cmd.CommandPath())
	}
}
