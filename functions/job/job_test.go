package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

func TestHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		opened, missing := 0, true
		handle := Handler(Environment{Cluster: "c"}, "retention", &out, func(context.Context) (Run, error) {
			if missing {
				return nil, fmt.Errorf("read cluster: %w", catalog.ErrNotFound)
			}
			opened++
			return func(ctx context.Context) (Report, error) {
				<-ctx.Done() // more work than time
				return Report{Metrics: map[string]float64{"Removed": 3}, Unfinished: true}, nil
			}, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
		defer cancel()
		if r, err := handle(ctx); err != nil || r.Unfinished {
			t.Errorf("before there is a cluster: %+v, %v", r, err)
		}
		missing = false
		begin := time.Now()
		if r, err := handle(ctx); err != nil || !r.Unfinished {
			t.Errorf("%+v, %v", r, err)
		}
		if left := 15*time.Minute - time.Since(begin); left != endTime {
			t.Errorf("%v are left to record how far it is", left)
		}
		if _, err := handle(ctx); err != nil || opened != 1 {
			t.Errorf("opened %d times, %v", opened, err)
		}
		var line struct {
			Cluster, Job                 string
			Removed, Seconds, Unfinished float64
			AWS                          struct {
				CloudWatchMetrics []struct {
					Namespace  string
					Dimensions [][]string
					Metrics    []struct{ Name string }
				}
			} `json:"_aws"`
		}
		first, _, _ := strings.Cut(out.String(), "\n")
		if err := json.Unmarshal([]byte(first), &line); err != nil {
			t.Fatal(err)
		}
		if line.Cluster != "c" || line.Job != "retention" || line.Removed != 3 || line.Unfinished != 1 || line.Seconds != 880 {
			t.Errorf("values: %s", first)
		}
		if m := line.AWS.CloudWatchMetrics; len(m) != 1 || m[0].Namespace != "Varve" || len(m[0].Metrics) != 3 {
			t.Errorf("definitions: %s", first)
		}
	})
}

func TestOpenFails(t *testing.T) {
	broken := errors.New("no table")
	handle := Handler(Environment{}, "retention", &bytes.Buffer{}, func(context.Context) (Run, error) { return nil, broken })
	if _, err := handle(t.Context()); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	for _, settings := range []string{"{", `{"no.such.setting":"1"}`} {
		if _, err := Open(t.Context(), Environment{Settings: settings}); err == nil || !strings.Contains(err.Error(), "VARVE_SETTINGS") {
			t.Errorf("%s: %v", settings, err)
		}
	}
}
