package awstest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varvelog/varve/test/internal/brokertest"
)

// Delayed puts a proxy before a server and returns its endpoint: answers come
// later by a time between latency and latency plus jitter, as from a store that
// is further away. Signatures hold, since the SDK signs for the proxy's address.
func Delayed(t testing.TB, endpoint string, latency, jitter time.Duration) string {
	t.Helper()
	api, listen := brokertest.FreeAddr(t), brokertest.FreeAddr(t)
	host, port, _ := strings.Cut(api, ":")
	start(t, exec.Command(filepath.Join(home(t), "bin", "toxiproxy"), "-host", host, "-port", port), "http://"+api+"/version")
	post(t, "http://"+api+"/proxies", map[string]any{
		"name": "server", "listen": listen, "upstream": strings.TrimPrefix(endpoint, "http://"), "enabled": true,
	})
	post(t, "http://"+api+"/proxies/server/toxics", map[string]any{
		"type": "latency", "stream": "downstream",
		"attributes": map[string]any{"latency": (latency + jitter/2).Milliseconds(), "jitter": (jitter / 2).Milliseconds()},
	})
	return "http://" + listen
}

func post(t testing.TB, url string, what any) {
	t.Helper()
	body, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%s: %s %s, %v", url, resp.Status, answer, err)
	}
}
