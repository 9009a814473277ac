package awstest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	maxBody        = 32 << 20         // bytes of a request: two WAL objects
	forwardTimeout = 30 * time.Second // of a request at the server
	slowest        = 2 * time.Second  // that a slow request takes longer
	latest         = 3 * time.Second  // after which a late one is applied
)

// Faults are shares of the requests, from 0 to 1, that go wrong in one way
// each: together at most 1.
type Faults struct {
	Fail  float64 // not applied, and answered with 500 or 503
	Lost  float64 // applied, and then not answered, or with 500
	Late  float64 // not answered, and applied some time later
	Slow  float64 // applied and answered, up to two seconds late on either way
	Reads bool    // those that only read go wrong too
}

// Faulty is a proxy before a server of this package, which delays all requests
// as a store further away does, and through which some go wrong. Which ones is
// decided by a seed and the count of those that could have. Signatures hold, since
// the SDK signs for the proxy's address.
type Faulty struct {
	URL string

	server  string // host:port
	seed    uint64
	latency time.Duration
	line    *http.Transport
	late    sync.WaitGroup // requests that are applied after their end

	mu     sync.Mutex // guards all below
	faults Faults
	drawn  uint64
	counts map[string]int // of faults
}

// NewFaulty starts a proxy on a host's address whose requests all take a
// latency to twice that, and have no other fault yet. It ends with the test,
// which prints the seed and what went wrong.
func NewFaulty(t testing.TB, host, server string, seed uint64, latency time.Duration) *Faulty {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	p := &Faulty{
		URL: "http://" + l.Addr().String(), server: strings.TrimPrefix(server, "http://"), seed: seed, latency: latency,
		line:   &http.Transport{MaxIdleConnsPerHost: 128, DisableCompression: true}, // the answer's bytes as they are
		counts: make(map[string]int),
	}
	s := &http.Server{Handler: p, ReadHeaderTimeout: forwardTimeout, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() {
		_ = s.Serve(l) // until it is closed
		close(ended)
	}()
	t.Cleanup(func() {
		_ = s.Close() // the requests under way are cut
		<-ended
		p.late.Wait()
		p.line.CloseIdleConnections()
		t.Logf("proxy with seed %d: %s", seed, p)
	})
	return p
}

// Set says what goes wrong from now on.
func (p *Faulty) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Count returns how many requests went wrong in a way: "fail", "lost", "late", "slow".
func (p *Faulty) Count(kind string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[kind]
}

// String lists what went wrong.
func (p *Faulty) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(p.counts)) {
		fmt.Fprintf(&b, "%d %s, ", p.counts[kind], kind)
	}
	return b.String() + fmt.Sprintf("of %d", p.drawn)
}

// dice returns what decides about the next request, and its fault: "" for none.
func (p *Faulty) dice(r *http.Request) (*rand.Rand, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drawn++
	d := rand.New(rand.NewPCG(p.seed, p.drawn))
	f := p.faults
	if !f.Reads && !isWrite(r) {
		return d, ""
	}
	at := d.Float64()
	for _, k := range []struct {
		name  string
		share float64
	}{{"fail", f.Fail}, {"lost", f.Lost}, {"late", f.Late}, {"slow", f.Slow}} {
		if at < k.share {
			p.counts[k.name]++
			return d, k.name
		}
		at -= k.share
	}
	return d, ""
}

// isWrite tells whether a request to S3 or DynamoDB changes something.
func isWrite(r *http.Request) bool {
	if isDynamoDB(r) {
		_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		return slices.Contains([]string{"PutItem", "DeleteItem", "TransactWriteItems"}, op)
	}
	return r.Method != http.MethodGet && r.Method != http.MethodHead
}

func isDynamoDB(r *http.Request) bool { return r.Header.Get("X-Amz-Target") != "" }

// ServeHTTP implements http.Handler.
func (p *Faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	d, fault := p.dice(r)
	there, back := p.latency/2+upTo(d, p.latency/2), p.latency/2+upTo(d, p.latency/2)
	switch fault {
	case "slow":
		there, back = there+upTo(d, slowest), back+upTo(d, slowest)
	case "late":
		after := upTo(d, latest)
		p.late.Go(func() {
			pause(context.Background(), after)
			if resp, err := p.forward(r, body); err == nil { // who sent it does not hear of it
				_ = resp.Body.Close()
			}
		})
		pause(r.Context(), there)
		panic(http.ErrAbortHandler)
	}
	pause(context.WithoutCancel(r.Context()), there) // what was sent arrives, whether its sender waits or not
	if fault == "fail" {
		refuse(w, r, d)
		return
	}
	resp, err := p.forward(r, body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	pause(r.Context(), back)
	if fault == "lost" {
		if d.IntN(2) == 0 {
			panic(http.ErrAbortHandler)
		}
		answer(w, r, http.StatusInternalServerError)
		return
	}
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, resp.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// forward sends a request on, whatever has become of its sender. Its header goes as it is: it is signed.
func (p *Faulty) forward(r *http.Request, body []byte) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), forwardTimeout)
	out := r.Clone(ctx)
	out.URL.Scheme, out.URL.Host = "http", p.server
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	out.Header.Del("Expect") // the body is here
	resp, err := p.line.RoundTrip(out)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = ending{resp.Body, cancel}
	return resp, nil
}

// ending is a body whose end frees its request's context.
type ending struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (e ending) Close() error {
	defer e.cancel()
	return e.ReadCloser.Close()
}

// refuse answers a request that was not applied.
func refuse(w http.ResponseWriter, r *http.Request, d *rand.Rand) {
	statuses := []int{http.StatusInternalServerError, http.StatusServiceUnavailable}
	if isDynamoDB(r) {
		statuses = append(statuses, http.StatusBadRequest) // throttled
	}
	answer(w, r, statuses[d.IntN(len(statuses))])
}

// answer answers in the place of S3 or DynamoDB.
func answer(w http.ResponseWriter, r *http.Request, status int) {
	kind, form, name := "application/xml", "<Error><Code>%s</Code><Message>injected</Message></Error>", "InternalError"
	if status == http.StatusServiceUnavailable {
		name = "SlowDown"
	}
	if isDynamoDB(r) {
		kind, form, name = "application/x-amz-json-1.0", `{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"injected"}`, "InternalServerError"
		if status == http.StatusBadRequest {
			name = "ThrottlingException"
		}
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	fmt.Fprintf(w, form, name)
}

func upTo(d *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(d.Int64N(int64(most) + 1))
}

// pause is the time that a request takes.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
