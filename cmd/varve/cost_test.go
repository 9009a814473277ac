package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func cost(t *testing.T, args ...string) (bill, error) {
	t.Helper()
	var out strings.Builder
	cmd := newRoot()
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"cost", "--json"}, args...))
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		return bill{}, err
	}
	var b bill
	if err := json.Unmarshal([]byte(out.String()), &b); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return b, nil
}

func TestCostOfWorkload(t *testing.T) {
	week, err := cost(t, "--rate", "20MB/s", "--retention", "7d")
	if err != nil {
		t.Fatal(err)
	}
	two, err := cost(t, "--rate", "20MB/s", "--retention", "336h")
	if err != nil {
		t.Fatal(err)
	}
	// A week more of 20 MB/s at 0.4 bytes at rest for each.
	if got, want := two.Month-week.Month, 20e6*7*86400/1e9*0.4*0.023; got < want*0.999 || got > want*1.001 {
		t.Errorf("a week more costs $%.2f, want $%.2f", got, want)
	}
	for _, args := range [][]string{{"--rate", "fast"}, {"--rate", "-1"}, {"--retention", "0d"}, {"--retention", "soon"}, {"--compression", "0"}, {"--brokers", "0"}} {
		if _, err := cost(t, args...); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

// Half an hour's requests are taken for those of the month.
func TestCostOfRunningBroker(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "process_start_time_seconds %.3f\n", float64(time.Now().Add(-30*time.Minute).UnixMilli())/1000)
		fmt.Fprintln(w, `varve_s3_requests_total{request="PUT",result="ok"} 1000`)
	}))
	defer s.Close()
	b, err := cost(t, "--metrics", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if want := 1460 * 0.005; b.Month < want*0.99 || b.Month > want*1.01 {
		t.Errorf("$%.4f a month, want $%.4f", b.Month, want)
	}
	if _, err := cost(t, "--metrics", "127.0.0.1:1"); err == nil {
		t.Error("a broker that is not there costs nothing")
	}
}
