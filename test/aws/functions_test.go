package aws

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/brokertest"
)

// How the records of the topic of testFunctions expire.
const (
	expiring      = "events"
	expiringCount = 2000
	expiry        = 30 * time.Second // until the first half expires
	retentionMs   = int64(time.Hour / time.Millisecond)
)

// testFunctions has retention run as a function: what a broker has produced and
// rolled expires while no broker runs; the function, run by hand and then by its
// schedule alone, unreferences it and deletes its objects; replay reads what is left.
func testFunctions(t *testing.T, endpoint string) {
	bucket, table := awstest.Name("bucket"), awstest.Name("table")
	place := []string{"--bucket", bucket, "--table", table}
	env := awstest.Environ(endpoint, endpoint)
	fn := newFunction(t, endpoint, "retention", append(slices.Clone(env), "VARVE_BUCKET="+bucket, "VARVE_TABLE="+table, "VARVE_RESERVE=10m"))
	b := brokertest.StartWith(t, brokertest.Options{
		Args: append(slices.Clone(place), "--create"), Env: env, Settings: []string{"log.retention.check.interval.ms=1000"},
	})
	produceExpiring(t, b)
	if code := b.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	segments := func() []string {
		return strings.Fields(segmentKeys(varve(t, env, "", append([]string{"segment", "list"}, place...)...)))
	}
	before := segments()
	for len(segments()) == len(before) { // the broker's reservation ends, records expire, the start goes up, then the entries go
		fn.invoke(t)
		wait(t, time.Second)
	}
	fn.schedule(t, "rate(1 minute)")
	left := segments()
	for deadline := time.Now().Add(3 * time.Minute); objects(t, endpoint, bucket) != len(left); wait(t, time.Second) {
		if left = segments(); time.Now().After(deadline) {
			t.Fatalf("%d objects for %d segments, which were %d", objects(t, endpoint, bucket), len(left), len(before))
		}
	}
	if len(left) == 0 || len(left) >= len(before) {
		t.Errorf("%d segments are left of %d", len(left), len(before))
	}
	checkReplay(t, varve(t, env, "", append([]string{"replay", "--json", "--topic", expiring}, place...)...))
	if out := varve(t, env, "", append([]string{"verify"}, place...)...); !strings.Contains(out, "\n0 findings of damage, 0 ") {
		t.Errorf("verify printed %q", out)
	}
}

// produceExpiring writes segments of which the first half expires soon.
func produceExpiring(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := newClient(t, b, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	text := func(s string) *string { return &s }
	_, err := kadm.NewClient(client).CreateTopic(ctx, 1, 1, map[string]*string{
		"segment.bytes": text("1048576"), "retention.ms": text(strconv.FormatInt(retentionMs, 10)), "file.delete.delay.ms": text("1000"),
	}, expiring)
	if err != nil {
		t.Fatal(err)
	}
	for i := range expiringCount {
		at := time.Now()
		if i < expiringCount/2 {
			at = at.Add(expiry - time.Duration(retentionMs)*time.Millisecond)
		}
		r := &kgo.Record{Topic: expiring, Timestamp: at, Key: strconv.AppendInt(nil, int64(i), 10), Value: bytes.Repeat([]byte{'v'}, 4<<10)}
		client.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
		if i%250 == 249 { // so that no segment has all
			if err := client.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			wait(t, 500*time.Millisecond)
		}
	}
}

// checkReplay: the records from some offset on, up to the last one, and at
// least those that have not expired.
func checkReplay(t *testing.T, out string) {
	t.Helper()
	next, count := int64(-1), 0
	for line := range strings.Lines(out) {
		var r struct {
			Offset int64
			Key    string
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if next >= 0 && r.Offset != next || r.Key != strconv.FormatInt(r.Offset, 10) {
			t.Fatalf("key %s at offset %d, want %d", r.Key, r.Offset, next)
		}
		next, count = r.Offset+1, count+1
	}
	if next != expiringCount || count < expiringCount/2 || count == expiringCount {
		t.Errorf("%d records up to offset %d", count, next)
	}
}

// segmentKeys returns the keys that a listing names.
func segmentKeys(list string) string {
	var keys []string
	for field := range strings.FieldsSeq(list) {
		if strings.HasPrefix(field, "seg/") {
			keys = append(keys, field)
		}
	}
	return strings.Join(keys, " ")
}

// objects returns the number of segments' objects in a bucket.
func objects(t *testing.T, endpoint, bucket string) int {
	t.Helper()
	n := 0
	for _, part := range strings.SplitAfter(call(t, endpoint, "s3", http.MethodGet, "/"+bucket+"?list-type=2&prefix=seg/", "", nil), "</Key>") {
		if strings.HasSuffix(part, "</Key>") {
			n++
		}
	}
	return n
}

// lambda is a function in LocalStack.
type lambda struct{ endpoint, name, arn string }

// newFunction builds a program of functions/ for this machine and makes a
// function of it, with name=value variables.
func newFunction(t *testing.T, endpoint, program string, env []string) *lambda {
	t.Helper()
	variables := make(map[string]string)
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		variables[name] = value
	}
	f := &lambda{endpoint: endpoint, name: program + "-" + strings.ToLower(awstest.Name("f"))}
	var made struct{ FunctionArn string }
	call(t, endpoint, "lambda", http.MethodPost, "/2015-03-31/functions", "", map[string]any{
		"FunctionName": f.name, "Runtime": "provided.al2023", "Handler": "bootstrap", "Role": "arn:aws:iam::000000000000:role/r",
		"Timeout": 60, "Environment": map[string]any{"Variables": variables}, "Code": map[string]any{"ZipFile": bootstrap(t, program)},
	}, &made)
	f.arn = made.FunctionArn
	for state := ""; state != "Active"; wait(t, 100*time.Millisecond) {
		var got struct{ Configuration struct{ State string } }
		call(t, endpoint, "lambda", http.MethodGet, "/2015-03-31/functions/"+f.name, "", nil, &got)
		state = got.Configuration.State
	}
	return f
}

// bootstrap returns a program as a package.
func bootstrap(t *testing.T, program string) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "bootstrap")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "./functions/"+program)
	cmd.Dir, cmd.Env = brokertest.Root(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", program, err, out)
	}
	body, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := zip.NewWriter(&packed)
	header := &zip.FileHeader{Name: "bootstrap", Method: zip.Deflate}
	header.SetMode(0o755)
	w, err := z.CreateHeader(header)
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// invoke runs the function and waits for it.
func (f *lambda) invoke(t *testing.T) {
	t.Helper()
	out := call(t, f.endpoint, "lambda", http.MethodPost, "/2015-03-31/functions/"+f.name+"/invocations", "", map[string]any{})
	if !strings.Contains(out, `"unfinished":false`) {
		t.Fatalf("%s answered %s", f.name, out)
	}
}

// schedule has a rule of EventBridge run the function.
func (f *lambda) schedule(t *testing.T, rate string) {
	t.Helper()
	var rule struct{ RuleArn string }
	call(t, f.endpoint, "events", http.MethodPost, "/", "AWSEvents.PutRule", map[string]any{"Name": f.name, "ScheduleExpression": rate}, &rule)
	call(t, f.endpoint, "lambda", http.MethodPost, "/2015-03-31/functions/"+f.name+"/policy", "", map[string]any{
		"StatementId": "schedule", "Action": "lambda:InvokeFunction", "Principal": "events.amazonaws.com", "SourceArn": rule.RuleArn,
	})
	call(t, f.endpoint, "events", http.MethodPost, "/", "AWSEvents.PutTargets", map[string]any{"Rule": f.name, "Targets": []any{map[string]any{"Id": "f", "Arn": f.arn}}})
}

// call makes a request of a service to LocalStack, which checks no signature,
// and returns the answer, which is also decoded into out.
func call(t *testing.T, endpoint, service, method, path, target string, body any, out ...any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, endpoint+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/%s/aws4_request, SignedHeaders=host, Signature=0", service))
	if target != "" {
		req.Header.Set("X-Amz-Target", target)
		req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 || resp.Header.Get("X-Amz-Function-Error") != "" {
		t.Fatalf("%s %s %s: %s, %v: %s", service, path, target, resp.Status, err, answer)
	}
	for _, o := range out {
		if err := json.Unmarshal(answer, o); err != nil {
			t.Fatalf("%s %s: %v: %s", service, path, err, answer)
		}
	}
	return string(answer)
}

// wait is the pause between two looks at something.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("the test ends")
	}
}
