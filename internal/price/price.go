// Package price is what AWS asks for the requests that brokers make, and the
// sum of them as the metrics of a broker have counted it.
//
// The list is that of us-east-1 (N. Virginia), on-demand and without free
// tiers, as published in July 2025. Bytes between S3 or DynamoDB and a broker
// of the same region cost nothing.
package price

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Prices of a request or unit, in dollars.
const (
	S3Put         = 0.005 / 1_000 // PUT, COPY, POST
	S3List        = 0.005 / 1_000
	S3Get         = 0.0004 / 1_000 // GET, HEAD
	S3Delete      = 0.0
	DynamoDBWrite = 0.625 / 1_000_000 // write request unit: up to 1 KiB; twice in a transaction
	DynamoDBRead  = 0.125 / 1_000_000 // read request unit: up to 4 KiB, strongly consistent
)

// Prices of storage and transfer, in dollars.
const (
	S3GBMonth       = 0.023 // S3 Standard, the first 50 TB
	DynamoDBGBMonth = 0.25
	CrossZoneGB     = 0.01 // between zones of a region, on each side
)

// Prices of what runs all the time, in dollars an hour.
const (
	FargateVCPU   = 0.03238  // arm64
	FargateGB     = 0.00356  // of memory, arm64
	FargateDiskGB = 0.000111 // of ephemeral storage behind the first FargateDiskFree
	LoadBalancer  = 0.0225   // NLB, without its capacity units, which bootstrapping does not use up

	FargateDiskFree = 20 // GB a task
)

// HoursAMonth is how many hours AWS takes a month to have.
const HoursAMonth = 730

// Usage is a number of requests and units.
type Usage struct {
	S3Puts, S3Gets, S3Lists, S3Deletes float64
	ReadUnits, WriteUnits              float64 // of DynamoDB
}

// Dollars returns what it costs.
func (u Usage) Dollars() float64 { return Sum(u.Lines("", 1)) }

// Minus returns what was used between an earlier count and this one.
func (u Usage) Minus(earlier Usage) Usage {
	return Usage{
		S3Puts: u.S3Puts - earlier.S3Puts, S3Gets: u.S3Gets - earlier.S3Gets, S3Lists: u.S3Lists - earlier.S3Lists, S3Deletes: u.S3Deletes - earlier.S3Deletes,
		ReadUnits: u.ReadUnits - earlier.ReadUnits, WriteUnits: u.WriteUnits - earlier.WriteUnits,
	}
}

// Lines are the lines of a bill for so many times of it.
func (u Usage) Lines(cause string, times float64) []Line {
	line := func(name string, n float64, unit string, each float64) Line {
		return Line{Name: cause + " " + name, Quantity: n * times, Unit: unit, Dollars: n * times * each}
	}
	return []Line{
		line("S3: PUT", u.S3Puts, "requests", S3Put),
		line("S3: GET", u.S3Gets, "requests", S3Get),
		line("S3: LIST", u.S3Lists, "requests", S3List),
		line("S3: DELETE", u.S3Deletes, "requests", S3Delete),
		line("DynamoDB: write", u.WriteUnits, "write units", DynamoDBWrite),
		line("DynamoDB: read", u.ReadUnits, "read units", DynamoDBRead),
	}
}

// String prints the counts and the price.
func (u Usage) String() string {
	return fmt.Sprintf("S3: %.0f PUT, %.0f GET, %.0f LIST, %.0f DELETE; DynamoDB: %.1f write units, %.1f read units; $%.6f",
		u.S3Puts, u.S3Gets, u.S3Lists, u.S3Deletes, u.WriteUnits, u.ReadUnits, u.Dollars())
}

// ReadMetrics returns what a broker has used since its start, of what its
// /metrics prints. Requests that S3 failed, which it does not bill, count too.
func ReadMetrics(r io.Reader) (Usage, error) {
	var u Usage
	to := map[string]*float64{
		`varve_s3_requests_total{request="PUT"`: &u.S3Puts, `varve_s3_requests_total{request="GET"`: &u.S3Gets,
		`varve_s3_requests_total{request="LIST"`: &u.S3Lists, `varve_s3_requests_total{request="DELETE"`: &u.S3Deletes,
		"varve_dynamodb_read_units_total": &u.ReadUnits, "varve_dynamodb_write_units_total": &u.WriteUnits,
	}
	s := bufio.NewScanner(r)
	for s.Scan() {
		series, value, _ := strings.Cut(s.Text(), " ")
		series, _, _ = strings.Cut(series, ",") // the other label is the result
		sum := to[series]
		if sum == nil {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return Usage{}, fmt.Errorf("read metric %s: %w", series, err)
		}
		*sum += v
	}
	if err := s.Err(); err != nil {
		return Usage{}, fmt.Errorf("read metrics: %w", err)
	}
	return u, nil
}
