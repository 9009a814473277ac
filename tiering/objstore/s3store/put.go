package s3store

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/varvelog/varve/tiering/objstore"
)

// tokenName is the metadata that names the Put which made an object.
const tokenName = "varve-put"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// created is what a Put makes, by which it knows its object again.
type created struct {
	key   string
	token string
	size  int64
	sum   string // as S3 writes it
}

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := objstore.ValidateKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.put(ctx, key, body)
	if err != nil {
		return fmt.Errorf("put object %s: %w", key, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, body objstore.Body) error {
	if bufs, ok := body.(objstore.Buffers); ok {
		return s.putWhole(ctx, key, bufs)
	}
	u := &upload{store: s, ctx: ctx, object: created{key: key, token: rand.Text()}}
	if _, err := body.WriteTo(u); err != nil {
		return u.abort(err)
	}
	if u.id == nil {
		return s.putWhole(ctx, key, objstore.Buffers{u.buf})
	}
	return u.close()
}

// putWhole puts what lies in memory by one request, repeated with the same
// bytes while its outcome is unknown.
func (s *Store) putWhole(ctx context.Context, key string, body objstore.Buffers) error {
	object := created{key: key, token: rand.Text(), size: body.Size(), sum: checksum(body...)}
	for try := 1; ; try++ {
		err := s.once(ctx, func(ctx context.Context) error {
			pieces := slices.Clone(net.Buffers(body)) // reading uses them up
			_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
				Bucket: s.bucket, Key: s.key(key), Body: io.Reader(&pieces), ContentLength: &object.size,
				IfNoneMatch: aws.String("*"), ChecksumCRC32C: &object.sum, Metadata: map[string]string{tokenName: object.token},
			}, unsigned)
			return err
		})
		switch {
		case err == nil:
			return nil
		case statusOf(err) == http.StatusPreconditionFailed && try == 1:
			return objstore.ErrExists
		case statusOf(err) == http.StatusPreconditionFailed:
			return s.settle(ctx, object)
		case try == attempts || forGood(err) || !pause(ctx, try):
			return err
		}
	}
}

// errVanished means that the object which refused a put is not there any more.
var errVanished = errors.New("outcome unknown: the object is not there")

// settle decides whether an earlier attempt made the object that is there
// (nil) or somebody else did (ErrExists).
func (s *Store) settle(ctx context.Context, object created) error {
	var out *s3.HeadObjectOutput
	err := s.retry(ctx, func(ctx context.Context) (err error) {
		out, err = s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.bucket, Key: s.key(object.key), ChecksumMode: types.ChecksumModeEnabled})
		return err
	})
	switch {
	case absent(err):
		return errVanished
	case err != nil:
		return fmt.Errorf("outcome unknown: %w", err)
	case out.Metadata[tokenName] != object.token:
		return objstore.ErrExists
	case aws.ToInt64(out.ContentLength) != object.size, out.ChecksumCRC32C != nil && *out.ChecksumCRC32C != object.sum:
		return fmt.Errorf("its object has %d bytes and checksum %s, not %d and %s", aws.ToInt64(out.ContentLength), aws.ToString(out.ChecksumCRC32C), object.size, object.sum)
	}
	return nil
}

// checksum returns the CRC-32C of the pieces together, as S3 writes it.
func checksum(pieces ...[]byte) string {
	var sum uint32
	for _, p := range pieces {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}
