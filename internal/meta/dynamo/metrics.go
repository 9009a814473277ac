package dynamo

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/middleware"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what DynamoDB bills.
type metrics struct {
	requests              *prometheus.CounterVec
	readUnits, writeUnits prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "varve_dynamodb_requests_total",
			Help: "Requests to DynamoDB by operation and by result: ok, or the error's code.",
		}, []string{"operation", "result"}),
		readUnits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "varve_dynamodb_read_units_total", Help: "Read request units consumed, as DynamoDB reports them.",
		}),
		writeUnits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "varve_dynamodb_write_units_total",
			Help: "Write request units consumed, as DynamoDB reports them; those of refused writes, which it bills and does not report, by size.",
		}),
	}
}

func (m *metrics) register(reg prometheus.Registerer) error {
	return errors.Join(reg.Register(m.requests), reg.Register(m.readUnits), reg.Register(m.writeUnits))
}

// count adds a middleware that counts the requests of a client.
func (m *metrics) count(stack *middleware.Stack) error {
	return stack.Finalize.Add(middleware.FinalizeMiddlewareFunc("CountRequests",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			out, md, err := next.HandleFinalize(ctx, in)
			m.requests.WithLabelValues(awsmiddleware.GetOperationName(ctx), resultOf(err)).Inc()
			return out, md, err
		}), middleware.After)
}

func resultOf(err error) string {
	if err == nil {
		return "ok"
	}
	if code := codeOf(err); code != "" {
		return code
	}
	return "unanswered"
}

func (m *metrics) units(c *types.ConsumedCapacity, of prometheus.Counter) {
	if c != nil {
		of.Add(aws.ToFloat64(c.CapacityUnits))
	}
}

// kib is what one write unit pays for, in bytes.
const kib = 1024

// refused counts the units of writes whose condition was false: those that
// applied ones would have cost, times for each.
func (m *metrics) refused(err error, times int, writes ...write) {
	var failed *types.ConditionalCheckFailedException
	var cancelled *types.TransactionCanceledException
	if !errors.As(err, &failed) && !errors.As(err, &cancelled) {
		return
	}
	for _, w := range writes {
		m.writeUnits.Add(float64(times * max(1, (sizeOf(w.item)+kib-1)/kib)))
	}
}
