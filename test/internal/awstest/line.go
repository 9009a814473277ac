package awstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// ErrLine is what a request with a fault ends with: its answer did not come.
var ErrLine = errors.New("awstest: connection reset")

// Line is an HTTP client of the SDK whose next write can go wrong.
type Line struct {
	// Write tells whether a request is one that the faults are for.
	Write func(*http.Request) bool

	mu   sync.Mutex
	next []func(*http.Request) (*http.Response, error) // of the writes to come
}

// Do sends a request, or what its fault makes of it.
func (l *Line) Do(r *http.Request) (*http.Response, error) {
	if f := l.fault(r); f != nil {
		return f(r)
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (l *Line) fault(r *http.Request) func(*http.Request) (*http.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.next) == 0 || !l.Write(r) {
		return nil
	}
	f := l.next[0]
	l.next = l.next[1:]
	return f
}

// Next makes f answer the next write that has no fault yet.
func (l *Line) Next(f func(*http.Request) (*http.Response, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = append(l.next, f) //nolint:bodyclose // who sends the request closes it
}

// Left returns how many faults have met no write.
func (l *Line) Left() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.next)
}

// Lose lets the next write through and loses its answer.
func (l *Line) Lose() {
	l.Next(func(r *http.Request) (*http.Response, error) {
		if err := send(r); err != nil {
			return nil, err
		}
		return nil, ErrLine
	})
}

// Delay holds the next write back, which fails for its sender. land sends it.
func (l *Line) Delay() (land func()) {
	var late *http.Request
	l.Next(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		late = r.Clone(context.WithoutCancel(r.Context()))
		late.Body = io.NopCloser(bytes.NewReader(body))
		return nil, ErrLine
	})
	return func() {
		ctx, cancel := context.WithTimeout(late.Context(), 10*time.Second)
		defer cancel()
		if err := send(late.WithContext(ctx)); err != nil {
			panic(fmt.Sprintf("awstest: a delayed request did not arrive: %v", err))
		}
	}
}

// Answer gives the next write an answer that the server never made.
func (l *Line) Answer(status int, contentType, body string) {
	l.Next(func(r *http.Request) (*http.Response, error) { return Response(r, status, contentType, body), nil })
}

// Response returns an answer to a request.
func Response(r *http.Request, status int, contentType, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {contentType}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

func send(r *http.Request) error {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
