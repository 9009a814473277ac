package s3store

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/varvelog/varve/tiering/objstore"
)

// errNotDeleted is for objects that the answer says are still there.
var errNotDeleted = errors.New("s3store: not deleted")

// Delete implements objstore.Store by one request, repeated as a whole.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	if err := objstore.ValidateDelete(keys); err != nil {
		return err
	}
	ids := make([]types.ObjectIdentifier, len(keys))
	for i, key := range keys {
		ids[i].Key = s.key(key)
	}
	err := s.retry(ctx, func(ctx context.Context) error {
		out, err := s.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
			Bucket: s.bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c,
		})
		if err != nil {
			return err
		}
		for _, e := range out.Errors {
			if aws.ToString(e.Code) != "NoSuchKey" {
				return fmt.Errorf("%w: %d of them, first %s: %s: %s", errNotDeleted, len(out.Errors), aws.ToString(e.Key), aws.ToString(e.Code), aws.ToString(e.Message))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete %d objects, first %s: %w", len(keys), keys[0], err)
	}
	return nil
}
