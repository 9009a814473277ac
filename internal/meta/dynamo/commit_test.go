package dynamo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/varvelog/varve/internal/meta"
)

// server answers requests without a network.
type server struct {
	answer   func(operation string) (status int, body string, err error)
	requests []string // operations
}

func (s *server) Do(r *http.Request) (*http.Response, error) {
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	s.requests = append(s.requests, op)
	status, body, err := s.answer(op)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}, nil
}

func newStore(t *testing.T, s *server, reg prometheus.Registerer) *Store {
	t.Helper()
	store, err := New(aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String("http://nowhere.invalid"), HTTPClient: s,
		Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	}, Options{Table: "table", Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func refused(code, more string) string {
	return fmt.Sprintf(`{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"m"%s}`, code, more)
}

func cancelled(reasons ...string) string {
	return refused("TransactionCanceledException", `,"CancellationReasons":[`+strings.Join(reasons, ",")+`]`)
}

const (
	mine      = `"Item":{"pk":{"S":"p"},"sk":{"S":"a"},"_version":{"N":"2"},"_commit":{"S":"mine"}}`
	theirs    = `"Item":{"pk":{"S":"p"},"sk":{"S":"a"},"_version":{"N":"2"},"_commit":{"S":"theirs"}}`
	none      = `{"Code":"None"}`
	failed    = `{"Code":"ConditionalCheckFailed","Message":"The conditional request failed"}`
	conflicts = `{"Code":"TransactionConflict"}`
)

var errUnknown = errors.New("unknown")

// TestOutcomes has every answer to a commit, and what it says: one request is
// sent, whatever comes back.
func TestOutcomes(t *testing.T) {
	errReset := errors.New("connection reset")
	tests := []struct {
		name   string
		ops    int
		status int
		body   string
		err    error
		want   error
	}{
		{"applied", 1, 200, `{}`, nil, nil},
		{"applied", 2, 200, `{}`, nil, nil},
		{"false condition, no item", 1, 400, refused("ConditionalCheckFailedException", ""), nil, meta.ErrConflict},
		{"false condition, another's item", 1, 400, refused("ConditionalCheckFailedException", ","+theirs), nil, meta.ErrConflict},
		{"false condition, an earlier attempt's item", 1, 400, refused("ConditionalCheckFailedException", ","+mine), nil, nil},
		{"false condition", 2, 400, cancelled(none, failed), nil, meta.ErrConflict},
		{"false conditions, an earlier attempt's item", 2, 400, cancelled(failed, `{"Code":"ConditionalCheckFailed",`+mine+`}`), nil, nil},
		{"false conditions, another's item", 2, 400, cancelled(`{"Code":"ConditionalCheckFailed",`+theirs+`}`, failed), nil, meta.ErrConflict},
		{"false condition and conflict", 2, 400, cancelled(conflicts, failed), nil, meta.ErrConflict},
		{"conflict", 2, 400, cancelled(conflicts, none), nil, meta.ErrBusy},
		{"throttled items", 2, 400, cancelled(`{"Code":"ThrottlingError"}`, `{"Code":"ProvisionedThroughputExceeded"}`), nil, meta.ErrBusy},
		{"invalid item", 2, 400, cancelled(`{"Code":"ValidationError"}`, none), nil, meta.ErrInvalid},
		{"conflict with a transaction", 1, 400, refused("TransactionConflictException", ""), nil, meta.ErrBusy},
		{"throttled", 1, 400, refused("ThrottlingException", ""), nil, meta.ErrBusy},
		{"throttled", 2, 400, refused("ProvisionedThroughputExceededException", ""), nil, meta.ErrBusy},
		{"account's limit", 1, 400, refused("RequestLimitExceeded", ""), nil, meta.ErrBusy},
		{"invalid", 1, 400, refused("ValidationException", ""), nil, meta.ErrInvalid},
		{"still under way", 2, 400, refused("TransactionInProgressException", ""), nil, errUnknown},
		{"no table", 1, 400, refused("ResourceNotFoundException", ""), nil, errUnknown},
		{"broken server", 1, 500, refused("InternalServerError", ""), nil, errUnknown},
		{"broken server", 2, 503, `<html>`, nil, errUnknown},
		{"broken answer", 1, 200, `{"Attr`, nil, errUnknown},
		{"no answer", 1, 0, "", errReset, errUnknown},
		{"no answer", 2, 0, "", errReset, errUnknown},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s/%d", tt.name, tt.ops), func(t *testing.T) {
			srv := &server{answer: func(string) (int, string, error) { return tt.status, tt.body, tt.err }}
			ops := []meta.Op{meta.Create(meta.Key{PK: "p", SK: "a"}, nil), meta.Check(meta.Item{Key: meta.Key{PK: "p", SK: "b"}})}
			err := newStore(t, srv, nil).Commit(t.Context(), "mine", ops[:tt.ops]...)
			if got := kindOf(err); got != tt.want {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if len(srv.requests) != 1 {
				t.Errorf("%d requests were sent: %v", len(srv.requests), srv.requests)
			}
		})
	}
}

func kindOf(err error) error {
	for _, kind := range []error{meta.ErrConflict, meta.ErrBusy, meta.ErrInvalid} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	if err != nil {
		return errUnknown
	}
	return nil
}

// TestNothingIsSent has the commits that end before a request.
func TestNothingIsSent(t *testing.T) {
	srv := &server{}
	s := newStore(t, srv, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	key := meta.Key{PK: "p", SK: "a"}
	if err := s.Commit(ctx, "id", meta.Create(key, nil)); !errors.Is(err, meta.ErrBusy) || !errors.Is(err, context.Canceled) {
		t.Errorf("no time: %v", err)
	}
	attrs := meta.Attrs{}
	for i := range 37 { // within the port's count, over DynamoDB's with the two names of its own
		attrs[fmt.Sprint("a", i)] = bytes.Repeat([]byte{1}, 11_064)
	}
	if err := s.Commit(t.Context(), strings.Repeat("i", 200), meta.Create(key, attrs)); !errors.Is(err, meta.ErrInvalid) {
		t.Errorf("over DynamoDB's limit: %v", err)
	}
	if len(srv.requests) > 0 {
		t.Errorf("%v were sent", srv.requests)
	}
}

// TestReadsAreRepeated: throttling and broken answers pass, refusals do not.
func TestReadsAreRepeated(t *testing.T) {
	answers := []struct {
		status int
		body   string
	}{{400, refused("ThrottlingException", "")}, {500, ""}, {200, `{"It`}, {200, `{"Item":{"pk":{"S":"p"},"sk":{"S":"a"},"_version":{"N":"3"},"_commit":{"S":"c"},"__x":{"BOOL":true}}}`}}
	n := 0
	srv := &server{answer: func(string) (int, string, error) { n++; return answers[n-1].status, answers[n-1].body, nil }}
	item, err := newStore(t, srv, nil).Get(t.Context(), meta.Key{PK: "p", SK: "a"})
	if err != nil || n != 4 || item.Version != 3 || item.Attrs["_x"] != true {
		t.Errorf("%+v after %d requests, %v", item, n, err)
	}
	srv = &server{answer: func(string) (int, string, error) { return 400, refused("ResourceNotFoundException", ""), nil }}
	if _, err := newStore(t, srv, nil).Get(t.Context(), meta.Key{PK: "p", SK: "a"}); err == nil || len(srv.requests) != 1 {
		t.Errorf("no table: %v after %d requests", err, len(srv.requests))
	}
}

// silent is a server that never answers.
type silent struct{}

func (silent) Do(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestDeadline: every request has one, whatever its caller gave.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(aws.Config{Region: "us-east-1", HTTPClient: silent{}, Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")}, Options{Table: "table", Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err = s.Commit(t.Context(), "id", meta.Create(meta.Key{PK: "p", SK: "a"}, nil))
		if kindOf(err) != errUnknown || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("commit: %v after %v", err, time.Since(start))
		}
		start = time.Now()
		if _, _, err := s.Query(t.Context(), "p", meta.Range{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*readAttempts*time.Second {
			t.Errorf("query: %v after %v", err, time.Since(start))
		}
	})
}

// TestMetrics: what DynamoDB says it bills is counted, and what it does not say.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	srv := &server{answer: func(op string) (int, string, error) {
		switch op {
		case "GetItem":
			return 200, `{"ConsumedCapacity":{"CapacityUnits":1.5}}`, nil
		case "PutItem":
			return 200, `{"ConsumedCapacity":{"CapacityUnits":3}}`, nil
		}
		return 400, cancelled(failed, none), nil
	}}
	s := newStore(t, srv, reg)
	k := meta.Key{PK: "p", SK: "a"}
	if _, err := s.Get(t.Context(), k); !errors.Is(err, meta.ErrNotFound) {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), "id", meta.Create(k, nil)); err != nil {
		t.Fatal(err)
	}
	err := s.Commit(t.Context(), "id", meta.Create(k, meta.Attrs{"b": make([]byte, 1500)}), meta.Check(meta.Item{Key: meta.Key{PK: "p", SK: "b"}}))
	if !errors.Is(err, meta.ErrConflict) {
		t.Fatal(err)
	}
	const want = `
# HELP varve_dynamodb_read_units_total Read request units consumed, as DynamoDB reports them.
# TYPE varve_dynamodb_read_units_total counter
varve_dynamodb_read_units_total 1.5
# HELP varve_dynamodb_requests_total Requests to DynamoDB by operation and by result: ok, or the error's code.
# TYPE varve_dynamodb_requests_total counter
varve_dynamodb_requests_total{operation="GetItem",result="ok"} 1
varve_dynamodb_requests_total{operation="PutItem",result="ok"} 1
varve_dynamodb_requests_total{operation="TransactWriteItems",result="TransactionCanceledException"} 1
# HELP varve_dynamodb_write_units_total Write request units consumed, as DynamoDB reports them; those of refused writes, which it bills and does not report, by size.
# TYPE varve_dynamodb_write_units_total counter
varve_dynamodb_write_units_total 9
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
