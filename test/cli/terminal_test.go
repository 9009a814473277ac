package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// terminal is a pseudo-terminal, as its user has it.
type terminal struct {
	user *os.File
	mu   sync.Mutex
	seen bytes.Buffer
}

// openTerminal returns a terminal and its other side, for a process.
func openTerminal(t *testing.T) (*terminal, *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("missing: pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { user.Close() })
	var number, unlocked int32
	for request, arg := range map[uintptr]*int32{syscall.TIOCSPTLCK: &unlocked, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, user.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatal(errno)
		}
	}
	process, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Close() })
	term := &terminal{user: user}
	go func() { _, _ = io.Copy(term, user) }()
	return term, process
}

// Write keeps what is shown.
func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen.Write(p)
}

func (t *terminal) shows() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen.String()
}

// start starts a command at a terminal, which is its controlling one.
func (s shell) start(t *testing.T, args ...string) (*terminal, *exec.Cmd) {
	t.Helper()
	term, tty := openTerminal(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, brokertest.Binary(t), s.placed(args)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return term, cmd
}

// until waits until the terminal shows a text.
func (t *terminal) until(tb testing.TB, text string) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(t.shows(), text); <-tick.C {
		if time.Now().After(end) {
			tb.Fatalf("the terminal does not show %q:\n%s", text, t.shows())
		}
	}
}

const ctrlC = "\x03"

// TestTerminal types at a terminal: Ctrl-C ends what was begun, with what was
// typed so far written, and long work shows how far it is.
func TestTerminal(t *testing.T) {
	s := shell{t, brokertest.Start(t)}
	term, cmd := s.start(t, "produce", "typed")
	if _, err := term.user.WriteString("one\ntwo\n"); err != nil {
		t.Fatal(err)
	}
	for s.try("", "consume", "typed", "--exit").out != "one\ntwo\n" {
		if t.Context().Err() != nil || strings.Contains(term.shows(), "varve:") {
			t.Fatalf("not written:\n%s", term.shows())
		}
	}
	_, _ = term.user.WriteString(ctrlC)
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C ends produce: %v\n%s", err, term.shows())
	}
	term.until(t, "2 records acknowledged")

	term, cmd = s.start(t, "consume", "typed")
	term.until(t, "two")
	_, _ = term.user.WriteString(ctrlC)
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C ends consume: %v\n%s", err, term.shows())
	}

	term, cmd = s.start(t, "bench", "produce", "--duration", "1s")
	term.until(t, " records, ")
	if err := cmd.Wait(); err != nil {
		t.Errorf("bench: %v\n%s", err, term.shows())
	}
}

// TestBrokerAtTerminal starts a broker as a person does: it says where it is and what to
// try, those lines work, Ctrl-C drains, and it goes on where it was.
func TestBrokerAtTerminal(t *testing.T) {
	data := t.TempDir()
	for round := range 2 {
		term, cmd := shell{t: t}.start(t, "broker", "--data", data, "--listen", "127.0.0.1:0", "--http", "")
		term.until(t, "consume greetings --exit")
		_, after, _ := strings.Cut(term.shows(), "listening on ")
		addr, _, _ := strings.Cut(after, ",")
		try := func(line string) string {
			c := exec.CommandContext(t.Context(), "sh", "-c", line)
			c.Dir = brokertest.Root(t)
			out, err := c.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			return string(out)
		}
		if !strings.Contains(term.shows(), "of cluster ") || addr == "" {
			t.Errorf("a start says:\n%s", term.shows())
		}
		for line := range strings.Lines(strings.ReplaceAll(term.shows(), "\r", "")) {
			line = strings.TrimPrefix(strings.TrimSpace(line), "try:  ")
			out := ""
			if strings.Contains(line, "bin/varve ") {
				out = try(line)
			}
			if want := strings.Repeat("hello\n", round+1); strings.Contains(line, " consume ") && out != want {
				t.Errorf("%s: %q, not %q", line, out, want)
			}
		}
		_, _ = term.user.WriteString(ctrlC)
		if err := cmd.Wait(); err != nil {
			t.Errorf("Ctrl-C: %v\n%s", err, term.shows())
		}
	}
}
