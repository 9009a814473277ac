package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/varvelog/varve/tiering/objstore"
)

// answer is what a scripted server says to a request; an answer of status 0 is none.
type answer struct {
	status int
	header http.Header // of this store's token where the value of X-Amz-Meta-Varve-Put is "mine"
	body   string
}

// server answers requests from a script, without a network.
type server struct {
	t       *testing.T
	script  []answer
	token   string   // of the last create
	seen    []string // requests
	listed  []string // prefixes
	bodies  []string
	headers []http.Header
}

var errReset = errors.New("connection reset")

func (s *server) Do(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	if token := r.Header.Get("X-Amz-Meta-Varve-Put"); token != "" {
		s.token = token
	}
	s.seen, s.bodies, s.headers = append(s.seen, nameOf(r)), append(s.bodies, string(body)), append(s.headers, r.Header)
	if q := r.URL.Query(); q.Has("prefix") {
		s.listed = append(s.listed, q.Get("prefix"))
	}
	if len(s.script) == 0 {
		s.t.Errorf("%s has no answer", nameOf(r))
		return nil, errReset
	}
	a := s.script[0]
	if s.script = s.script[1:]; a.status == 0 {
		return nil, errReset
	}
	h := http.Header{"Content-Type": {"application/xml"}, "Content-Length": {fmt.Sprint(len(a.body))}}
	for k, v := range a.header {
		h[k] = v
	}
	if h.Get("X-Amz-Meta-Varve-Put") == "mine" {
		h.Set("X-Amz-Meta-Varve-Put", s.token)
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(strings.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: r}, nil
}

// nameOf returns a request's method and what kind of it this is.
func nameOf(r *http.Request) string {
	for _, sub := range []string{"uploads", "partNumber", "uploadId", "delete", "list-type"} {
		if r.URL.Query().Has(sub) {
			return r.Method + " " + sub
		}
	}
	return r.Method
}

func newStore(t *testing.T, reg prometheus.Registerer, script ...answer) (*Store, *server) {
	t.Helper()
	srv := &server{t: t, script: script}
	s, err := New(aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String("https://nowhere.invalid"), HTTPClient: srv,
		Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	}, Options{Bucket: "bucket", Prefix: "pre/", PartBytes: 10, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	return s, srv
}

// bubble runs a test in which the pauses between attempts take no time.
func bubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

func coded(status int, code string) answer {
	return answer{status: status, body: "<Error><Code>" + code + "</Code><Message>m</Message></Error>"}
}

// object is the answer to a HEAD.
func object(token string, size int) answer {
	return answer{status: 200, header: http.Header{"X-Amz-Meta-Varve-Put": {token}, "Content-Length": {fmt.Sprint(size)}}}
}

var (
	ok       = answer{status: 200, header: http.Header{"Etag": {`"e"`}}}
	lost     = answer{}
	taken    = coded(412, "PreconditionFailed")
	conflict = coded(409, "ConditionalRequestConflict")
	slow     = coded(503, "SlowDown")
	broken   = coded(500, "InternalError")
	denied   = coded(403, "AccessDenied")
	none     = answer{status: 404}
	errOther = errors.New("unknown")
)

func kindOf(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, objstore.ErrExists):
		return objstore.ErrExists
	}
	return errOther
}

// TestPut has every course that a PUT takes, and what it comes to.
func TestPut(t *testing.T) {
	tests := []struct {
		name   string
		script []answer
		want   error
		seen   string
	}{
		{"created", []answer{ok}, nil, "PUT"},
		{"taken", []answer{taken}, objstore.ErrExists, "PUT"},
		{"lost, not applied", []answer{lost, ok}, nil, "PUT PUT"},
		{"lost, but applied", []answer{lost, taken, object("mine", 7)}, nil, "PUT PUT HEAD"},
		{"lost, and another was first", []answer{lost, taken, object("theirs", 7)}, objstore.ErrExists, "PUT PUT HEAD"},
		{"lost, and an older object there", []answer{lost, taken, object("", 7)}, objstore.ErrExists, "PUT PUT HEAD"},
		{"lost, and mine is of another size", []answer{lost, taken, object("mine", 8)}, errOther, "PUT PUT HEAD"},
		{"lost, and it vanished", []answer{lost, taken, none}, errOther, "PUT PUT HEAD"},
		{"lost, and the HEAD too for a time", []answer{lost, taken, lost, slow, object("mine", 7)}, nil, "PUT PUT HEAD HEAD HEAD"},
		{"another write under way", []answer{conflict, taken, object("theirs", 7)}, objstore.ErrExists, "PUT PUT HEAD"},
		{"another write under way fails", []answer{conflict, ok}, nil, "PUT PUT"},
		{"slow down", []answer{slow, broken, slow, ok}, nil, "PUT PUT PUT PUT"},
		{"never answered", []answer{lost, lost, lost, lost}, errOther, "PUT PUT PUT PUT"},
		{"denied", []answer{denied}, errOther, "PUT"},
		{"lost, then denied", []answer{lost, denied}, errOther, "PUT PUT"},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			s, srv := newStore(t, nil, tt.script...)
			err := s.Put(t.Context(), "k", objstore.Buffers{[]byte("some"), []byte("one")})
			if kindOf(err) != tt.want || strings.Join(srv.seen, " ") != tt.seen {
				t.Errorf("%v after %v, want %v after %s", err, srv.seen, tt.want, tt.seen)
			}
			for i, name := range srv.seen {
				h := srv.headers[i]
				if name == "PUT" && (srv.bodies[i] != "someone" || h.Get("If-None-Match") != "*" || h.Get("X-Amz-Checksum-Crc32c") != checksum([]byte("someone")) || h.Get("X-Amz-Meta-Varve-Put") != srv.token) {
					t.Errorf("PUT %d of %q with %v", i, srv.bodies[i], h)
				}
			}
		})
	}
}

const (
	begun3    = `<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>`
	completed = `<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>`
)

type stream string

func (s stream) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, strings.NewReader(string(s)))
	return n, err
}

type brokenStream struct{ stream }

func (s brokenStream) WriteTo(w io.Writer) (int64, error) {
	n, _ := s.stream.WriteTo(w)
	return n, errReset
}

// TestStream has streamed bodies: short ones go as one PUT, longer ones in
// parts, and every way in which the last step ends.
func TestStream(t *testing.T) {
	const text = "0123456789abcdefghijABC"
	begun := answer{status: 200, body: begun3}
	parts := []answer{begun, ok, ok, ok}
	const upload = "POST uploads,PUT partNumber,PUT partNumber,PUT partNumber"
	done, notDone := answer{status: 200, body: completed}, answer{status: 200, body: "<Error><Code>InternalError</Code></Error>"}
	gone := coded(404, "NoSuchUpload")
	tests := []struct {
		name   string
		body   objstore.Body
		script []answer
		want   error
		seen   string
	}{
		{"empty", stream(""), []answer{ok}, nil, "PUT"},
		{"one part", stream(text[:10]), []answer{ok}, nil, "PUT"},
		{"fails early", brokenStream{stream(text[:10])}, nil, errOther, ""},
		{"fails late", brokenStream{text}, append(parts[:3:3], ok), errOther, "POST uploads,PUT partNumber,PUT partNumber,DELETE uploadId"},
		{"created", stream(text), append(parts[:4:4], done), nil, upload + ",POST uploadId"},
		{"slow", stream(text), []answer{slow, begun, lost, ok, slow, ok, ok, done}, nil,
			"POST uploads,POST uploads,PUT partNumber,PUT partNumber,PUT partNumber,PUT partNumber,PUT partNumber,POST uploadId"},
		{"part refused", stream(text), []answer{begun, ok, denied, ok}, errOther, "POST uploads,PUT partNumber,PUT partNumber,DELETE uploadId"},
		{"taken", stream(text), append(parts[:4:4], taken, ok), objstore.ErrExists, upload + ",POST uploadId,DELETE uploadId"},
		{"lost, but applied", stream(text), append(parts[:4:4], lost, object("mine", 23)), nil, upload + ",POST uploadId,HEAD"},
		{"lost, not applied", stream(text), append(parts[:4:4], lost, none, done), nil, upload + ",POST uploadId,HEAD,POST uploadId"},
		{"lost, then gone, as it was applied", stream(text), append(parts[:4:4], lost, none, gone, object("mine", 23)), nil, upload + ",POST uploadId,HEAD,POST uploadId,HEAD"},
		{"lost, and another was first", stream(text), append(parts[:4:4], lost, object("theirs", 23), ok), objstore.ErrExists, upload + ",POST uploadId,HEAD,DELETE uploadId"},
		{"200, but not done", stream(text), append(parts[:4:4], notDone, none, done), nil, upload + ",POST uploadId,HEAD,POST uploadId"},
		{"200 of nothing", stream(text), append(parts[:4:4], answer{status: 200, body: "<CompleteMultipartUploadResult/>"}, none, done), nil, upload + ",POST uploadId,HEAD,POST uploadId"},
		{"another write under way", stream(text), append(parts[:4:4], conflict, none, ok), errOther, upload + ",POST uploadId,HEAD,DELETE uploadId"},
		{"gone", stream(text), append(parts[:4:4], gone, none, gone), errOther, upload + ",POST uploadId,HEAD,DELETE uploadId"},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			s, srv := newStore(t, nil, tt.script...)
			err := s.Put(t.Context(), "k", tt.body)
			if kindOf(err) != tt.want || strings.Join(srv.seen, ",") != tt.seen || len(srv.script) > 0 {
				t.Errorf("%v after %q, want %v after %q; %d answers left", err, srv.seen, tt.want, tt.seen, len(srv.script))
			}
			var sent string
			for i, name := range srv.seen {
				if name == "PUT partNumber" && (i+1 == len(srv.seen) || srv.bodies[i+1] != srv.bodies[i]) {
					sent += srv.bodies[i]
				}
				if name == "POST uploadId" && srv.headers[i].Get("If-None-Match") != "*" {
					t.Errorf("completion with %v", srv.headers[i])
				}
			}
			if tt.want == nil && strings.Contains(tt.seen, "uploads") && sent != text {
				t.Errorf("parts of %q", sent)
			}
		})
	}
}

// TestReadAtAnswers has answers that real stores give seldom.
func TestReadAtAnswers(t *testing.T) {
	part := func(r, body string) answer {
		return answer{status: 206, header: http.Header{"Content-Range": {r}}, body: body}
	}
	short := part("bytes 0-3/9", "abcd")
	short.body = "ab"
	short.header.Set("Content-Length", "4")
	tests := []struct {
		name   string
		n      int
		off    int64
		script []answer
		want   string
		size   int64
		err    error
	}{
		{"a body that ends early is read again", 4, 0, []answer{short, part("bytes 0-3/9", "abcd")}, "abcd", 9, nil},
		{"slow down", 4, 0, []answer{slow, lost, broken, part("bytes 0-3/9", "abcd")}, "abcd", 9, nil},
		{"the whole of a small object", 9, -9, []answer{{status: 200, body: "abcd"}}, "abcd", 4, nil},
		{"less than asked for", 9, 2, []answer{part("bytes 2-3/4", "cd")}, "cd", 4, io.EOF},
		{"behind the end", 9, 5, []answer{coded(416, "InvalidRange"), object("", 4)}, "", 4, io.EOF},
		{"the start of the tail", 2, -3, []answer{object("", 9), part("bytes 6-7/9", "gh")}, "gh", 9, nil},
		{"size only", 0, 0, []answer{object("", 9)}, "", 9, nil},
		{"nothing there", 1, 0, []answer{coded(404, "NoSuchKey")}, "", 0, objstore.ErrNotFound},
		{"nothing there, by HEAD", 0, 0, []answer{none}, "", 0, objstore.ErrNotFound},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			s, srv := newStore(t, nil, tt.script...)
			p := make([]byte, tt.n)
			n, size, err := s.ReadAt(t.Context(), "k", p, tt.off)
			if string(p[:n]) != tt.want || size != tt.size || !errors.Is(err, tt.err) || len(srv.script) > 0 {
				t.Errorf("%q, size %d, %v after %v", p[:n], size, err, srv.seen)
			}
		})
	}
	s, _ := newStore(t, nil, coded(404, "NoSuchBucket"))
	if _, _, err := s.ReadAt(t.Context(), "k", make([]byte, 1), 0); err == nil || errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("no bucket: %v", err)
	}
	s, _ = newStore(t, nil, answer{status: 206, header: http.Header{"Content-Range": {"bytes 0-99/9"}}, body: strings.Repeat("x", 100)},
		part("bytes 0-3/*", "abcd"), part("", "abcde"), slow)
	if n, _, err := s.ReadAt(t.Context(), "k", make([]byte, 4), 0); err == nil {
		t.Errorf("nonsense was taken for %d bytes", n)
	}
}

func TestListGoesOn(t *testing.T) {
	page := func(more bool, keys ...string) answer {
		var b strings.Builder
		fmt.Fprintf(&b, "<ListBucketResult><IsTruncated>%t</IsTruncated><NextContinuationToken>t</NextContinuationToken>", more)
		for _, k := range keys {
			fmt.Fprintf(&b, "<Contents><Key>pre/%s</Key><Size>%d</Size></Contents>", k, len(k))
		}
		return answer{status: 200, body: b.String() + "</ListBucketResult>"}
	}
	s, srv := newStore(t, nil, page(true, "a"), page(true), slow, page(true, "b", "folder/", "not a key", "c"), page(false, "d"))
	infos, err := s.List(t.Context(), "", "", 4)
	var keys []string
	for _, in := range infos {
		keys = append(keys, in.Key)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d"}, keys); diff != "" || err != nil {
		t.Errorf("%v after %v\n%s", err, srv.seen, diff)
	}
}

func TestDeleteAnswers(t *testing.T) {
	some := answer{status: 200, body: "<DeleteResult><Error><Key>pre/a</Key><Code>InternalError</Code></Error></DeleteResult>"}
	was := answer{status: 200, body: "<DeleteResult><Error><Key>pre/a</Key><Code>NoSuchKey</Code></Error></DeleteResult>"}
	s, srv := newStore(t, nil, some, lost, was)
	if err := s.Delete(t.Context(), "a", "b"); err != nil || len(srv.seen) != 3 || srv.seen[0] != "POST delete" {
		t.Errorf("%v after %v", err, srv.seen)
	}
	s, _ = newStore(t, nil, some, some, some, some)
	if err := s.Delete(t.Context(), "a", "b"); !errors.Is(err, errNotDeleted) {
		t.Error(err)
	}
}

func TestRequestsAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, _ := newStore(t, reg, lost, taken, object("mine", 1), answer{status: 206, header: http.Header{"Content-Range": {"bytes 0-0/1"}}, body: "x"}, answer{status: 200, body: "<ListBucketResult/>"}, answer{status: 200, body: "<DeleteResult/>"})
	ctx := t.Context()
	if err := s.Put(ctx, "k", objstore.Buffers{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.ReadAt(ctx, "k", make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(ctx, "", "", 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	const want = `
# HELP varve_s3_requests_total Requests to S3 by kind as it is billed (PUT, GET, LIST, DELETE) and by result: ok, or the error's code.
# TYPE varve_s3_requests_total counter
varve_s3_requests_total{request="DELETE",result="ok"} 1
varve_s3_requests_total{request="GET",result="ok"} 2
varve_s3_requests_total{request="LIST",result="ok"} 1
varve_s3_requests_total{request="PUT",result="PreconditionFailed"} 1
varve_s3_requests_total{request="PUT",result="unanswered"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	cfg := aws.Config{Region: "us-east-1"}
	for name, o := range map[string]Options{
		"no bucket":  {},
		"bad prefix": {Bucket: "b", Prefix: "a//b"},
		"long":       {Bucket: "b", Prefix: strings.Repeat("a", 124)},
		"addressing": {Bucket: "b", Addressing: "magic"},
	} {
		if _, err := New(cfg, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, tt := range []struct {
		addressing string
		endpoint   bool
		want       bool
	}{{"", false, false}, {"auto", true, true}, {"virtual", true, false}, {"path", false, true}} {
		if got, err := pathStyle(tt.addressing, tt.endpoint); got != tt.want || err != nil {
			t.Errorf("%+v: %t, %v", tt, got, err)
		}
	}
}

// silent is a server that never answers.
type silent struct{}

func (silent) Do(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestDeadline: every request has one, whatever its caller gave.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(aws.Config{Region: "us-east-1", HTTPClient: silent{}, Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")}, Options{Bucket: "b", Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		for name, call := range map[string]func() error{
			"put":    func() error { return s.Put(t.Context(), "k", objstore.Buffers{[]byte("x")}) },
			"read":   func() error { _, _, err := s.ReadAt(t.Context(), "k", make([]byte, 1), 0); return err },
			"list":   func() error { _, err := s.List(t.Context(), "", "", 0); return err },
			"delete": func() error { return s.Delete(t.Context(), "k") },
		} {
			start := time.Now()
			if err := call(); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) < attempts*time.Second || time.Since(start) > 2*attempts*time.Second {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
		}
	})
}

// Uploads that began before a moment are given up, over several pages; one that
// has gone by then is no failure.
func TestAbortUploads(t *testing.T) {
	page := func(more bool, began ...string) answer {
		body := fmt.Sprintf("<ListMultipartUploadsResult><IsTruncated>%v</IsTruncated><NextKeyMarker>m</NextKeyMarker><NextUploadIdMarker>n</NextUploadIdMarker>", more)
		for i, at := range began {
			body += fmt.Sprintf("<Upload><Key>pre/k%d</Key><UploadId>u%d</UploadId><Initiated>%s</Initiated></Upload>", i, i, at)
		}
		return answer{status: 200, body: body + "</ListMultipartUploadsResult>"}
	}
	const old, recent = "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z"
	before := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	bubble(t, "two pages", func(t *testing.T) {
		s, srv := newStore(t, nil, page(true, old, recent), ok, page(false, old, old), coded(404, "NoSuchUpload"), ok)
		if n, err := s.AbortUploads(t.Context(), "seg/", before); n != 3 || err != nil || len(srv.script) > 0 {
			t.Errorf("%d, %v, after %v", n, err, srv.seen)
		}
		if want := []string{"pre/seg/", "pre/seg/"}; !slices.Equal(srv.listed, want) {
			t.Errorf("listed %v, want %v", srv.listed, want)
		}
	})
	bubble(t, "refused", func(t *testing.T) {
		s, _ := newStore(t, nil, page(false, old), coded(403, "AccessDenied"))
		if n, err := s.AbortUploads(t.Context(), "seg/", before); n != 0 || err == nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}
