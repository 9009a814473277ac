package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/varvelog/varve/tiering/objstore"
)

// ReadAt implements objstore.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, size int64, err error) {
	if err := objstore.ValidateKey(key); err != nil {
		return 0, 0, err
	}
	err = s.retry(ctx, func(ctx context.Context) (err error) {
		n, size, err = s.readAt(ctx, key, p, off)
		return err
	})
	if absent(err) {
		err = objstore.ErrNotFound
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read object %s: %w", key, err)
	}
	if _, _, eof := objstore.Range(size, off, len(p)); eof {
		err = io.EOF
	}
	return n, size, err
}

// readAt reads once. A range that lies behind the object's end, or one that
// begins before it and ends before its end, takes a HEAD for the size.
func (s *Store) readAt(ctx context.Context, key string, p []byte, off int64) (n int, size int64, err error) {
	if len(p) > 0 && off >= 0 {
		n, size, err = s.get(ctx, key, p, fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1))
	} else if len(p) > 0 && int64(len(p)) >= -off {
		n, size, err = s.get(ctx, key, p, fmt.Sprintf("bytes=%d", off))
	} else {
		err = errRange
	}
	if !errors.Is(err, errRange) {
		return n, size, err
	}
	if size, err = s.head(ctx, key); err != nil {
		return 0, 0, err
	}
	from, count, _ := objstore.Range(size, off, len(p))
	if count > 0 {
		n, size, err = s.get(ctx, key, p[:count], fmt.Sprintf("bytes=%d-%d", from, from+int64(count)-1))
	}
	return n, size, err
}

var (
	errRange  = errors.New("s3store: range needs the size")
	errAnswer = errors.New("s3store: unexpected answer")
)

// get reads a range into p and returns the object's size. errRange: it has no
// byte there.
func (s *Store) get(ctx context.Context, key string, p []byte, r string) (n int, size int64, err error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: s.bucket, Key: s.key(key), Range: &r})
	if statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
		return 0, 0, errRange
	}
	if err != nil {
		return 0, 0, err
	}
	defer out.Body.Close()
	length := aws.ToInt64(out.ContentLength)
	size, err = sizeIn(aws.ToString(out.ContentRange), length)
	if err != nil {
		return 0, 0, err
	}
	if length > int64(len(p)) {
		return 0, 0, fmt.Errorf("%w: %d bytes for range %s", errAnswer, length, r)
	}
	if length == 0 { // what some servers answer where S3 has 416
		return 0, 0, errRange
	}
	n, err = io.ReadFull(out.Body, p[:length])
	return n, size, err
}

// sizeIn returns the object's size of a Content-Range (bytes a-b/size). An
// answer without one has the whole object.
func sizeIn(contentRange string, length int64) (int64, error) {
	if contentRange == "" {
		return length, nil
	}
	_, text, _ := strings.Cut(contentRange, "/")
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || size < length {
		return 0, fmt.Errorf("%w: content range %q", errAnswer, contentRange)
	}
	return size, nil
}

func (s *Store) head(ctx context.Context, key string) (int64, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.bucket, Key: s.key(key)})
	if err != nil {
		return 0, err
	}
	return aws.ToInt64(out.ContentLength), nil
}

// List implements objstore.Store. Objects that no Put can have made are left out.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	limit = objstore.ListLimit(limit, objstore.MaxList)
	in := &s3.ListObjectsV2Input{Bucket: s.bucket, Prefix: s.key(prefix)}
	if after != "" {
		in.StartAfter = s.key(after)
	}
	var infos []objstore.Info
	for {
		in.MaxKeys = aws.Int32(int32(limit - len(infos)))
		var out *s3.ListObjectsV2Output
		err := s.retry(ctx, func(ctx context.Context) (err error) {
			out, err = s.client.ListObjectsV2(ctx, in)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list objects %q: %w", prefix, err)
		}
		for _, o := range out.Contents {
			key := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
			if objstore.ValidateKey(key) == nil {
				infos = append(infos, objstore.Info{Key: key, Size: aws.ToInt64(o.Size)})
			}
		}
		if !aws.ToBool(out.IsTruncated) || len(infos) >= limit {
			return infos[:min(len(infos), limit)], nil
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}
