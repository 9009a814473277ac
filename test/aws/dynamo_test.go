package aws

import (
	"net/http"
	"strings"
	"testing"

	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/internal/meta/dynamo"
	"github.com/varvelog/varve/internal/meta/metatest"
	"github.com/varvelog/varve/test/internal/awstest"
)

// dynamoLine returns a line whose writes are DynamoDB's.
func dynamoLine() *awstest.Line {
	return &awstest.Line{Write: func(r *http.Request) bool {
		switch operationOf(r) {
		case "PutItem", "DeleteItem", "TransactWriteItems":
			return true
		}
		return false
	}}
}

func operationOf(r *http.Request) string {
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	return op
}

func openTable(t *testing.T, endpoint string, line *awstest.Line) *dynamo.Store {
	t.Helper()
	cfg := awstest.Config(endpoint)
	cfg.HTTPClient = line
	s, err := dynamo.New(cfg, dynamo.Options{Table: awstest.Name("table")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

const amzJSON = "application/x-amz-json-1.0"

func dynamoFaults(line *awstest.Line) metatest.Faults {
	return metatest.Faults{
		Lose: line.Lose, Delay: line.Delay,
		Throttle: func() {
			line.Answer(http.StatusBadRequest, amzJSON, `{"__type":"com.amazon.coral.availability#ThrottlingException","message":"Rate of requests exceeds the allowed throughput."}`)
		},
		Conflict: func() {
			line.Next(func(r *http.Request) (*http.Response, error) {
				body := `{"__type":"com.amazonaws.dynamodb.v20120810#TransactionConflictException","message":"Transaction is ongoing for the item"}`
				if operationOf(r) == "TransactWriteItems" {
					body = `{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","message":"Transaction cancelled, please refer cancellation reasons for specific reasons [TransactionConflict, None]",
						"CancellationReasons":[{"Code":"TransactionConflict","Message":"Transaction is ongoing for the item"},{"Code":"None"}]}`
				}
				return awstest.Response(r, http.StatusBadRequest, amzJSON, body), nil
			})
		},
	}
}

func testMeta(t *testing.T, endpoint string) {
	metatest.Run(t, func(t *testing.T) meta.Store { return openTable(t, endpoint, dynamoLine()) })
	metatest.RunFaults(t, func(t *testing.T) (meta.Store, metatest.Faults) {
		line := dynamoLine()
		t.Cleanup(func() { allUsed(t, line) })
		return openTable(t, endpoint, line), dynamoFaults(line)
	})
}
