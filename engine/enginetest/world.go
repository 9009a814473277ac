package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/wal"
)

// The topics of the workload.
const (
	keptTopic      = "kept"      // keeps all: what is acknowledged is there in the end
	trimmedTopic   = "trimmed"   // loses its beginning to DeleteRecords and retention
	churnedTopic   = "churned"   // is deleted and made again
	compactedTopic = "compacted" // keeps the last record of each key
	partitions     = 3
	producers      = 3
	members        = 2
	group          = "group"
)

const retention = 15 * time.Second // of trimmedTopic

// world is one seed's run.
type world struct {
	t       *testing.T
	dice    *dice
	cluster *cluster
	ids     []int32 // of the brokers

	mu        sync.Mutex
	current   map[int32]*process // of each id: the life that was started last
	cancel    func()
	stopped   bool   // before all could be read
	history   []sent // of keptTopic
	acks      map[place]string
	kept      kadm.TopicID
	read      []seen
	group     *positions
	readers   []*rackReader
	moves     map[int32][]string // what movers did, by partition
	stable    [partitions]stable // what they and a watcher know of stable offsets
	events    int                // of theirs so far
	trimmed   trimmed
	compacted compacted
	bad       []string
}

func newWorld(t *testing.T, seed uint64, brokers int) *world {
	t.Helper()
	d := newDice(seed)
	roll := []string{"800", "800", "3000", "15000"}[d.below("config", 4)]
	w := &world{t: t, dice: d, current: make(map[int32]*process), acks: make(map[place]string), moves: make(map[int32][]string), group: newPositions(), trimmed: newTrimmed()}
	w.cluster = newCluster(d, map[string]string{
		"group.initial.rebalance.delay.ms": "0", "num.partitions": fmt.Sprint(partitions), "auto.create.topics.enable": "false", "default.replication.factor": fmt.Sprint(min(3, brokers)),
		"wal.checkpoint.objects": "6", "wal.max.bytes": "65536", "log.retention.ms": "-1", "log.roll.ms": roll,
		"log.retention.check.interval.ms": "1500", "log.segment.delete.delay.ms": "1000", "log.cleaner.backoff.ms": "1500",
		"segment.merge.interval.ms": []string{"1500", "5000"}[d.below("config", 2)], "segment.merge.min.count": "2",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "2000",
		"sweep.interval.ms": []string{"500", "4000"}[d.below("config", 2)], "wal.hedge": []string{"false", "true"}[d.below("config", 2)],
		"metadata.hedge":  []string{"false", "true"}[d.below("config", 2)],
		"log.dormant.ms":  []string{"100", "1000", "3000", "300000"}[d.below("config", 4)],
		"cache.ram.bytes": []string{"0", "20000", "67108864"}[d.below("cache", 3)], // what leaders read comes from the store, from both, or from RAM
	})
	slots := []int{12, 12, 12, 100}[d.below("config", 4)] // more than go into one commit, at times
	if _, err := catalog.New(w.cluster.ledger.items).Cluster(t.Context(), slots); err != nil {
		t.Fatal(err)
	}
	for id := range brokers {
		w.ids = append(w.ids, int32(id+1))
	}
	return w
}

// calmWorld returns a world without faults or a workload, of brokers with Kafka's
// defaults but for these settings.
func calmWorld(t *testing.T, cancel func(), brokers int32, settings map[string]string) *world {
	t.Helper()
	cfg := map[string]string{"auto.create.topics.enable": "false"}
	maps.Copy(cfg, settings)
	d := newDice(1)
	w := &world{t: t, dice: d, current: make(map[int32]*process), cancel: cancel, cluster: newCluster(d, cfg)}
	for id := range brokers {
		w.ids = append(w.ids, id+1)
	}
	w.cluster.faults.settle()
	return w
}

// report notes an anomaly.
func (w *world) report(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad = append(w.bad, fmt.Sprintf(format, args...))
	if w.cluster.ledger.broken != "" {
		w.cancel() // that was to be seen
	}
}

// client is a franz-go client whose network can be taken away.
type client struct {
	*kgo.Client
	line *line
}

// Close takes the network away first, so that nothing takes time any more: the client waits for answers, and
// for connections, with mutexes held, for which others of it may wait, and that would stop the bubble's time.
func (c *client) Close() {
	c.line.cut()
	c.Client.Close()
}

func (w *world) client(opts ...kgo.Opt) *client {
	l := w.newLine()
	cl, err := kgo.NewClient(append(w.options(l), opts...)...)
	if err != nil {
		panic(err) // the options are wrong
	}
	return &client{cl, l}
}

// newLine returns the network of a client.
func (w *world) newLine() *line {
	return &line{network: w.cluster.network, host: "clients", down: make(chan struct{})}
}

// options are those of all clients.
func (w *world) options(l *line) []kgo.Opt {
	var seeds []string
	for _, host := range w.hosts() {
		seeds = append(seeds, host+":9092")
	}
	return []kgo.Opt{
		kgo.SeedBrokers(seeds...), kgo.Dialer(l.dial), kgo.MetadataMinAge(50 * time.Millisecond), kgo.RequestTimeoutOverhead(3 * time.Second),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }), kgo.UnknownTopicRetries(-1),
	}
}

// run plays the seed: clients work while brokers are stopped, killed, paused
// and cut off; then all is calm, and everything is read.
func (w *world) run() {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	defer w.end()
	w.cancel = cancel
	if b := w.cluster.ledger.broken; b != putReplaces && b != sealsVanish { // whose symptoms clients must see
		w.cluster.ledger.alarm = cancel
	}
	w.startAll(ctx)
	w.createTopics(ctx)
	var working sync.WaitGroup
	trouble, over := context.WithCancel(ctx)
	patience, giveUp := context.WithCancel(ctx)
	defer giveUp()
	work := func(name string, fn func()) {
		working.Go(func() {
			fn()
			if patience.Err() != nil && w.cluster.ledger.broken == "" {
				w.report("%s still waits, long after all is calm", name)
			}
		})
	}
	for id := range producers {
		work(fmt.Sprint("producer ", id), func() { w.produce(patience, trouble, id) })
	}
	work("trim", func() { w.trim(patience, trouble) })
	work("compact", func() { w.compact(patience, trouble) })
	work("churn", func() { w.churn(patience, trouble) })
	var consuming sync.WaitGroup
	drained, stop := context.WithCancel(ctx)
	for id := range members {
		consuming.Go(func() { w.consume(drained, id) })
	}
	for p := range int32(partitions) {
		consuming.Go(func() { w.move(drained, p) })
	}
	consuming.Go(func() { w.watchStable(trouble) })
	for id := range min(2, len(w.ids)-1) { // a broker alone leads all
		r := w.reader(rackName((id + w.dice.below("racks", 2)) % racks))
		consuming.Go(func() { w.readInRack(drained, r) })
	}
	if len(w.ids) > 1 {
		consuming.Go(func() { w.watchMarks(trouble) })
	}
	w.chaos(ctx)
	over()
	w.calm(ctx)
	stuck := time.AfterFunc(w.patience(), giveUp)
	working.Wait()
	stuck.Stop()
	wait(ctx, 10*time.Second) // every late write has landed
	w.check(ctx, w.readAll, w.awaitGroup, w.awaitReaders, w.awaitMovers, w.checkRacks)
	stop()
	consuming.Wait()
	w.check(ctx, w.checkMoved, w.checkStableOffsets, w.checkTrimmed, w.checkCompacted, w.rereadCold)
}

// check runs checks until one of them, or what went before, has ended ctx: what was found says enough.
func (w *world) check(ctx context.Context, checks ...func(context.Context)) {
	for _, one := range checks {
		if ctx.Err() == nil {
			one(ctx)
		}
	}
	w.stopped = w.stopped || ctx.Err() != nil
}

// patience is how long clients may wait in calm. A world with a broken rule
// may never come to rest.
func (w *world) patience() time.Duration {
	if w.cluster.ledger.broken != "" {
		return 20 * time.Second
	}
	return 5 * time.Minute
}

// startAll starts all brokers at once.
func (w *world) startAll(ctx context.Context) {
	var starting sync.WaitGroup
	for _, id := range w.ids {
		starting.Go(func() { w.restart(ctx, id) })
	}
	starting.Wait()
}

// rereadCold reads all again from brokers that have just begun.
func (w *world) rereadCold(ctx context.Context) {
	for _, id := range w.ids {
		w.leave(id)
	}
	w.startAll(ctx)
	first := w.read
	w.read = nil
	w.readAll(ctx)
	byPlace := func(a, b seen) int {
		return slices.Compare([]int64{int64(a.partition), a.offset}, []int64{int64(b.partition), b.offset})
	}
	a, b := slices.SortedFunc(slices.Values(first), byPlace), slices.SortedFunc(slices.Values(w.read), byPlace)
	if !slices.Equal(a, b) {
		w.report("%d records were read before a restart, after it %d, or others", len(a), len(b))
	}
	for _, id := range w.ids {
		w.leave(id)
	}
}

// leave stops a broker in order. That a seal ends its session meanwhile, which
// somebody who died since has put, is no fault of its own.
func (w *world) leave(id int32) {
	if err := w.life(id).stop(); err != nil && !errors.Is(err, wal.ErrFenced) {
		w.report("stop of %d: %v", id, err)
	}
}

// end kills what still runs, and waits for it and for all that is on its way.
func (w *world) end() {
	for _, p := range w.cluster.everybody() {
		p.kill()
		<-p.ended
	}
	time.Sleep(10 * time.Second)
}

// verdict returns all that is wrong with the histories and with the stores.
func (w *world) verdict() []string {
	bad := append(w.cluster.ledger.verdict(), w.anomalies()...)
	if len(bad) > 10 {
		bad = append(bad[:10], fmt.Sprintf("and %d more", len(bad)-10))
	}
	return bad
}

// anomalies returns what clients saw that they should not have seen.
func (w *world) anomalies() []string {
	if w.stopped {
		return w.bad
	}
	bad := append(w.bad, check(w.history, w.read, nil)...)
	bad = append(bad, w.trimmed.bad...)
	bad = append(bad, w.compacted.bad...)
	bad = append(bad, w.group.bad...)
	if w.acked() == 0 {
		bad = append(bad, "nothing was acknowledged")
	}
	return bad
}

func (w *world) acked() int {
	n := 0
	for _, s := range w.history {
		if s.acked {
			n++
		}
	}
	return n
}
