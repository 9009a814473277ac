// Package varve is a client of Varve clusters: producer, consumer, admin and
// replay, thin over franz-go, with defaults that suit a log in object storage. The
// options of franz-go are open to who needs them (Config.Options), as any
// Kafka client works too.
package varve

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Record is one record: key, value, headers, timestamp; and once it is in the
// log, topic, partition and offset.
type Record = kgo.Record

// Header is a header of a record.
type Header = kgo.RecordHeader

// Config says how a cluster is reached. The zero Config is the cluster of
// `make run`.
type Config struct {
	Bootstrap []string      // brokers to ask first, host:port; nil: 127.0.0.1:9092
	ClientID  string        // "": "varve"
	Rack      string        // zone that this process is in: a broker there serves its reads (KIP-392)
	Timeout   time.Duration // of a request with its retries, and of the first connection; 0: 30 s
	Options   []kgo.Opt     // of franz-go, applied last
}

// A slot's takeover takes less than a second, so clients look for the new
// owner soon.
const (
	defaultBootstrap = "127.0.0.1:9092"
	defaultTimeout   = 30 * time.Second
	metadataMinAge   = 100 * time.Millisecond
	firstBackoff     = 25 * time.Millisecond
	lastBackoff      = time.Second
	recheckRack      = time.Minute
)

func (c Config) client(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	if len(c.Bootstrap) == 0 {
		c.Bootstrap = []string{defaultBootstrap}
	}
	if c.ClientID == "" {
		c.ClientID = "varve"
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	all := append([]kgo.Opt{
		kgo.SeedBrokers(c.Bootstrap...),
		kgo.ClientID(c.ClientID),
		kgo.Rack(c.Rack),
		kgo.RecheckPreferredReplicaInterval(recheckRack), // or it would stay with a broker that has died
		kgo.RetryTimeout(c.Timeout),
		kgo.MetadataMinAge(metadataMinAge),
		kgo.RetryBackoffFn(backoff),
		kgo.AlwaysRetryEOF(), // or a broker that goes as a connection begins would be taken for one that wants TLS, for good
	}, opts...)
	cl, err := kgo.NewClient(append(all, c.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("configure client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		cl.CloseAllowingRebalance()
		return nil, fmt.Errorf("connect to %v: %w", c.Bootstrap, err)
	}
	return cl, nil
}

// backoff returns how long to wait after a number of failures, from 1: twice
// as long each time, by half at random.
func backoff(failures int) time.Duration {
	d := min(firstBackoff<<min(failures-1, 10), lastBackoff)
	return d/2 + rand.N(d/2+1)
}
