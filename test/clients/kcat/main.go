// Program kcat drives kcat, which is librdkafka on the command line.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/varvelog/varve/test/clients/driver"
)

func main() { driver.Main(func(b string) driver.Client { return client{b} }) }

type client struct{ bootstrap string }

func (client) Version() string {
	out, _ := exec.Command("kcat", "-V").Output()
	_, version, _ := strings.Cut(string(out), "Version ")
	version, _, _ = strings.Cut(version, " ")
	return version
}

func (c client) kcat(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "kcat", append([]string{"-q", "-b", c.bootstrap}, args...)...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kcat %v: %w", args, err)
	}
	return out, nil
}

// Produce writes the records of a partition with one kcat, which gives all of
// them the same headers and no timestamp. A record is KEY\x1fVALUE, or VALUE
// where the key is null, and \x1e stands between two.
func (c client) Produce(ctx context.Context, topic, codec string, count int, idempotent bool) error {
	for p := range driver.Partitions {
		args := []string{"-P", "-t", topic, "-p", strconv.Itoa(p), "-z", codec, "-K", "\x1f", "-D", "\x1e", "-Z", "-X", "linger.ms=50",
			"-X", "enable.idempotence=" + strconv.FormatBool(idempotent)}
		for _, h := range driver.Make(0).Headers[1:] {
			args = append(args, "-H", h.Name+"="+string(h.Value))
		}
		var records [][]byte
		for i := p; i < count; i += driver.Partitions {
			r := driver.Make(i)
			if r.Key != nil {
				r.Value = bytes.Join([][]byte{r.Key, r.Value}, []byte("\x1f"))
			}
			records = append(records, r.Value)
		}
		if _, err := c.kcat(ctx, bytes.Join(records, []byte("\x1e")), args...); err != nil {
			return err
		}
	}
	return nil
}

// format is how kcat prints a record for decode.
const format = "%p %o %T %K %S %k%s%h\n"

func (c client) print(ctx context.Context, args ...string) error {
	out, err := c.kcat(ctx, nil, append(args, "-f", format, "-X", "fetch.wait.max.ms=100")...)
	if err != nil {
		return err
	}
	for r := bufio.NewReader(bytes.NewReader(out)); ; {
		if _, err := r.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		record, err := decode(r)
		if err != nil {
			return fmt.Errorf("decode kcat's output: %w", err)
		}
		driver.Print(record)
	}
}

// decode reads a record. No header's value has a comma or line's end in it.
func decode(r *bufio.Reader) (driver.Record, error) {
	var d driver.Record
	var key, value int
	if _, err := fmt.Fscanf(r, "%d %d %d %d %d ", &d.Partition, &d.Offset, &d.Timestamp, &key, &value); err != nil {
		return d, err
	}
	for _, field := range []struct {
		size int // -1: null
		into *[]byte
	}{{key, &d.Key}, {value, &d.Value}} {
		if field.size < 0 {
			continue
		}
		*field.into = make([]byte, field.size)
		if _, err := io.ReadFull(r, *field.into); err != nil {
			return d, err
		}
	}
	headers, err := r.ReadString('\n')
	for h := range strings.SplitSeq(strings.TrimSuffix(headers, "\n"), ",") {
		name, value, _ := strings.Cut(h, "=")
		d.Headers = append(d.Headers, driver.Header{Name: name, Value: []byte(value)})
	}
	return d, err
}

func (c client) Consume(ctx context.Context, topic string, count int) error {
	return c.print(ctx, "-C", "-t", topic, "-o", "beginning", "-c", strconv.Itoa(count))
}

func (c client) Seek(ctx context.Context, topic string, offsets []int64) error {
	for _, o := range offsets {
		if err := c.print(ctx, "-C", "-t", topic, "-p", "1", "-o", strconv.FormatInt(o, 10), "-c", "1"); err != nil {
			return err
		}
	}
	return nil
}

// Group counts the partitions in lines like "% Group g rebalanced (…): assigned: t [0], t [1]".
func (c client) Group(ctx context.Context, topic, group string) error {
	return driver.Rebalance(ctx, func(ctx context.Context, name string, m *driver.Members) error {
		cmd := exec.CommandContext(ctx, "kcat", "-b", c.bootstrap, "-X", "heartbeat.interval.ms=200", "-G", group, topic)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it leaves the group
		lines, err := cmd.StderrPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		for s := bufio.NewScanner(lines); s.Scan(); {
			if _, assigned, ok := strings.Cut(s.Text(), "assigned: "); ok {
				m.Set(name, strings.Count(assigned, "["))
			} else if strings.Contains(s.Text(), "revoked: ") {
				m.Set(name, 0)
			}
		}
		return cmd.Wait()
	})
}

func (c client) Commit(ctx context.Context, mode, topic, group string, count int) error {
	if mode != "auto" {
		return errors.ErrUnsupported
	}
	return c.print(ctx, "-X", "auto.offset.reset=earliest", "-c", strconv.Itoa(count), "-G", group, topic)
}

func (c client) Large(ctx context.Context, topic string, size int) error {
	want := driver.Large(size)
	file, err := os.CreateTemp("", "large")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(want); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return err
	}
	if _, err := c.kcat(ctx, nil, "-P", "-t", topic, "-p", "0", "-X", "message.max.bytes=20971520", file.Name()); err != nil {
		return err
	}
	got, err := c.kcat(ctx, nil, "-C", "-t", topic, "-p", "0", "-o", "beginning", "-c", "1", "-f", "%s")
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d bytes written, %d others read", size, len(got))
	}
	return err
}

func (client) Admin(context.Context, string) error { return errors.ErrUnsupported }

func (client) Transact(context.Context, string, string, string, int) error {
	return errors.ErrUnsupported
}
