// Package job is what the scheduled functions share: it opens a cluster's
// stores from the function's environment, gives each run its time, and writes what a
// run did as CloudWatch metrics.
//
// A run may be killed at any point and may run twice at once: that is the
// business of the package that does the work, under its lease.
package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/varvelog/varve/internal/catalog"
	kafkaconfig "github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta/dynamo"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/s3store"
)

// endTime is kept of a run's time for what it does at its end: recording how
// far it is.
const endTime = 20 * time.Second

// Environment are the variables of a function.
type Environment struct {
	Bucket, Prefix, Table string
	Cluster               string // names it in metrics
	Settings              string // the brokers' static settings, a JSON object of strings; "": Kafka's defaults
	// Reserve is how long brokers leave the work to the function behind a run: a
	// duration, some turns of its schedule. 0: for the job to say.
	Reserve time.Duration
}

// FromEnvironment reads them. What is no duration counts as 0.
func FromEnvironment(getenv func(string) string) Environment {
	reserve, _ := time.ParseDuration(getenv("VARVE_RESERVE")) // it orders who works, and no more
	return Environment{
		Bucket: getenv("VARVE_BUCKET"), Prefix: getenv("VARVE_PREFIX"), Table: getenv("VARVE_TABLE"),
		Cluster: getenv("VARVE_CLUSTER"), Settings: getenv("VARVE_SETTINGS"), Reserve: reserve,
	}
}

// Cluster is what a job works on.
type Cluster struct {
	Catalog *catalog.Catalog
	Store   objstore.Store
	Slots   int
	// Config returns the settings that the brokers of the cluster have: the
	// static ones of the environment, and those changed since.
	Config func() *kafkaconfig.Broker
}

// Open opens the cluster. It must have been created by a broker.
func Open(ctx context.Context, e Environment) (*Cluster, error) {
	static := map[string]string{}
	if e.Settings != "" {
		if err := json.Unmarshal([]byte(e.Settings), &static); err != nil {
			return nil, fmt.Errorf("VARVE_SETTINGS: %w", err)
		}
	}
	base, err := kafkaconfig.ParseBroker(static)
	if err != nil {
		return nil, fmt.Errorf("VARVE_SETTINGS: %w", err)
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	store, err := s3store.New(cfg, s3store.Options{Bucket: e.Bucket, Prefix: e.Prefix})
	if err != nil {
		return nil, err
	}
	table, err := dynamo.New(cfg, dynamo.Options{Table: e.Table})
	if err != nil {
		return nil, err
	}
	c := &Cluster{Catalog: catalog.New(table), Store: store}
	cl, err := c.Catalog.ReadCluster(ctx)
	if err != nil {
		return nil, err
	}
	c.Slots = cl.Slots
	c.Config = func() *kafkaconfig.Broker { return base.With(c.Catalog.Topics().BrokerConfigs("")) }
	return c, nil
}

// Report is what a run did, by metric.
type Report struct {
	Metrics    map[string]float64 `json:"metrics"`
	Unfinished bool               `json:"unfinished"` // the time was over before the work; the next run goes on
}

// Run does a job's work until it is done or ctx ends.
type Run func(ctx context.Context) (Report, error)

// Handler returns a function's handler. open is called once, by the first run that
// succeeds in it: before a broker has made the cluster, there is no work.
// Metrics go to out, a function's log.
func Handler(e Environment, name string, out io.Writer, open func(context.Context) (Run, error)) func(context.Context) (Report, error) {
	var run Run
	return func(ctx context.Context) (Report, error) {
		begin := time.Now()
		work := ctx
		if deadline, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			work, cancel = context.WithDeadline(ctx, deadline.Add(-endTime))
			defer cancel()
		}
		if run == nil {
			opened, err := open(work)
			if errors.Is(err, catalog.ErrNotFound) {
				return Report{}, nil
			}
			if err != nil {
				return Report{}, err
			}
			run = opened
		}
		r, err := run(work)
		if werr := write(out, e.Cluster, name, r, time.Since(begin)); werr != nil {
			err = errors.Join(err, fmt.Errorf("write metrics: %w", werr))
		}
		return r, err
	}
}
