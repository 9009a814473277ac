package dynamo

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/varvelog/varve/internal/meta"
)

// Conditions on the item under the key.
const (
	isAbsent = "attribute_not_exists(pk)"
	isOld    = "#v = :v AND #c = :c" // version and commit id
)

// write is an operation as it is sent.
type write struct {
	op     meta.Op
	item   attributes // of Create and Replace
	cond   string
	names  map[string]string
	values attributes
}

// returnOld makes a refusal return the item that it met.
const returnOld = types.ReturnValuesOnConditionCheckFailureAllOld

// Commit implements meta.Store. It sends one request.
func (s *Store) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	if err := meta.Validate(id, ops); err != nil {
		return err
	}
	writes, err := encodeAll(id, ops)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", meta.ErrBusy, err)
	}
	if len(ops) == 1 && ops[0].Kind == meta.OpCheck {
		return s.check(ctx, ops[0])
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if len(ops) == 1 {
		err = s.single(ctx, writes[0])
	} else {
		err = s.transact(ctx, id, writes)
	}
	return outcome(id, err)
}

func encodeAll(id string, ops []meta.Op) ([]write, error) {
	writes := make([]write, len(ops))
	total := 0
	for i, op := range ops {
		w := write{op: op, cond: isAbsent}
		if op.Old.Version > 0 && op.Kind != meta.OpCreate {
			w.cond = isOld
			w.names = map[string]string{"#v": versionName, "#c": commitName}
			w.values = attributes{":v": number(op.Old.Version), ":c": text(op.Old.CommitID)}
		}
		if op.Kind == meta.OpCreate || op.Kind == meta.OpReplace {
			w.item = encode(id, op)
			n := sizeOf(w.item)
			if total += n; n > meta.MaxItemBytes {
				return nil, fmt.Errorf("%w: item %v has %d bytes", meta.ErrInvalid, op.Key, n)
			}
		}
		writes[i] = w
	}
	if total > meta.MaxTxnBytes {
		return nil, fmt.Errorf("%w: %d bytes", meta.ErrInvalid, total)
	}
	return writes, nil
}

// check is a commit of one Check: nothing is written, so it may be repeated.
func (s *Store) check(ctx context.Context, op meta.Op) error {
	now, err := s.get(ctx, op.Key)
	switch {
	case err != nil:
		return fmt.Errorf("%w: check: %w", meta.ErrBusy, err)
	case !op.Holds(now):
		return meta.ErrConflict
	}
	return nil
}

// single writes one item.
func (s *Store) single(ctx context.Context, w write) error {
	var used *types.ConsumedCapacity
	var err error
	if w.op.Kind == meta.OpDelete {
		var out *dynamodb.DeleteItemOutput
		if out, err = s.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{
			TableName: s.table, Key: keyOf(w.op.Key), ConditionExpression: &w.cond,
			ExpressionAttributeNames: w.names, ExpressionAttributeValues: w.values,
			ReturnValuesOnConditionCheckFailure: returnOld, ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
		}); err == nil {
			used = out.ConsumedCapacity
		}
	} else {
		var out *dynamodb.PutItemOutput
		if out, err = s.client.PutItem(ctx, &dynamodb.PutItemInput{
			TableName: s.table, Item: w.item, ConditionExpression: &w.cond,
			ExpressionAttributeNames: w.names, ExpressionAttributeValues: w.values,
			ReturnValuesOnConditionCheckFailure: returnOld, ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
		}); err == nil {
			used = out.ConsumedCapacity
		}
	}
	if err != nil {
		s.metrics.refused(err, 1, w)
		return err
	}
	s.metrics.units(used, s.metrics.writeUnits)
	return nil
}

// transact writes several items or none. The request token makes a repeat of
// the same commit answer as the first did, for ten minutes; nothing here
// relies on it.
func (s *Store) transact(ctx context.Context, id string, writes []write) error {
	items := make([]types.TransactWriteItem, len(writes))
	for i, w := range writes {
		switch w.op.Kind {
		case meta.OpCreate, meta.OpReplace:
			items[i].Put = &types.Put{
				TableName: s.table, Item: w.item, ConditionExpression: &writes[i].cond,
				ExpressionAttributeNames: w.names, ExpressionAttributeValues: w.values, ReturnValuesOnConditionCheckFailure: returnOld,
			}
		case meta.OpDelete:
			items[i].Delete = &types.Delete{
				TableName: s.table, Key: keyOf(w.op.Key), ConditionExpression: &writes[i].cond,
				ExpressionAttributeNames: w.names, ExpressionAttributeValues: w.values, ReturnValuesOnConditionCheckFailure: returnOld,
			}
		case meta.OpCheck:
			items[i].ConditionCheck = &types.ConditionCheck{
				TableName: s.table, Key: keyOf(w.op.Key), ConditionExpression: &writes[i].cond,
				ExpressionAttributeNames: w.names, ExpressionAttributeValues: w.values, ReturnValuesOnConditionCheckFailure: returnOld,
			}
		}
	}
	in := &dynamodb.TransactWriteItemsInput{TransactItems: items, ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal}
	if len(id) <= maxToken {
		in.ClientRequestToken = &id
	}
	out, err := s.client.TransactWriteItems(ctx, in)
	if err != nil {
		s.metrics.refused(err, 2, writes...)
		return err
	}
	for i := range out.ConsumedCapacity {
		s.metrics.units(&out.ConsumedCapacity[i], s.metrics.writeUnits)
	}
	return nil
}

// maxToken is the longest client request token in bytes.
const maxToken = 36

// outcome puts the answer to a commit into the port's terms. Only answers of
// DynamoDB that exclude the commit make it anything but unknown.
func outcome(id string, err error) error {
	if err == nil {
		return nil
	}
	var failed *types.ConditionalCheckFailedException
	var cancelled *types.TransactionCanceledException
	switch {
	case errors.As(err, &failed):
		return refusal(id, failed.Item, err)
	case errors.As(err, &cancelled):
		return cancellation(id, cancelled)
	}
	switch codeOf(err) {
	case "TransactionConflictException", "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded":
		return fmt.Errorf("%w: %w", meta.ErrBusy, err)
	case "ValidationException":
		return fmt.Errorf("%w: %w", meta.ErrInvalid, err)
	}
	return fmt.Errorf("commit metadata: %w", err)
}

// refusal is the outcome of a commit whose condition was false of an item.
func refusal(id string, met attributes, err error) error {
	if c, ok := met[commitName].(*types.AttributeValueMemberS); ok && c.Value == id {
		return nil // an earlier attempt of this very commit was applied
	}
	return fmt.Errorf("%w: %w", meta.ErrConflict, err)
}

// cancellation is the outcome of a transaction that was not applied: a false
// condition outweighs the reasons that may pass.
func cancellation(id string, err *types.TransactionCanceledException) error {
	kind := meta.ErrBusy
	for _, r := range err.CancellationReasons {
		switch aws.ToString(r.Code) {
		case "ConditionalCheckFailed":
			if refusal(id, r.Item, err) == nil {
				return nil
			}
			kind = meta.ErrConflict
		case "ValidationError", "ItemCollectionSizeLimitExceeded":
			if errors.Is(kind, meta.ErrBusy) {
				kind = meta.ErrInvalid
			}
		}
	}
	return fmt.Errorf("%w: %w", kind, err)
}

func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// forGood tells whether an error of a read will not pass by itself: a refusal
// that is the request's or the caller's fault, throttling excepted.
func forGood(err error) bool {
	switch codeOf(err) {
	case "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded":
		return false
	}
	var resp *smithyhttp.ResponseError
	return errors.As(err, &resp) && resp.HTTPStatusCode() >= http.StatusBadRequest && resp.HTTPStatusCode() < http.StatusInternalServerError
}
