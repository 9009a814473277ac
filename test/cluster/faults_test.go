package cluster

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/load"
)

const (
	s3Latency       = 25 * time.Millisecond
	dynamodbLatency = 5 * time.Millisecond
	loopback        = "127.0.0.1"
)

// afterBurst is the longest that a partition may be without an acknowledgement when the
// stores fail for as long as burst: a PUT that failed is tried again 4.5 s later at most.
const (
	burst      = 3 * time.Second
	afterBurst = burst + sessionTimeout
)

// seed returns what decides which requests go wrong: CLUSTER_SEED, or anything.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := os.Getenv("CLUSTER_SEED")
	if s == "" {
		return rand.Uint64()
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// farAway are an S3 and a DynamoDB with latency behind proxies on a host's address, one
// seed for both.
func farAway(t testing.TB, host string) (s3, dynamodb *awstest.Faulty) {
	t.Helper()
	n := seed(t)
	return awstest.NewFaulty(t, host, awstest.VersityGW(t), n, s3Latency), awstest.NewFaulty(t, host, awstest.DynamoDBLocal(t), n, dynamodbLatency)
}

// TestBadStores has requests to S3 and DynamoDB fail, be slow, and be applied and not
// answered, at once or later. What waits on a PUT that fails is not acknowledged, and what
// was is there when the broker that acknowledged it is killed.
func TestBadStores(t *testing.T) {
	t.Parallel()
	s3, dynamodb := farAway(t, loopback)
	w := start(t, onAWS(s3.URL, dynamodb.URL, "wal.interval.ms=20"))
	for range rounds(t, 1) {
		for _, b := range []struct {
			what         string
			s3, dynamodb awstest.Faults
		}{
			{what: "PUTs fail", s3: awstest.Faults{Fail: 0.5}},
			{what: "PUTs are slow", s3: awstest.Faults{Slow: 0.5}},
			{what: "PUTs are not answered", s3: awstest.Faults{Lost: 0.4, Late: 0.3}},
			{what: "commits go wrong", dynamodb: awstest.Faults{Fail: 0.2, Lost: 0.2, Late: 0.1, Slow: 0.2}},
			{"everything goes wrong", awstest.Faults{Fail: 0.1, Lost: 0.1, Late: 0.1, Slow: 0.1, Reads: true}, awstest.Faults{Fail: 0.1, Lost: 0.1, Late: 0.1, Slow: 0.1, Reads: true}},
			{what: "no PUT succeeds", s3: awstest.Faults{Fail: 1}},
		} {
			w.harm(b.what, afterBurst, func() {
				s3.Set(b.s3)
				dynamodb.Set(b.dynamodb)
				begin := time.Now()
				load.Wait(t, burst)
				if b.s3.Fail == 1 {
					w.silent(b.what, begin.Add(burst*3/4), time.Now()) // a slow one from before may take two seconds
					w.brokers[0].Kill()                                // with all that it holds and could not put
				}
				s3.Set(awstest.Faults{})
				dynamodb.Set(awstest.Faults{})
			})
		}
		w.harm("start again", afterMove, func() { w.brokers[0].Restart(t) })
	}
	w.finish()
	for _, kind := range []string{"fail", "lost", "late", "slow"} {
		if s3.Count(kind) == 0 || dynamodb.Count(kind) == 0 {
			t.Errorf("nothing met %q: S3 %s; DynamoDB %s", kind, s3, dynamodb)
		}
	}
}

// TestRollingAWS is TestRolling on S3 and DynamoDB that are some way off.
func TestRollingAWS(t *testing.T) {
	s3, dynamodb := farAway(t, loopback)
	rolling(t, onAWS(s3.URL, dynamodb.URL))
}

// TestLocalStack kills a broker whose stores are LocalStack's: true to AWS, and
// so slow that it says nothing about times, and that nothing else runs beside it.
func TestLocalStack(t *testing.T) {
	const slow = time.Minute
	aws := awstest.LocalStack(t)
	w := start(t, onAWS(aws, aws, "wal.interval.ms=250"), "--rate", "200")
	for round := range rounds(t, 1) {
		b := w.brokers[(round+1)%brokers]
		w.harm("kill -9", slow, b.Kill)
		w.harm("start again", slow, func() { b.Restart(t) })
	}
	w.finish()
}
