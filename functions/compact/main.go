// Command compact is the Lambda that compacts the logs that ask for it, and
// merges the small segments of the others: package tiering/compaction behind a
// schedule. What a run leaves, the next one finds.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/varvelog/varve/functions/job"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/compaction"
)

func main() {
	e := job.FromEnvironment(os.Getenv)
	lambda.Start(job.Handler(e, compaction.JobName, os.Stdout, func(ctx context.Context) (job.Run, error) { return open(ctx, e) }))
}

func open(ctx context.Context, e job.Environment) (job.Run, error) {
	c, err := job.Open(ctx, e)
	if err != nil {
		return nil, err
	}
	j, err := compaction.New(compaction.Options{
		Catalog: c.Catalog, Store: c.Store, Slots: c.Slots, Holder: catalog.FunctionHolder, Reserve: e.Reserve, Config: c.Config,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (job.Report, error) {
		s, err := j.Turn(ctx)
		return job.Report{Unfinished: s.Unfinished, Metrics: map[string]float64{
			"Logs": float64(s.Logs), "Cleaned": float64(s.Cleaned), "Records": float64(s.Records), "RecordsLeft": float64(s.Left),
			"ReadBytes": float64(s.Read), "WrittenBytes": float64(s.Written), "WaitingBytes": float64(s.Dirty), "MergedSegments": float64(s.Merged),
		}}, err
	}, nil
}
