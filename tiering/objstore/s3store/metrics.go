package s3store

import (
	"context"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	"github.com/prometheus/client_golang/prometheus"
)

// classes are the kinds of requests that S3 has a price for, by operation.
var classes = map[string]string{
	"PutObject": "PUT", "CreateMultipartUpload": "PUT", "UploadPart": "PUT", "CompleteMultipartUpload": "PUT", "CreateBucket": "PUT",
	"GetObject": "GET", "HeadObject": "GET",
	"ListObjectsV2": "LIST", "ListMultipartUploads": "LIST",
	"DeleteObjects": "DELETE", "AbortMultipartUpload": "DELETE",
}

// metrics count what S3 bills.
type metrics struct{ requests *prometheus.CounterVec }

func newMetrics() *metrics {
	return &metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "varve_s3_requests_total",
		Help: "Requests to S3 by kind as it is billed (PUT, GET, LIST, DELETE) and by result: ok, or the error's code.",
	}, []string{"request", "result"})}
}

// count adds a middleware that counts the requests of a client.
func (m *metrics) count(stack *middleware.Stack) error {
	return stack.Finalize.Add(middleware.FinalizeMiddlewareFunc("CountRequests",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			out, md, err := next.HandleFinalize(ctx, in)
			m.requests.WithLabelValues(classes[awsmiddleware.GetOperationName(ctx)], resultOf(err)).Inc()
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
