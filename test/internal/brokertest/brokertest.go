// Package brokertest starts the real varve binary as a child process on free
// loopback ports, for the tests that need separate processes.
package brokertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// readyTimeout is how long a broker may take to start: LocalStack's first
// answers take a busy machine most of it.
const readyTimeout = 90 * time.Second

// Broker is a running broker process. Its data outlives Kill and Stop.
type Broker struct {
	Addr string // host:port of the Kafka listener
	HTTP string // host:port of the HTTP listener
	Data string // data directory

	bin   string
	args  []string
	where []string // of them, those that say where the log is
	env   []string
	under []string
	cmd   *exec.Cmd
	logs  *tail
	dead  chan struct{}
}

// Options say how a broker is started.
type Options struct {
	Settings []string // key=value, for --config
	Args     []string // further arguments
	Env      []string // further environment variables
	Data     string   // data directory; "": a temporary one
	Bin      string   // the binary; "": Binary
	Under    []string // command that the process is started by, as its further arguments; it becomes the broker
	Host     string   // address that it listens on, where nobody else does; "": loopback, on free ports
}

// Start starts a broker on an empty directory with key=value settings and
// waits until it is ready. It is killed when the test ends, and what it leaves
// is verified.
func Start(t testing.TB, settings ...string) *Broker {
	t.Helper()
	return StartWith(t, Options{Settings: settings})
}

// StartWith is Start with options.
func StartWith(t testing.TB, o Options) *Broker {
	t.Helper()
	if o.Bin == "" {
		o.Bin = Binary(t)
	}
	b := &Broker{bin: o.Bin, Data: o.Data, under: o.Under, logs: new(tail)}
	if o.Host == "" {
		b.Addr, b.HTTP = FreeAddr(t), FreeAddr(t)
	} else {
		b.Addr, b.HTTP = net.JoinHostPort(o.Host, "9092"), net.JoinHostPort(o.Host, "9644")
	}
	if b.Data == "" {
		b.Data = t.TempDir()
	}
	b.args = append([]string{"broker", "--data", b.Data, "--listen", b.Addr, "--http", b.HTTP}, o.Args...)
	b.where = storeArgs(b.Data, o.Args)
	b.env = append(os.Environ(), o.Env...)
	for _, s := range o.Settings {
		b.args = append(b.args, "--config", s)
	}
	t.Cleanup(func() {
		if b.cmd != nil {
			b.Kill()
		}
		if !t.Failed() {
			if err := b.Verify(); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Logf("last lines of the broker:\n%s", b.logs)
		}
	})
	b.Restart(t)
	return b
}

// storeArgs returns the arguments that say where a broker's log is.
func storeArgs(data string, args []string) []string {
	out := []string{"--data", data}
	for i := 0; i+1 < len(args); i++ {
		if slices.Contains([]string{"--bucket", "--table", "--prefix"}, args[i]) {
			out = append(out, args[i], args[i+1])
		}
	}
	return out
}

// Varve runs another command of the binary on what the broker has, and returns what it printed.
func (b *Broker) Varve(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.bin, append(args, b.where...)...)
	cmd.Env = b.env
	var warnings strings.Builder
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("varve %v: %v\n%s%s", args, err, out, &warnings)
	}
	return string(out)
}

// Verify runs `varve verify` on what the broker has. The error has what it
// printed, and wraps an *exec.ExitError.
func (b *Broker) Verify() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.bin, append([]string{"verify"}, b.where...)...)
	cmd.Env = b.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("varve verify: %w\n%s", err, out)
	}
	return nil
}

// Restart starts the process again on the same data and ports.
func (b *Broker) Restart(t testing.TB) {
	t.Helper()
	line := append(append(slices.Clone(b.under), b.bin), b.args...)
	b.cmd = exec.Command(line[0], line[1:]...)
	b.cmd.Env = b.env
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it does not outlive a test binary that was ended by its timeout
	out, err := b.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.dead = make(chan struct{})
	go func(cmd *exec.Cmd, dead chan struct{}) {
		b.logs.follow(out)
		_ = cmd.Wait() // the exit code of a killed process says nothing
		close(dead)
	}(b.cmd, b.dead)
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	if err := b.awaitReady(ctx); err != nil {
		t.Fatalf("broker not ready: %v\n%s", err, b.logs)
	}
}

func (b *Broker) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.HTTP+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-b.dead:
			return errors.New("the process ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Use lets the next Restart, and Verify, run another binary.
func (b *Broker) Use(bin string) { b.bin = bin }

// TryRestart starts a process that is expected to refuse, and returns what it says.
func (b *Broker) TryRestart(ctx context.Context) (says string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.bin, b.args...)
	cmd.Env = b.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Alive tells whether the process runs.
func (b *Broker) Alive() bool {
	select {
	case <-b.dead:
		return false
	default:
		return true
	}
}

// Log returns the last lines that the process logged.
func (b *Broker) Log() string { return b.logs.String() }

// PID returns the process id.
func (b *Broker) PID() int { return b.cmd.Process.Pid }

// Kill ends the process with SIGKILL and waits for it.
func (b *Broker) Kill() {
	_ = b.cmd.Process.Kill() // it may have ended by itself
	<-b.dead
}

// Signal sends the process a signal.
func (b *Broker) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := b.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Stop asks the process to drain and end, as Ctrl-C does, and returns its exit code.
func (b *Broker) Stop(t testing.TB) int {
	t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.dead:
	case <-time.After(90 * time.Second): // 20 s to hand over, 60 s to leave
		t.Fatalf("broker did not drain in 90 s\n%s", b.logs)
	}
	return b.cmd.ProcessState.ExitCode()
}

// Binary returns the path of the varve binary: VARVE_BIN, or bin/varve of the checkout.
func Binary(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("VARVE_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(Root(t), "bin", "varve")
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("no broker binary (run `make build`): %v", err)
	}
	return bin
}

// Root returns the checkout's folder.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir != "/" {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(mod), "module github.com/varvelog/varve\n") {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	t.Fatal("the checkout's go.mod is not above this folder")
	return ""
}

// FreeAddr returns an address on the loopback that nobody listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tail keeps the last lines of a log.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (l *tail) follow(r io.Reader) {
	for s := bufio.NewScanner(r); s.Scan(); {
		l.mu.Lock()
		l.lines = append(l.lines, s.Text())
		l.lines = l.lines[max(0, len(l.lines)-200):]
		l.mu.Unlock()
	}
}

// String returns the last lines.
func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(strings.Join(l.lines, "\n"))
}
