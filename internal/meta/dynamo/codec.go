package dynamo

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/varvelog/varve/internal/meta"
)

// The names that are not the caller's.
const (
	pkName      = "pk"
	skName      = "sk"
	versionName = "_version"
	commitName  = "_commit"
)

type attributes = map[string]types.AttributeValue

var errItem = errors.New("dynamo: not an item of this store")

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

func keyOf(k meta.Key) attributes { return attributes{pkName: text(k.PK), skName: text(k.SK)} }

// encode returns what a Create or Replace of commit id writes.
func encode(id string, op meta.Op) attributes {
	m := keyOf(op.Key)
	m[versionName], m[commitName] = number(op.Old.Version+1), text(id)
	for name, v := range op.Attrs {
		switch v := v.(type) {
		case string:
			m[outside(name)] = text(v)
		case int64:
			m[outside(name)] = number(v)
		case bool:
			m[outside(name)] = &types.AttributeValueMemberBOOL{Value: v}
		case []byte:
			m[outside(name)] = &types.AttributeValueMemberB{Value: v}
		}
	}
	return m
}

// outside returns an attribute's name in the table.
func outside(name string) string {
	if name == "" || name == pkName || name == skName || name[0] == '_' {
		return "_" + name
	}
	return name
}

func decode(m attributes) (meta.Item, error) {
	var item meta.Item
	var err error
	item.Attrs = make(meta.Attrs, len(m)-4)
	for name, v := range m {
		switch name {
		case pkName:
			item.PK, err = as[string](v)
		case skName:
			item.SK, err = as[string](v)
		case commitName:
			item.CommitID, err = as[string](v)
		case versionName:
			item.Version, err = as[int64](v)
		default:
			item.Attrs[strings.TrimPrefix(name, "_")], err = decodeValue(v)
		}
		if err != nil {
			return meta.Item{}, fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	if item.PK == "" || item.SK == "" || item.Version <= 0 || item.CommitID == "" {
		return meta.Item{}, fmt.Errorf("%w: key %v, version %d, commit %q", errItem, item.Key, item.Version, item.CommitID)
	}
	return item, nil
}

func as[T any](v types.AttributeValue) (T, error) {
	var zero T
	value, err := decodeValue(v)
	if err != nil {
		return zero, err
	}
	t, ok := value.(T)
	if !ok {
		return zero, fmt.Errorf("%w: a %T in place of a %T", errItem, value, zero)
	}
	return t, nil
}

func decodeValue(v types.AttributeValue) (any, error) {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return v.Value, nil
	case *types.AttributeValueMemberN:
		return strconv.ParseInt(v.Value, 10, 64)
	case *types.AttributeValueMemberBOOL:
		return v.Value, nil
	case *types.AttributeValueMemberB:
		return v.Value, nil
	}
	return nil, fmt.Errorf("%w: a %T", errItem, v)
}

// sizeOf returns an item's size in bytes as DynamoDB counts it, or a little
// more: a number has half a byte a digit and one or two bytes besides.
func sizeOf(m attributes) int {
	n := 0
	for name, v := range m {
		n += len(name)
		switch v := v.(type) {
		case *types.AttributeValueMemberS:
			n += len(v.Value)
		case *types.AttributeValueMemberB:
			n += len(v.Value)
		case *types.AttributeValueMemberN:
			n += len(v.Value)/2 + 3
		default:
			n++
		}
	}
	return n
}
