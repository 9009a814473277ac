package aws

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/objtest"
	"github.com/varvelog/varve/tiering/objstore/s3store"
)

// s3Line returns a line whose writes are S3's.
func s3Line() *awstest.Line {
	return &awstest.Line{Write: func(r *http.Request) bool { return r.Method == http.MethodPut || r.Method == http.MethodPost }}
}

func openBucket(t *testing.T, endpoint string, line *awstest.Line) *s3store.Store {
	t.Helper()
	cfg := awstest.Config(endpoint)
	cfg.HTTPClient = line
	s, err := s3store.New(cfg, s3store.Options{Bucket: awstest.Name("bucket"), Prefix: "some/prefix", PartBytes: 5 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// tries is how often the store sends a request.
const tries = 4

func s3Faults(line *awstest.Line) objtest.Faults {
	return objtest.Faults{
		Lose: func() {
			for range tries {
				line.Lose()
			}
		},
		Delay: func() func() {
			var lands []func()
			for range tries {
				lands = append(lands, line.Delay())
			}
			return func() {
				for _, land := range lands {
					land()
				}
			}
		},
	}
}

// allUsed fails the test when a fault met no request.
func allUsed(t *testing.T, line *awstest.Line) {
	if n := line.Left(); n > 0 {
		t.Errorf("%d faults met no request", n)
	}
}

func testObjects(t *testing.T, endpoint string, as func(objstore.Store) objstore.Store) {
	objtest.Run(t, func(t *testing.T) objstore.Store { return as(openBucket(t, endpoint, s3Line())) })
	objtest.RunFaults(t, func(t *testing.T) (objstore.Store, objtest.Faults) {
		line := s3Line()
		t.Cleanup(func() { allUsed(t, line) })
		return openBucket(t, endpoint, line), s3Faults(line)
	})
	t.Run("lost answers", func(t *testing.T) { testLostAnswers(t, endpoint) })
	t.Run("one winner of large ones", func(t *testing.T) { testLargeRace(t, endpoint) })
	t.Run("multipart", func(t *testing.T) { testMultipart(t, endpoint) })
}

// testLostAnswers: an answer that is lost once is made good by the store
// itself, which knows its own object from another's.
func testLostAnswers(t *testing.T, endpoint string) {
	line := s3Line()
	s := openBucket(t, endpoint, line)
	line.Lose()
	if err := s.Put(t.Context(), "a/1", objstore.Buffers{[]byte("mine")}); err != nil {
		t.Errorf("applied, and its answer lost: %v", err)
	}
	line.Lose()
	if err := s.Put(t.Context(), "a/1", objstore.Buffers{[]byte("mine")}); !errors.Is(err, objstore.ErrExists) {
		t.Errorf("refused, and its answer lost: %v", err)
	}
	land := line.Delay()
	if err := s.Put(t.Context(), "a/2", objstore.Buffers{[]byte("mine")}); err != nil {
		t.Errorf("delayed: %v", err)
	}
	land()
	line.Answer(http.StatusServiceUnavailable, "application/xml", "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
	if err := s.Delete(t.Context(), "a/1", "a/2"); err != nil {
		t.Errorf("throttled: %v", err)
	}
	allUsed(t, line)
}

// testLargeRace: servers that refuse a put while its body is still on the way
// may cut the connection; the store finds out all the same who has won.
func testLargeRace(t *testing.T, endpoint string) {
	s := openBucket(t, endpoint, s3Line())
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = s.Put(t.Context(), "race", objstore.Buffers{bytes.Repeat([]byte{byte(i)}, 1<<20)})
		})
	}
	wg.Wait()
	got := make([]byte, 1)
	if _, size, err := s.ReadAt(t.Context(), "race", got, 0); err != nil || size != 1<<20 {
		t.Fatalf("size %d, %v", size, err)
	}
	for i, err := range errs {
		if mine := int(got[0]) == i; mine && err != nil || !mine && !errors.Is(err, objstore.ErrExists) {
			t.Errorf("writer %d (winner: %d): %v", i, got[0], err)
		}
	}
}

// stream is a body that does not lie in memory in pieces.
type stream []byte

func (s stream) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, bytes.NewReader(s)) }

var errBody = errors.New("no more bytes")

type brokenStream struct{ stream }

func (s brokenStream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.stream.WriteTo(w)
	return n, errors.Join(err, errBody)
}

func testMultipart(t *testing.T, endpoint string) {
	content := make([]byte, 12<<20)                   // three parts of the least size that S3 takes
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // it never fails
	line := s3Line()
	s := openBucket(t, endpoint, line)
	check := func(key string) {
		t.Helper()
		got := make([]byte, len(content))
		n, size, err := s.ReadAt(t.Context(), key, got, 0)
		if err != nil || size != int64(len(content)) || !bytes.Equal(got[:n], content) {
			t.Errorf("%s: %d of %d bytes, or other ones: %v", key, n, size, err)
		}
	}
	if err := s.Put(t.Context(), "m/1", stream(content)); err != nil {
		t.Fatal(err)
	}
	check("m/1")
	if err := s.Put(t.Context(), "m/1", stream(content[:11<<20])); !errors.Is(err, objstore.ErrExists) {
		t.Errorf("a taken key: %v", err)
	}
	check("m/1")
	if err := s.Put(t.Context(), "m/2", brokenStream{content}); !errors.Is(err, errBody) {
		t.Errorf("a failing body: %v", err)
	}
	for range 3 {
		line.Lose() // of the upload's beginning, of two parts
	}
	if err := s.Put(t.Context(), "m/3", stream(content)); err != nil {
		t.Errorf("lost answers: %v", err)
	}
	check("m/3")
	line.Write = func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") }
	line.Lose()
	if err := s.Put(t.Context(), "m/4", stream(content)); err != nil {
		t.Errorf("the answer of its completion lost: %v", err)
	}
	check("m/4")
	allUsed(t, line)
	if got, err := s.List(t.Context(), "", "", 0); err != nil || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
}
