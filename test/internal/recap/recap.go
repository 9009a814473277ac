// Package recap says again, as the last thing of a test's output, why it failed:
// who looks at the end of a long log finds the reason there, and not what servers have logged.
package recap

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// T is a test whose failures are said again at its end.
type T struct {
	testing.TB

	mu   sync.Mutex
	said []string
}

// New returns t with its recap. It is made before whatever logs when the test
// ends: clean-ups run in the opposite order.
func New(t testing.TB) *T {
	t.Helper()
	r := &T{TB: t}
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.said) > 0 {
			t.Logf("failed:\n%s", strings.Join(r.said, "\n"))
		}
	})
	return r
}

// Error implements testing.TB.
func (r *T) Error(args ...any) {
	r.Helper()
	r.TB.Error(r.keep(fmt.Sprint(args...)))
}

// Errorf implements testing.TB.
func (r *T) Errorf(format string, args ...any) {
	r.Helper()
	r.TB.Error(r.keep(fmt.Sprintf(format, args...)))
}

// Fatal implements testing.TB.
func (r *T) Fatal(args ...any) {
	r.Helper()
	r.TB.Fatal(r.keep(fmt.Sprint(args...)))
}

// Fatalf implements testing.TB.
func (r *T) Fatalf(format string, args ...any) {
	r.Helper()
	r.TB.Fatal(r.keep(fmt.Sprintf(format, args...)))
}

// keep keeps the beginning of what is said, and returns all of it.
func (r *T) keep(s string) string {
	const enough = 500 // bytes
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, s[:min(len(s), enough)])
	return s
}
