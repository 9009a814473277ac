package s3store

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/varvelog/varve/tiering/objstore"
)

// Limits of multipart uploads.
const (
	maxParts     = 10_000
	firstBuffer  = 256 << 10 // bytes
	abortTimeout = 10 * time.Second
)

var errTooManyParts = fmt.Errorf("s3store: more than %d parts", maxParts)

// upload gathers a streamed body. It turns into a multipart upload when the
// body is longer than a part, and then sends each part when it is full: it
// never holds more than one.
type upload struct {
	store  *Store
	ctx    context.Context // of the Put that this upload lives in
	object created
	buf    []byte

	id    *string // of the multipart upload; nil: none was begun
	parts []types.CompletedPart
	sums  []byte // the parts' CRCs, one after the other
}

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		if err := u.ctx.Err(); err != nil {
			return n, err
		}
		if len(u.buf) == u.store.partBytes {
			if err := u.send(); err != nil {
				return n, err
			}
		}
		if u.buf == nil {
			u.buf = make([]byte, 0, min(firstBuffer, u.store.partBytes))
		}
		k := min(len(p), u.store.partBytes-len(u.buf))
		u.buf = append(u.buf, p[:k]...)
		p = p[k:]
		n += k
	}
	return n, nil
}

// send uploads what is gathered as the next part.
func (u *upload) send() error {
	if u.id == nil {
		if err := u.begin(); err != nil {
			return err
		}
	}
	if len(u.parts) == maxParts {
		return errTooManyParts
	}
	s, number, sum := u.store, aws.Int32(int32(len(u.parts)+1)), checksum(u.buf)
	var out *s3.UploadPartOutput
	err := s.retry(u.ctx, func(ctx context.Context) (err error) {
		out, err = s.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: s.bucket, Key: s.key(u.object.key), UploadId: u.id, PartNumber: number, Body: bytes.NewReader(u.buf),
			ContentLength: aws.Int64(int64(len(u.buf))), ChecksumCRC32C: &sum,
		}, unsigned)
		return err
	})
	if err != nil {
		return fmt.Errorf("upload part %d: %w", *number, err)
	}
	u.parts = append(u.parts, types.CompletedPart{PartNumber: number, ETag: out.ETag, ChecksumCRC32C: &sum})
	raw, err := base64.StdEncoding.DecodeString(sum)
	if err != nil {
		return err
	}
	u.sums = append(u.sums, raw...)
	u.object.size += int64(len(u.buf))
	u.buf = u.buf[:0]
	return nil
}

func (u *upload) begin() error {
	s := u.store
	var out *s3.CreateMultipartUploadOutput
	err := s.retry(u.ctx, func(ctx context.Context) (err error) {
		out, err = s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
			Bucket: s.bucket, Key: s.key(u.object.key), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c, ChecksumType: types.ChecksumTypeComposite,
			Metadata: map[string]string{tokenName: u.object.token},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("begin multipart upload: %w", err)
	}
	u.id = out.UploadId
	return nil
}

// close sends the last part and completes the upload. While that is
// unanswered, a look at the object tells whether it happened, and it is asked
// for again. An upload that is gone, or was refused in favour of another write
// under way, can't be repeated under its key: the outcome stays unknown, and
// the caller puts the object under another.
func (u *upload) close() error {
	if err := u.send(); err != nil {
		return u.abort(err)
	}
	u.object.sum = fmt.Sprintf("%s-%d", checksum(u.sums), len(u.parts))
	for try := 1; ; try++ {
		err := u.store.once(u.ctx, u.complete)
		if err == nil {
			return nil
		}
		status := statusOf(err)
		if status == http.StatusPreconditionFailed && try == 1 {
			return u.abort(objstore.ErrExists)
		}
		settled := u.store.settle(u.ctx, u.object)
		switch {
		case settled == nil:
			return nil
		case errors.Is(settled, objstore.ErrExists):
			return u.abort(settled)
		case try == attempts, status == http.StatusConflict, forGood(err), !pause(u.ctx, try):
			return u.abort(errors.Join(err, settled))
		}
	}
}

// errNotCompleted is for answers that say 200 and have no object.
var errNotCompleted = errors.New("s3store: the answer names no object")

func (u *upload) complete(ctx context.Context) error {
	s := u.store
	out, err := s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: s.bucket, Key: s.key(u.object.key), UploadId: u.id, IfNoneMatch: aws.String("*"),
		MultipartUpload: &types.CompletedMultipartUpload{Parts: u.parts},
	})
	if err == nil && aws.ToString(out.ETag) == "" {
		err = errNotCompleted
	}
	if err != nil {
		return fmt.Errorf("complete multipart upload: %w", err)
	}
	return nil
}

// abort gives the parts up and returns err. Where it fails, the bucket's
// lifecycle rule for incomplete uploads removes them.
func (u *upload) abort(err error) error {
	if u.id == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), abortTimeout)
	defer cancel()
	if _, aerr := u.store.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: u.store.bucket, Key: u.store.key(u.object.key), UploadId: u.id}); aerr != nil {
		return errors.Join(err, fmt.Errorf("abort multipart upload: %w", aerr))
	}
	return err
}
