package dynamo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

const createTimeout = 2 * time.Minute

// Create makes the table, billed by request, and waits until it can be used.
// A table that is there already is checked for its key and left as it is.
func (s *Store) Create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	_, err := s.client.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName:   s.table,
		BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(pkName), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String(skName), AttributeType: types.ScalarAttributeTypeS},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(pkName), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String(skName), KeyType: types.KeyTypeRange},
		},
	})
	var exists *types.ResourceInUseException
	if err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("create table %s: %w", *s.table, err)
	}
	waiter := dynamodb.NewTableExistsWaiter(s.client, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 200*time.Millisecond, 5*time.Second
	})
	out, err := waiter.WaitForOutput(ctx, &dynamodb.DescribeTableInput{TableName: s.table}, createTimeout)
	if err != nil {
		return fmt.Errorf("await table %s: %w", *s.table, err)
	}
	return checkKey(out.Table)
}

func checkKey(t *types.TableDescription) error {
	key := make(map[types.KeyType]string)
	for _, k := range t.KeySchema {
		for _, a := range t.AttributeDefinitions {
			if aws.ToString(a.AttributeName) == aws.ToString(k.AttributeName) {
				key[k.KeyType] = aws.ToString(k.AttributeName) + " " + string(a.AttributeType)
			}
		}
	}
	if key[types.KeyTypeHash] != pkName+" S" || key[types.KeyTypeRange] != skName+" S" {
		return fmt.Errorf("table %s: its key is %v, not the strings pk and sk", aws.ToString(t.TableName), key)
	}
	return nil
}
