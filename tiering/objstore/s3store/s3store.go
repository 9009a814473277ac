// Package s3store is the object store on S3, or on what speaks its protocol
// and keeps conditional writes.
//
// Every put creates only (If-None-Match: *), carries a CRC-32C that the store
// checks, and is named by a random token in the object's metadata. An attempt
// that was not answered may have been applied; the next one is then refused
// because of its own object. A HEAD that shows the token tells it from
// another's, so a lost answer is neither an error nor a stranger's object:
//
//	PUT ──200──▶ created          ──412, first attempt──▶ ErrExists
//	 │
//	 └─409, 5xx, no answer──▶ PUT again ──412──▶ HEAD ──token is mine──▶ created
//	                                               └────it is not──────▶ ErrExists
//
// What lies in memory (objstore.Buffers) goes as one PUT, whatever its size. A
// streamed body is gathered; one that is longer than a part goes as a multipart
// upload, whose completion creates only as well.
//
// General-purpose buckets list in byte order of keys, as objstore.Store asks;
// S3's directory buckets do not.
package s3store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/tiering/objstore"
)

const (
	defaultTimeout = 30 * time.Second
	attempts       = 4 // of a request
	firstPause     = 50 * time.Millisecond
	maxS3Key       = 1024 // bytes
)

// DefaultPartBytes is the size of a part of a multipart upload: 10,000 of them are 156 GiB.
const DefaultPartBytes = 16 << 20

// The ways to address a bucket.
const (
	AddressAuto    = "auto"    // by path at an endpoint of one's own, by host name at AWS
	AddressPath    = "path"    // https://endpoint/bucket/key
	AddressVirtual = "virtual" // https://bucket.endpoint/key
)

// Options configure a Store.
type Options struct {
	Bucket     string                // required
	Prefix     string                // of all keys, without the '/' that follows it; "": none
	Addressing string                // AddressAuto ("", too), AddressPath or AddressVirtual
	Timeout    time.Duration         // of one request, besides the caller's deadline; 0: 30 s
	PartBytes  int                   // of a part; 0: DefaultPartBytes. S3 takes no less than 5 MiB
	Registerer prometheus.Registerer // nil: no metrics
}

// Store is an object store in a bucket. It holds nothing that has to be closed.
type Store struct {
	client    *s3.Client
	bucket    *string
	region    string
	prefix    string // "" or with the '/'
	timeout   time.Duration
	partBytes int
}

var _ objstore.Store = (*Store)(nil)

// New returns the store in a bucket, which must exist (Create makes it).
func New(cfg aws.Config, o Options) (*Store, error) {
	s := &Store{bucket: &o.Bucket, region: cfg.Region, timeout: o.Timeout, partBytes: o.PartBytes}
	if o.Bucket == "" {
		return nil, errors.New("open object store: no bucket")
	}
	if o.Prefix != "" {
		s.prefix = strings.TrimSuffix(o.Prefix, "/") + "/"
		if err := objstore.ValidateKey(strings.TrimSuffix(s.prefix, "/")); err != nil {
			return nil, fmt.Errorf("prefix: %w", err)
		}
	}
	if len(s.prefix) > maxS3Key-objstore.MaxKeyLen {
		return nil, fmt.Errorf("prefix of %d bytes: at most %d are allowed", len(s.prefix), maxS3Key-objstore.MaxKeyLen)
	}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	if s.partBytes == 0 {
		s.partBytes = DefaultPartBytes
	}
	m := newMetrics()
	if o.Registerer != nil {
		if err := o.Registerer.Register(m.requests); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	var err error
	s.client = s3.NewFromConfig(cfg, func(c *s3.Options) {
		c.Retryer = aws.NopRetryer{} // the store knows which repeats are safe, and what their answers mean
		c.UsePathStyle, err = pathStyle(o.Addressing, c.BaseEndpoint != nil)
		// The CRC-32C that each put carries is signed, so hashing the body as well adds nothing;
		// what is read is checked by those who know its format, range by range.
		c.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		c.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		c.APIOptions = append(c.APIOptions, m.count)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func pathStyle(addressing string, endpoint bool) (bool, error) {
	switch addressing {
	case "", AddressAuto:
		return endpoint, nil
	case AddressPath, AddressVirtual:
		return addressing == AddressPath, nil
	}
	return false, fmt.Errorf("addressing of buckets by %q: auto, path or virtual", addressing)
}

// unsigned leaves the body out of a request's signature.
func unsigned(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
}

// Create makes the bucket, unless it is there already and one's own.
func (s *Store) Create(ctx context.Context) error {
	in := &s3.CreateBucketInput{Bucket: s.bucket}
	if s.region != "us-east-1" { // which is the default, and must not be named
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(s.region)}
	}
	err := s.once(ctx, func(ctx context.Context) error {
		_, err := s.client.CreateBucket(ctx, in)
		return err
	})
	var mine *types.BucketAlreadyOwnedByYou
	if err != nil && !errors.As(err, &mine) {
		return fmt.Errorf("create bucket %s: %w", *s.bucket, err)
	}
	return nil
}

func (s *Store) key(key string) *string { return aws.String(s.prefix + key) }

// retry calls fn, which may be repeated, with a deadline each time, until it
// succeeds, is refused for good, or has failed often enough.
func (s *Store) retry(ctx context.Context, fn func(context.Context) error) error {
	for try := 1; ; try++ {
		err := s.once(ctx, fn)
		if err == nil || try == attempts || forGood(err) || !pause(ctx, try) {
			return err
		}
	}
}

func (s *Store) once(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return fn(ctx)
}

// pause waits before attempt try+1, longer each time and with jitter. It
// returns false when ctx ends.
func pause(ctx context.Context, try int) bool {
	t := time.NewTimer(rand.N(firstPause << try))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// forGood tells whether a request was refused for a reason that does not pass
// by itself.
func forGood(err error) bool {
	switch status := statusOf(err); status {
	case http.StatusConflict, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		return status >= http.StatusBadRequest && status < http.StatusInternalServerError && codeOf(err) != "RequestTimeout"
	}
}

// statusOf returns the HTTP status of an error, 0 if there was no answer.
func statusOf(err error) int {
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil {
		return resp.HTTPStatusCode()
	}
	return 0
}

func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// absent tells whether an error says that there is no such object.
func absent(err error) bool {
	return statusOf(err) == http.StatusNotFound && codeOf(err) != "NoSuchBucket"
}
