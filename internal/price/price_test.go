package price

import (
	"math"
	"strings"
	"testing"
)

func TestReadMetrics(t *testing.T) {
	u, err := ReadMetrics(strings.NewReader(`# HELP varve_s3_requests_total Requests to S3.
varve_s3_requests_total{request="DELETE",result="ok"} 3
varve_s3_requests_total{request="GET",result="NotFound"} 1
varve_s3_requests_total{request="GET",result="ok"} 2e+06
varve_s3_requests_total{request="LIST",result="ok"} 500
varve_s3_requests_total{request="PUT",result="PreconditionFailed"} 10
varve_s3_requests_total{request="PUT",result="ok"} 990
varve_dynamodb_read_units_total 1e+06
varve_dynamodb_requests_total{operation="GetItem",result="ok"} 7
varve_dynamodb_write_units_total 2e+06
go_goroutines 12
`))
	want := Usage{S3Puts: 1000, S3Gets: 2_000_001, S3Lists: 500, S3Deletes: 3, ReadUnits: 1e6, WriteUnits: 2e6}
	if err != nil || u != want {
		t.Fatalf("%+v, %v", u, err)
	}
	if got, want := u.Dollars(), 0.005+0.8+0.0025+0.125+1.25; math.Abs(got-want) > 1e-6 {
		t.Errorf("$%v, want $%v", got, want)
	}
	if got := u.Minus(want); got != (Usage{}) {
		t.Errorf("%+v is left", got)
	}
	if _, err := ReadMetrics(strings.NewReader("varve_dynamodb_read_units_total many\n")); err == nil {
		t.Error("no error of a value that is no number")
	}
}
