// Package cloud opens the stores of a cluster on AWS, as the usual environment
// says: variables, profiles, roles; AWS_ENDPOINT_URL for another S3 or DynamoDB.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/meta/dynamo"
	"github.com/varvelog/varve/tiering/objstore/s3store"
)

// idleConns is how many connections to S3 and DynamoDB are kept open: as many
// requests may be under way at a time.
const idleConns = 128

// Place is where a cluster is.
type Place struct {
	Bucket string // S3 bucket of the objects
	Prefix string // of all keys in it; "": none
	Table  string // DynamoDB table of the metadata
}

// Open opens them; it asks neither. VARVE_S3_ADDRESSING_STYLE is auto, path or
// virtual. reg may be nil. The stores hold nothing that has to be closed.
func Open(ctx context.Context, p Place, reg prometheus.Registerer) (*dynamo.Store, *s3store.Store, error) {
	if p.Bucket == "" || p.Table == "" {
		return nil, nil, errors.New("a cluster on AWS has both a bucket and a table")
	}
	cfg, err := configuration(ctx)
	if err != nil {
		return nil, nil, err
	}
	objects, err := openObjects(cfg, p, reg)
	if err != nil {
		return nil, nil, err
	}
	table, err := dynamo.New(cfg, dynamo.Options{Table: p.Table, Registerer: reg})
	if err != nil {
		return nil, nil, err
	}
	return table, objects, nil
}

// OpenObjects opens the bucket alone.
func OpenObjects(ctx context.Context, p Place, reg prometheus.Registerer) (*s3store.Store, error) {
	if p.Bucket == "" {
		return nil, errors.New("no bucket is named")
	}
	cfg, err := configuration(ctx)
	if err != nil {
		return nil, err
	}
	return openObjects(cfg, p, reg)
}

func openObjects(cfg aws.Config, p Place, reg prometheus.Registerer) (*s3store.Store, error) {
	return s3store.New(cfg, s3store.Options{Bucket: p.Bucket, Prefix: p.Prefix, Addressing: os.Getenv("VARVE_S3_ADDRESSING_STYLE"), Registerer: reg})
}

func configuration(ctx context.Context) (aws.Config, error) {
	// Errors come back to who called; what the SDK would log by itself is that a cancelled call's connection is not used again.
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithLogger(logging.Nop{}), awsconfig.WithHTTPClient(
		awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConns, t.MaxIdleConnsPerHost = idleConns, idleConns
		})))
	if err != nil {
		return cfg, fmt.Errorf("AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return cfg, errors.New("AWS configuration: no region (set AWS_REGION, or one in the profile)")
	}
	return cfg, nil
}
