package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// TestConnect copies the lines of a file into a topic with Kafka Connect, exactly once (KIP-618), and from there into
// another file, while first the broker is killed, and then the worker.
func TestConnect(t *testing.T) {
	root := brokertest.Root(t)
	home := filepath.Join(root, ".tools", "kafka-peer")
	if _, err := os.Stat(filepath.Join(home, "libs")); err != nil {
		missing(t, "Apache Kafka's jars (run .ci/setup-kafka)")
	}
	b := brokertest.Start(t, "group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=1000")
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics("lines"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(200*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	dir := t.TempDir()
	c := copying{t: t, cl: cl, in: filepath.Join(dir, "in"), out: filepath.Join(dir, "out")}
	rest := brokertest.FreeAddr(t)
	settings := filepath.Join(dir, "worker.properties")
	text := fmt.Sprintf("bootstrap.servers=%s\nlisteners=http://%s\nplugin.path=%s\nplugin.discovery=service_load\ngroup.id=connect\n"+
		"exactly.once.source.support=enabled\noffset.flush.interval.ms=1000\nscheduled.rebalance.max.delay.ms=0\nsession.timeout.ms=3000\nheartbeat.interval.ms=500\n",
		b.Addr, rest, filepath.Join(home, "libs"))
	for _, of := range []string{"config", "offset", "status"} {
		text += fmt.Sprintf("%s.storage.topic=connect-%s\n%s.storage.replication.factor=1\n", of, of, of)
	}
	for _, of := range []string{"key", "value"} {
		text += of + ".converter=org.apache.kafka.connect.storage.StringConverter\n"
	}
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), filepath.Join(root, "bench", "kafka-peer.sh"), "connect-distributed", settings)
		cmd.Env = append(os.Environ(), "KAFKA_PEER_HOME="+home)
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	worker := start()
	c.write(1000)
	c.connector(rest, "source", map[string]string{
		"connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector", "file": c.in, "topic": "lines",
		"exactly.once.support": "required", "topic.creation.default.replication.factor": "1", "topic.creation.default.partitions": "1",
	})
	c.connector(rest, "sink", map[string]string{
		"connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector", "file": c.out, "topics": "lines",
		"consumer.override.isolation.level": "read_committed",
	})
	c.atWork()
	c.write(1000)
	b.Kill()
	b.Restart(t)
	c.write(1000)
	c.atWork()
	c.write(1000)
	_ = worker.Process.Kill()
	_ = worker.Wait()
	worker = start()
	c.write(1000)
	c.atWork()
	c.poll(t.Context(), 3*time.Second) // nothing may follow
	_ = worker.Process.Kill()
	_ = worker.Wait()
}

// copying is what is written to a file, and what has arrived of it.
type copying struct {
	t             *testing.T
	cl            *kgo.Client
	in, out       string // files
	written, read int    // lines
}

// line returns the n-th line.
func line(n int) string { return fmt.Sprintf("line %08d", n) }

// write appends lines to the file that is copied.
func (c *copying) write(lines int) {
	c.t.Helper()
	f, err := os.OpenFile(c.in, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	for range lines {
		if _, err := fmt.Fprintln(f, line(c.written)); err != nil {
			c.t.Fatal(err)
		}
		c.written++
	}
	if err := f.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// connector makes a connector, as soon as the worker takes it.
func (c *copying) connector(rest, name string, config map[string]string) {
	c.t.Helper()
	body, err := json.Marshal(config)
	if err != nil {
		c.t.Fatal(err)
	}
	says := ""
	for limit := time.Now().Add(90 * time.Second); time.Now().Before(limit); c.poll(c.t.Context(), 200*time.Millisecond) {
		req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPut, "http://"+rest+"/connectors/"+name+"/config", bytes.NewReader(body))
		if err != nil {
			c.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			says = err.Error()
			continue
		}
		resp.Body.Close()
		if says = resp.Status; resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusOK {
			return
		}
	}
	c.t.Fatalf("connector %s: %s", name, says)
}

// atWork waits until all that is written so far has arrived, in the topic and in the other file.
func (c *copying) atWork() {
	c.t.Helper()
	for limit := time.Now().Add(90 * time.Second); ; c.poll(c.t.Context(), 200*time.Millisecond) {
		copied, err := os.ReadFile(c.out)
		if err != nil && !os.IsNotExist(err) {
			c.t.Fatal(err)
		}
		if c.read == c.written && bytes.Contains(copied, []byte(line(c.written-1)+"\n")) {
			break
		}
		if time.Now().After(limit) {
			c.t.Fatalf("%d lines written, %d read, %d bytes copied", c.written, c.read, len(copied))
		}
	}
}

// poll reads what is committed for a while: each line once, in order.
func (c *copying) poll(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for ctx.Err() == nil {
		c.cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if want := line(c.read); string(r.Value) != want {
				c.t.Errorf("%q at offset %d, want %q", r.Value, r.Offset, want)
			}
			c.read++
		})
	}
}
