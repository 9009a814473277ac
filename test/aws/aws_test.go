// Package aws runs the adapters to S3 and DynamoDB, and brokers on them,
// against servers that speak their protocols.
package aws

import (
	"testing"

	"github.com/varvelog/varve/test/internal/awstest"
)

// TestLocalStack has S3 and DynamoDB as AWS has them.
func TestLocalStack(t *testing.T) {
	endpoint := awstest.LocalStack(t)
	t.Run("s3", func(t *testing.T) { testObjects(t, endpoint) })
	t.Run("dynamodb", func(t *testing.T) { testMeta(t, endpoint) })
	t.Run("broker", func(t *testing.T) { testBroker(t, endpoint, endpoint) })
}

// TestVersity has another store that speaks S3, and DynamoDB Local by itself.
func TestVersity(t *testing.T) {
	s3, dynamodb := awstest.VersityGW(t), awstest.DynamoDBLocal(t)
	t.Run("s3", func(t *testing.T) { testObjects(t, s3) })
	t.Run("dynamodb", func(t *testing.T) { testMeta(t, dynamodb) })
	t.Run("broker", func(t *testing.T) { testBroker(t, s3, dynamodb) })
}
