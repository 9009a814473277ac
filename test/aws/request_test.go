package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// request makes a request of a service to LocalStack, which checks no
// signature, and returns the answer. what is a method and a path.
func request(t *testing.T, endpoint, service, what string, header map[string]string, body []byte) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	method, path, _ := strings.Cut(what, " ")
	req, err := http.NewRequestWithContext(ctx, method, endpoint+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/%s/aws4_request, SignedHeaders=host, Signature=0", service))
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 || resp.Header.Get("X-Amz-Function-Error") != "" {
		t.Fatalf("%s %s: %s, %v: %s", service, what, resp.Status, err, answer)
	}
	return answer
}

// call makes a request whose body is JSON.
func call(t *testing.T, endpoint, service, target string, body any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	header := map[string]string{"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
	request(t, endpoint, service, "POST /", header, text)
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

// awaitThat waits until something is so.
func awaitThat(t *testing.T, what string, limit time.Duration, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !so(); wait(t, time.Second) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v not yet: %s", limit, what)
		}
	}
}
