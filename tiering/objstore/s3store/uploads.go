package s3store

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// AbortUploads gives up the multipart uploads of keys that start with prefix and
// began before a moment, and returns their number. A writer that was only slow is answered that
// its upload is gone, and begins anew under another key.
func (s *Store) AbortUploads(ctx context.Context, prefix string, before time.Time) (int, error) {
	aborted := 0
	for in := (&s3.ListMultipartUploadsInput{Bucket: s.bucket, Prefix: s.key(prefix)}); ; {
		var page *s3.ListMultipartUploadsOutput
		err := s.retry(ctx, func(ctx context.Context) (err error) {
			page, err = s.client.ListMultipartUploads(ctx, in)
			return err
		})
		if err != nil {
			return aborted, fmt.Errorf("list multipart uploads: %w", err)
		}
		for _, u := range page.Uploads {
			if !aws.ToTime(u.Initiated).Before(before) {
				continue
			}
			err := s.retry(ctx, func(ctx context.Context) error {
				_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: s.bucket, Key: u.Key, UploadId: u.UploadId})
				return err
			})
			if err != nil && statusOf(err) != http.StatusNotFound {
				return aborted, fmt.Errorf("abort multipart upload of %s: %w", aws.ToString(u.Key), err)
			}
			aborted++
		}
		if !aws.ToBool(page.IsTruncated) {
			return aborted, nil
		}
		in.KeyMarker, in.UploadIdMarker = page.NextKeyMarker, page.NextUploadIdMarker
	}
}
