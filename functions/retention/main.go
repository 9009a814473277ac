// Command retention is the Lambda that applies retention to a cluster: package
// tiering/retention behind a schedule. A run that its time ends is gone on
// with by the next one.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/varvelog/varve/functions/job"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/retention"
)

func main() {
	e := job.FromEnvironment(os.Getenv)
	lambda.Start(job.Handler(e, retention.JobName, os.Stdout, func(ctx context.Context) (job.Run, error) { return open(ctx, e) }))
}

func open(ctx context.Context, e job.Environment) (job.Run, error) {
	c, err := job.Open(ctx, e)
	if err != nil {
		return nil, err
	}
	r, err := retention.New(retention.Options{
		Catalog: c.Catalog, Store: c.Store, Slots: c.Slots, Holder: catalog.FunctionHolder, Reserve: e.Reserve, Config: c.Config,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (job.Report, error) {
		s, err := r.Turn(ctx)
		return job.Report{Unfinished: s.Unfinished, Metrics: map[string]float64{
			"Partitions": float64(s.Partitions), "RaisedStarts": float64(s.Raised),
			"RemovedSegments": float64(s.Segments), "RemovedBytes": float64(s.Bytes), "DeletedObjects": float64(s.Objects), "ExpiredOffsets": float64(s.Offsets), "ExpiredTransactionalIds": float64(s.Txns),
		}}, err
	}, nil
}
