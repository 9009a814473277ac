package clients

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/clients/driver"
)

// feature is a row of the table. run returns the cell, or fails the test.
type feature struct {
	name string
	run  func(t *testing.T, r *rig, c client) string
}

const (
	yes = "yes"
	no  = "client: no"
)

var features = slices.Concat(
	[]feature{{"version", version}},
	each("produce", codecs, produce),
	each("consume", codecs, consume),
	[]feature{
		{"keys", func(*testing.T, *rig, client) string { return yes }}, // these three are compared in each record
		{"headers", func(*testing.T, *rig, client) string { return yes }},
		{"timestamps", timestamps},
		{"groups, rebalance", group},
		{"seek", seek},
	},
	each("commit", []string{"sync", "async", "auto"}, commit),
	[]feature{
		{"large messages", large},
		{"idempotence", idempotence},
		{"topics: create, list, delete", admin},
		{"transactions", transactions},
	},
)

// each returns a feature for each variant.
func each(name string, variants []string, run func(t *testing.T, r *rig, c client, variant string) string) []feature {
	var all []feature
	for _, v := range variants {
		all = append(all, feature{name + " " + v, func(t *testing.T, r *rig, c client) string { return run(t, r, c, v) }})
	}
	return all
}

func version(t *testing.T, r *rig, c client) string {
	out, _ := r.run(t, c, "version")
	return strings.TrimSpace(string(out))
}

func produce(t *testing.T, r *rig, c client, codec string) string {
	topic := c.program + "-" + codec
	r.create(t, topic, driver.Partitions)
	if _, ok := r.run(t, c, "produce", topic, codec, itoa(count)); !ok {
		return no
	}
	for _, k := range written(t, r, c, topic) {
		if got := codecs[k.Attrs.CompressionType()]; got != codec {
			t.Fatalf("partition %d offset %d was compressed with %s", k.Partition, k.Offset, got)
		}
	}
	return yes
}

// written reads a topic with franz-go and compares it with what the client should have written.
func written(t *testing.T, r *rig, c client, topic string) []*kgo.Record {
	t.Helper()
	all := r.read(t, topic, count)
	var got []driver.Record
	for _, k := range all {
		got = append(got, printable(k))
	}
	want := made()
	byPartition(got)
	if c.plain {
		for i := range min(len(got), len(want)) {
			want[i].Headers = want[i].Headers[1:] // without its number
			want[i].Timestamp = got[i].Timestamp
		}
	}
	same(t, got, want)
	return all
}

func printable(k *kgo.Record) driver.Record {
	p := driver.Record{Partition: k.Partition, Offset: k.Offset, Timestamp: k.Timestamp.UnixMilli(), Key: k.Key, Value: k.Value}
	for _, h := range k.Headers {
		p.Headers = append(p.Headers, driver.Header{Name: h.Key, Value: h.Value})
	}
	return p
}

func consume(t *testing.T, r *rig, c client, codec string) string {
	out, ok := r.run(t, c, "consume", shared(codec), itoa(count))
	if !ok {
		return no
	}
	same(t, records(t, out), made())
	return yes
}

func timestamps(_ *testing.T, _ *rig, c client) string {
	if c.plain {
		return "client: reads only"
	}
	return yes
}

func group(t *testing.T, r *rig, c client) string {
	topic := c.program + "-group"
	r.create(t, topic, 4)
	if _, ok := r.run(t, c, "group", topic, topic); !ok {
		return no
	}
	return yes
}

func seek(t *testing.T, r *rig, c client) string {
	offsets := []int{5, 0, 19, 7}
	args := []string{"seek", shared("none")}
	var want []driver.Record
	for _, o := range offsets {
		args = append(args, itoa(o))
		want = append(want, driver.Make(o*driver.Partitions+1))
	}
	out, ok := r.run(t, c, args...)
	if !ok {
		return no
	}
	same(t, records(t, out), want)
	return yes
}

func commit(t *testing.T, r *rig, c client, mode string) string {
	name := c.program + "-commit-" + mode
	out, ok := r.run(t, c, "commit", mode, shared("none"), name, itoa(count))
	if !ok {
		return no
	}
	same(t, records(t, out), made())
	committed(t, r, name)
	return yes
}

// committed fails the test unless a group has committed the end of what all have read.
func committed(t *testing.T, r *rig, group string) {
	t.Helper()
	offsets, err := kadm.NewClient(r.open(t)).FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(driver.Partitions) {
		if o, ok := offsets.Lookup(shared("none"), p); !ok || o.At != count/driver.Partitions {
			t.Errorf("partition %d: committed is %d (%v)", p, o.At, ok)
		}
	}
}

func large(t *testing.T, r *rig, c client) string {
	topic := c.program + "-large"
	r.create(t, topic, 1)
	if _, ok := r.run(t, c, "large", topic, itoa(largeSize)); !ok {
		return no
	}
	if got := r.read(t, topic, 1)[0].Value; !bytes.Equal(got, driver.Large(largeSize)) {
		t.Fatalf("%d other bytes were written", len(got))
	}
	return yes
}

func idempotence(t *testing.T, r *rig, c client) string {
	topic := c.program + "-idempotent"
	r.create(t, topic, driver.Partitions)
	if _, ok := r.run(t, c, "idempotent", topic, itoa(count)); !ok {
		return no
	}
	for _, k := range written(t, r, c, topic) {
		if k.ProducerID < 0 {
			t.Fatalf("partition %d offset %d was written without a producer id", k.Partition, k.Offset)
		}
	}
	return yes
}

func admin(t *testing.T, r *rig, c client) string {
	if _, ok := r.run(t, c, "admin", c.program+"-admin"); !ok {
		return no
	}
	return yes
}

// transactions reads a topic to the last marker. In each partition there are a
// record of an aborted transaction and its marker, those of the committed one
// and its marker, and again a record of an aborted one and its marker.
func transactions(t *testing.T, r *rig, c client) string {
	topic := c.program + "-transactions"
	r.create(t, topic, driver.Partitions)
	out, ok := r.run(t, c, "transact", shared("none"), topic, topic, itoa(count))
	if !ok {
		return no
	}
	want := made()
	for i := range want {
		want[i].Offset += 2
	}
	same(t, records(t, out), want)
	for _, reader := range []struct {
		level   kgo.IsolationLevel
		aborted int // records of aborted transactions that it sees
	}{{kgo.ReadCommitted(), 0}, {kgo.ReadUncommitted(), 2 * driver.Partitions}} {
		n := count + reader.aborted + 3*driver.Partitions
		aborted := 0
		var got []driver.Record
		for _, k := range r.read(t, topic, n, kgo.FetchIsolationLevel(reader.level), kgo.KeepControlRecords()) {
			switch {
			case k.Attrs.IsControl():
			case string(k.Value) == driver.No:
				aborted++
			default:
				got = append(got, printable(k))
			}
		}
		if aborted != reader.aborted {
			t.Fatalf("%d records of aborted transactions, want %d", aborted, reader.aborted)
		}
		same(t, byPartition(got), want)
	}
	committed(t, r, topic)
	return yes
}

func itoa(i int) string { return strconv.Itoa(i) }
