// Package dynamo is the metadata store on DynamoDB: one table, shared by all
// brokers of a cluster.
//
// Reads are strongly consistent and repeated when they fail. A commit is sent
// exactly once, because the SDK cannot tell a refused repeat from a lost race:
// what is not certain about it is the caller's to settle, as meta.Store says.
// One operation goes as a conditional PutItem or DeleteItem, or, a lone Check,
// as a read; several go as one TransactWriteItems, at twice the write units.
// A condition that fails returns the item that it met: where that carries the
// commit's own id, an earlier attempt was applied.
//
//	pk, sk       the key
//	_version     number
//	_commit      id of the last commit
//	<name>       the attributes; a name that begins with '_', is empty, or is "pk" or "sk" has a '_' before it
package dynamo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/varvelog/varve/internal/meta"
)

const (
	defaultTimeout = 5 * time.Second
	readAttempts   = 5
	firstPause     = 20 * time.Millisecond
	pageLimit      = 1000
	maxQueryPages  = 4 // of DynamoDB, 1 MiB each, in one page of Query
)

// Options configure a Store.
type Options struct {
	Table      string                // required
	Timeout    time.Duration         // of one request, besides the caller's deadline; 0: 5 s
	Registerer prometheus.Registerer // nil: no metrics
}

// Store is a metadata store in a table. It holds nothing that has to be closed.
type Store struct {
	client  *dynamodb.Client
	table   *string
	timeout time.Duration
	metrics *metrics
}

var _ meta.Store = (*Store)(nil)

// New returns the store in a table, which must exist (Create makes it).
func New(cfg aws.Config, o Options) (*Store, error) {
	if o.Table == "" {
		return nil, errors.New("open metadata table: no name")
	}
	s := &Store{table: &o.Table, timeout: o.Timeout, metrics: newMetrics()}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	if o.Registerer != nil {
		if err := s.metrics.register(o.Registerer); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	s.client = dynamodb.NewFromConfig(cfg, func(c *dynamodb.Options) {
		c.Retryer = aws.NopRetryer{}
		c.APIOptions = append(c.APIOptions, s.metrics.count)
	})
	return s, nil
}

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, key meta.Key) (meta.Item, error) {
	item, err := s.get(ctx, key)
	if err == nil && item.Version == 0 {
		return meta.Item{}, meta.ErrNotFound
	}
	return item, err
}

// get returns the item, or one of Version 0 where there is none.
func (s *Store) get(ctx context.Context, key meta.Key) (meta.Item, error) {
	var out *dynamodb.GetItemOutput
	err := s.read(ctx, func(ctx context.Context) (err error) {
		out, err = s.client.GetItem(ctx, &dynamodb.GetItemInput{
			TableName: s.table, Key: keyOf(key), ConsistentRead: aws.Bool(true), ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
		})
		return err
	})
	if err != nil {
		return meta.Item{}, fmt.Errorf("get %v: %w", key, err)
	}
	s.metrics.units(out.ConsumedCapacity, s.metrics.readUnits)
	if len(out.Item) == 0 {
		return meta.Item{Key: key}, nil
	}
	item, err := decode(out.Item)
	if err != nil {
		return meta.Item{}, fmt.Errorf("get %v: %w", key, err)
	}
	return item, nil
}

// Query implements meta.Store.
func (s *Store) Query(ctx context.Context, pk string, r meta.Range) (items []meta.Item, more bool, err error) {
	limit := r.Limit
	if limit <= 0 || limit > pageLimit {
		limit = pageLimit
	}
	in := &dynamodb.QueryInput{
		TableName: s.table, ConsistentRead: aws.Bool(true), ScanIndexForward: aws.Bool(!r.Reverse),
		ReturnConsumedCapacity:    types.ReturnConsumedCapacityTotal,
		KeyConditionExpression:    aws.String("pk = :pk"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(pk)},
	}
	if r.Prefix != "" {
		in.KeyConditionExpression = aws.String("pk = :pk AND begins_with(sk, :prefix)")
		in.ExpressionAttributeValues[":prefix"] = text(r.Prefix)
	}
	switch {
	case r.After == "":
	case strings.HasPrefix(r.After, r.Prefix):
		in.ExclusiveStartKey = keyOf(meta.Key{PK: pk, SK: r.After})
	case (r.After < r.Prefix) == r.Reverse: // all that has the prefix lies on the other side
		return nil, false, nil
	}
	for pages := 1; ; pages++ {
		in.Limit = aws.Int32(int32(limit + 1 - len(items))) // one more shows whether more follow
		next, err := s.page(ctx, in, &items)
		if err != nil {
			return nil, false, fmt.Errorf("query %s: %w", pk, err)
		}
		switch {
		case len(items) > limit:
			return items[:limit], true, nil
		case next == nil:
			return items, false, nil
		case pages >= maxQueryPages && len(items) > 1: // the last one is there to be read again
			return items[:len(items)-1], true, nil
		}
		in.ExclusiveStartKey = next
	}
}

// page appends DynamoDB's next page to items and returns where to go on.
func (s *Store) page(ctx context.Context, in *dynamodb.QueryInput, items *[]meta.Item) (next map[string]types.AttributeValue, err error) {
	var out *dynamodb.QueryOutput
	if err := s.read(ctx, func(ctx context.Context) (err error) {
		out, err = s.client.Query(ctx, in)
		return err
	}); err != nil {
		return nil, err
	}
	s.metrics.units(out.ConsumedCapacity, s.metrics.readUnits)
	for _, m := range out.Items {
		item, err := decode(m)
		if err != nil {
			return nil, err
		}
		*items = append(*items, item)
	}
	return out.LastEvaluatedKey, nil
}

// read calls fn, a read, until it succeeds, is refused for good, or has failed
// often enough.
func (s *Store) read(ctx context.Context, fn func(context.Context) error) error {
	for try := 1; ; try++ {
		attempt, cancel := context.WithTimeout(ctx, s.timeout)
		err := fn(attempt)
		cancel()
		if err == nil || try == readAttempts || forGood(err) || !pause(ctx, try) {
			return err
		}
	}
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
