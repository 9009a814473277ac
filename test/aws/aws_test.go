// Package aws runs the adapters to S3 and DynamoDB, and brokers on them,
// against servers that speak their protocols.
package aws

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/tiering/objstore"
)

// TestLocalStack has S3 and DynamoDB as AWS has them.
func TestLocalStack(t *testing.T) {
	endpoint := awstest.LocalStack(t)
	t.Run("s3", func(t *testing.T) { testObjects(t, endpoint, func(s objstore.Store) objstore.Store { return s }) })
	t.Run("dynamodb", func(t *testing.T) { testMeta(t, endpoint) })
	t.Run("broker", func(t *testing.T) { testBroker(t, endpoint, endpoint) })
}

// TestVersity has another store that speaks S3, and DynamoDB Local by itself.
func TestVersity(t *testing.T) {
	s3, dynamodb := awstest.VersityGW(t), awstest.DynamoDBLocal(t)
	t.Run("s3", func(t *testing.T) { testObjects(t, s3, func(s objstore.Store) objstore.Store { return late{s} }) })
	t.Run("dynamodb", func(t *testing.T) { testMeta(t, dynamodb) })
	t.Run("broker", func(t *testing.T) { testBroker(t, s3, dynamodb) })
	t.Run("far away", func(t *testing.T) { testFarAway(t, s3) })
}

// late is a store on versitygw, which refuses a put because the key exists a
// moment before that can be read. S3 does not: there, who was refused reads.
type late struct{ objstore.Store }

const lateBy = 300 * time.Millisecond

func (l late) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, size int64, err error) {
	for begin := time.Now(); ; {
		n, size, err = l.Store.ReadAt(ctx, key, p, off)
		if !errors.Is(err, objstore.ErrNotFound) || time.Since(begin) > lateBy {
			return n, size, err
		}
	}
}

// testFarAway: a put through a slow line takes as long as the line, and no more.
func testFarAway(t *testing.T, endpoint string) {
	const latency = 200 * time.Millisecond
	s := openBucket(t, awstest.Delayed(t, endpoint, latency, 0), s3Line())
	begin := time.Now()
	if err := s.Put(t.Context(), "k", objstore.Buffers{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < latency || took > 10*latency {
		t.Errorf("a put took %v", took)
	}
}
