package job

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// write writes one line in the embedded metric format, of which CloudWatch
// makes metrics with the dimensions Cluster and Job.
func write(out io.Writer, cluster, name string, r Report, took time.Duration) error {
	type definition struct{ Name string }
	values := maps.Clone(r.Metrics)
	if values == nil {
		values = make(map[string]float64)
	}
	values["Seconds"] = took.Seconds()
	values["Unfinished"] = 0
	if r.Unfinished {
		values["Unfinished"] = 1
	}
	var metrics []definition
	line := map[string]any{"Cluster": cluster, "Job": name}
	for _, metric := range slices.Sorted(maps.Keys(values)) {
		metrics = append(metrics, definition{metric})
		line[metric] = values[metric]
	}
	line["_aws"] = map[string]any{
		"Timestamp": time.Now().UnixMilli(),
		"CloudWatchMetrics": []any{map[string]any{
			"Namespace": "Varve", "Dimensions": [][]string{{"Cluster", "Job"}}, "Metrics": metrics,
		}},
	}
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", b)
	return err
}
