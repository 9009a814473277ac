// Command sweep is the Lambda that deletes the objects that killed writers
// left: package tiering/sweep behind a schedule. A run that its time ends is
// gone on with by the next one.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/varvelog/varve/functions/job"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/tiering/sweep"
)

func main() {
	e := job.FromEnvironment(os.Getenv)
	lambda.Start(job.Handler(e, sweep.JobName, os.Stdout, func(ctx context.Context) (job.Run, error) { return open(ctx, e) }))
}

func open(ctx context.Context, e job.Environment) (job.Run, error) {
	c, err := job.Open(ctx, e)
	if err != nil {
		return nil, err
	}
	s, err := sweep.New(sweep.Options{
		Catalog: c.Catalog, Store: c.Store, Holder: catalog.FunctionHolder, Reserve: e.Reserve,
		Grace:  func() time.Duration { return config.EffectiveTopic(c.Config(), nil).FileDeleteDelay },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (job.Report, error) {
		st, err := s.Turn(ctx)
		return job.Report{Unfinished: st.Unfinished, Metrics: map[string]float64{
			"LookedAt": float64(st.Looked), "DeletedObjects": float64(st.Objects), "DeletedBytes": float64(st.Bytes), "AbortedUploads": float64(st.Uploads),
			"ForgottenSessions": float64(st.Sessions),
		}}, err
	}, nil
}
