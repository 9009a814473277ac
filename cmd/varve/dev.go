package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// stopTimeout is how long a child may take to leave.
const stopTimeout = 90 * time.Second

type devFlags struct {
	data    string
	listen  string
	brokers int
	configs []string
}

func newDevCommand() *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run several brokers on one data directory, to try what a cluster does",
		Long: "Run several brokers as child processes on one data directory, to try what a cluster does: kill -9 one, stop it\n" +
			"with kill -STOP, and see the others take over. Ctrl-C ends all.",
		Example: "  varve dev --brokers 3\n  varve cluster status",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	cmd.Flags().StringVar(&f.data, "data", "./varve-data", "data directory; made where there is none")
	cmd.Flags().StringVar(&f.listen, "listen", "127.0.0.1:9092", "address of the first broker; the others have the next ports (port 0: any)")
	cmd.Flags().IntVar(&f.brokers, "brokers", 3, "how many brokers")
	cmd.Flags().StringArrayVar(&f.configs, "config", nil, "broker setting key=value, by Kafka's names; may be repeated")
	return cmd
}

// run runs the brokers until ctx ends, and then until all have left.
func (f *devFlags) run(ctx context.Context, out io.Writer) error {
	if f.brokers < 1 || f.brokers > 50 {
		return fmt.Errorf("--brokers: %d is not from 1 to 50", f.brokers)
	}
	host, port, err := net.SplitHostPort(f.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	first, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("--listen: port: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	var mu sync.Mutex // of out
	say := func(id int, line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, "[%d] %s\n", id, line)
	}
	var running sync.WaitGroup
	for id := 1; id <= f.brokers; id++ {
		at := first
		if first > 0 {
			at += uint64(id - 1)
		}
		args := []string{"broker", "--data", f.data, "--id", strconv.Itoa(id), "--http", "", "--listen", net.JoinHostPort(host, strconv.FormatUint(at, 10))}
		for _, c := range f.configs {
			args = append(args, "--config", c)
		}
		running.Go(func() { child(ctx, exec.CommandContext(ctx, self, args...), func(line string) { say(id, line) }) })
	}
	running.Wait()
	return nil
}

// child runs one broker until it ends, by itself or because ctx has ended.
func child(ctx context.Context, cmd *exec.Cmd, say func(string)) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // else a terminal's Ctrl-C reaches it too, and with ours it is the second signal
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			say(lines.Text())
		}
		_, _ = io.Copy(io.Discard, r) // behind a line that is too long
	})
	err := cmd.Start()
	if err == nil {
		say(fmt.Sprintf("process %d: %s", cmd.Process.Pid, strings.Join(cmd.Args, " ")))
		err = cmd.Wait()
	}
	_ = w.Close()
	reading.Wait()
	switch {
	case ctx.Err() != nil:
		say("has left")
	case err != nil:
		say(fmt.Sprintf("has ended: %v; the others go on", err))
	default:
		say("has ended; the others go on")
	}
}
