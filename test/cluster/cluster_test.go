// Package cluster runs three broker processes over one data directory, or over one
// bucket and one table, harms them while an idempotent producer writes and a group reads, and checks that nothing
// that was acknowledged is lost, twice there, reordered or changed, and for how long
// a partition could not be written to.
package cluster

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/brokertest"
	"github.com/varvelog/varve/test/internal/load"
	"github.com/varvelog/varve/test/internal/recap"
)

const (
	brokers        = 3
	partitions     = 24
	sessionTimeout = 6 * time.Second // broker.session.timeout.ms as by default
	settled        = 2 * time.Second // for what a harm leaves to be done
)

// The longest that a partition may be without an acknowledgement.
const (
	afterKill  = time.Second
	afterPause = sessionTimeout + time.Second
	afterMove  = 300 * time.Millisecond
)

// slack is what a busy machine may add to a gap: CLUSTER_SLACK (6s, since `make test` computes beside it). On a quiet one it can be 0s.
func slack(t testing.TB) time.Duration {
	t.Helper()
	s := os.Getenv("CLUSTER_SLACK")
	if s == "" {
		return 6 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// harmed is when a harm was done and when it was over.
type harmed struct {
	what     string
	from, to time.Time
	limit    time.Duration
}

// silence is when a partition must have acknowledged nothing.
type silence struct {
	what      string
	partition int32
	from, to  time.Time
}

// world is a cluster under load.
type world struct {
	t        testing.TB
	files    bool // share a data directory
	brokers  []*brokertest.Broker
	load     *load.Load
	group    *group
	harms    []harmed
	silences []silence
}

// where says how the broker of each id is started.
type where func(id int) brokertest.Options

// onFiles are brokers that share a data directory.
func onFiles(t testing.TB) where {
	dir := t.TempDir()
	return func(int) brokertest.Options { return brokertest.Options{Data: dir} }
}

// onAWS are brokers that share a bucket and a table, and have a data directory each.
func onAWS(s3, dynamodb string, settings ...string) where {
	place := []string{"--bucket", awstest.Name("bucket"), "--table", awstest.Name("table"), "--create"}
	return func(int) brokertest.Options {
		return brokertest.Options{Args: place, Env: awstest.Environ(s3, dynamodb), Settings: settings}
	}
}

// start starts the brokers, one after the other, and the load, with further arguments.
func start(t testing.TB, place where, args ...string) *world {
	t.Helper()
	t = recap.New(t)
	w := &world{t: t, files: place(1).Data != ""}
	for i := range brokers {
		o := place(i + 1)
		o.Args = append(slices.Clone(o.Args), "--id", strconv.Itoa(i+1))
		o.Settings = append([]string{"wal.checkpoint.objects=256", "log.segment.bytes=4194304", "log.dormant.ms=1000"}, o.Settings...)
		w.brokers = append(w.brokers, brokertest.StartWith(t, o))
	}
	topic := strings.ToLower(t.Name())
	w.load = load.Start(t, load.Build(t), w.addrs(), topic, append([]string{"--timeout", "1h", "--seconds", "3000", "--partitions", strconv.Itoa(partitions),
		"--keys", "1000", "--rate", "1500", "--linger", "2ms", "--batch", "65536", "--request-timeout", "600ms", "--answer-timeout", "100ms", "--metadata-max-age", "1s"}, args...)...) // a stopped broker takes requests and answers none
	w.group = join(t, w.addrs(), topic)
	load.Wait(t, settled)
	return w
}

func (w *world) addrs() string {
	var all []string
	for _, b := range w.brokers {
		all = append(all, b.Addr)
	}
	return strings.Join(all, ",")
}

// harm does something and lets the cluster settle.
func (w *world) harm(what string, limit time.Duration, do func()) {
	w.t.Helper()
	from := time.Now()
	do()
	load.Wait(w.t, settled)
	w.harms = append(w.harms, harmed{what, from, time.Now(), limit})
}

// finish ends the load and checks everything.
func (w *world) finish() {
	w.t.Helper()
	w.load.Stop(w.t)
	produced, read := w.load.Check(w.t)
	if n, ok := produced["failed"].(float64); !ok || n != 0 {
		w.t.Errorf("a retry did not hide everything: %v", produced)
	}
	w.t.Logf("%v acknowledged, %v read", read["acked"], read["read"])
	slow := time.Duration(0)
	for _, h := range w.harms {
		slow = max(slow, h.limit)
	}
	w.group.check(int(read["read"].(float64)), slow)
	worst, limits := make(map[string]time.Duration), make(map[string]time.Duration)
	for _, h := range w.harms {
		gap := w.load.Gap(w.t, h.from, h.to)
		worst[h.what], limits[h.what] = max(worst[h.what], gap), h.limit
		allowed := slack(w.t)
		if w.files && (h.what == "SIGSTOP" || h.what == "SIGCONT") {
			allowed *= 2 // who is stopped inside a commit holds the others up until it goes on
		}
		if gap > h.limit+allowed {
			w.t.Errorf("%s: a partition waited for %s, at most %s is allowed", h.what, gap.Round(time.Millisecond), h.limit)
		}
	}
	for what, gap := range worst {
		w.t.Logf("longest wait of a partition, %s: %s (aim %s)", what, gap.Round(time.Millisecond), limits[what])
	}
	w.checkSilences()
}

// silent notes that nothing may be acknowledged between two moments, by these
// partitions or, without any, by all.
func (w *world) silent(what string, from, to time.Time, only ...int32) {
	if len(only) == 0 {
		for p := range int32(partitions) {
			only = append(only, p)
		}
	}
	for _, p := range only {
		w.silences = append(w.silences, silence{what, p, from, to})
	}
}

// checkSilences: nothing was acknowledged while it could not be durable.
func (w *world) checkSilences() {
	w.t.Helper()
	acks := w.load.Acks(w.t)
	for _, s := range w.silences {
		if i := slices.IndexFunc(acks, func(a load.Ack) bool {
			return a.Partition == s.partition && a.At.After(s.from) && a.At.Before(s.to)
		}); i >= 0 {
			w.t.Errorf("%s: partition %d acknowledged a record %s after the beginning", s.what, s.partition, acks[i].At.Sub(s.from))
		}
	}
}

// rounds is how often a harm is done: CLUSTER_ROUNDS, or few times.
func rounds(t testing.TB, few int) int {
	t.Helper()
	s := os.Getenv("CLUSTER_ROUNDS")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKill9 kills one broker after the other, and starts each again.
func TestKill9(t *testing.T) {
	w := start(t, onFiles(t))
	for round := range rounds(t, 3) {
		b := w.brokers[round%brokers]
		w.harm("kill -9", afterKill, b.Kill)
		w.harm("start again", afterMove, func() { b.Restart(t) })
	}
	w.finish()
}

// TestKill9AWS is TestKill9 on S3 and DynamoDB; what the broker had on its disk
// is lost with it.
func TestKill9AWS(t *testing.T) {
	w := start(t, onAWS(awstest.VersityGW(t), awstest.DynamoDBLocal(t)))
	for round := range rounds(t, 2) {
		b := w.brokers[round%brokers]
		w.harm("kill -9", afterKill, b.Kill)
		if err := os.RemoveAll(b.Data); err != nil {
			t.Fatal(err)
		}
		w.harm("start again", afterMove, func() { b.Restart(t) })
	}
	w.finish()
}

// TestStopped stops a broker for longer than the session timeout. When it goes
// on, its slots are others', and all that it writes is refused.
func TestStopped(t *testing.T) { stopped(t, onFiles(t)) }

// TestStoppedAWS is TestStopped on S3 and DynamoDB, where nobody is stopped with a lock that others need.
func TestStoppedAWS(t *testing.T) {
	stopped(t, onAWS(awstest.VersityGW(t), awstest.DynamoDBLocal(t)))
}

func stopped(t testing.TB, place where) {
	t.Helper()
	w := start(t, place)
	for round := range rounds(t, 2) {
		load.Wait(t, settled) // slots that are on their way to a broker that stops come back a session timeout later
		b := w.brokers[round%brokers]
		w.harm("SIGSTOP", afterPause, func() {
			b.Signal(t, syscall.SIGSTOP)
			load.Wait(t, sessionTimeout+3*time.Second)
		})
		w.harm("SIGCONT", afterMove, func() { b.Signal(t, syscall.SIGCONT); load.Wait(t, settled) })
	}
	w.finish()
}

// TestRolling stops one broker after the other in order, and starts it again.
func TestRolling(t *testing.T) { rolling(t, onFiles(t)) }

func rolling(t testing.TB, place where) {
	t.Helper()
	w := start(t, place)
	for round := range rounds(t, brokers) {
		b := w.brokers[round%brokers]
		w.harm("SIGTERM", afterMove, func() {
			if code := b.Stop(t); code != 0 {
				w.t.Errorf("broker %d: exit code %d", round%brokers+1, code)
			}
		})
		w.harm("start again", afterMove, func() { b.Restart(t) })
	}
	w.finish()
}
