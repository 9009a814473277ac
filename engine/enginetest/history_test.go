package enginetest

import "testing"

// TestCheck shows that each anomaly is seen.
func TestCheck(t *testing.T) {
	ok := func(n int, off int64) sent { return sent{1, n, 0, true, off} }
	at := func(off int64, n int) seen { return seen{0, off, valueOf(1, n)} }
	for _, c := range []struct {
		name    string
		history []sent
		read    []seen
		bad     bool
	}{
		{"good", []sent{ok(0, 0), ok(1, 1)}, []seen{at(0, 0), at(1, 1)}, false},
		{"unacknowledged and there", []sent{ok(0, 0), {1, 1, 0, false, 0}}, []seen{at(0, 0), at(1, 1)}, false},
		{"unacknowledged and not there", []sent{ok(0, 0), {1, 1, 0, false, 0}}, []seen{at(0, 0)}, false},
		{"lost", []sent{ok(0, 0), ok(1, 1)}, []seen{at(0, 0)}, true},
		{"duplicate", []sent{ok(0, 0)}, []seen{at(0, 0), at(1, 0)}, true},
		{"reordered", []sent{ok(0, 1), ok(1, 0)}, []seen{at(0, 1), at(1, 0)}, true},
		{"moved", []sent{ok(0, 1), {1, 9, 0, false, 0}}, []seen{at(0, 0), at(1, 9)}, true},
		{"gap", []sent{ok(0, 0), ok(1, 2)}, []seen{at(0, 0), at(2, 1)}, true},
		{"changed", []sent{ok(0, 0)}, []seen{{0, 0, "producer 1 record 0?"}}, true},
		{"never sent", []sent{ok(0, 0)}, []seen{at(0, 0), at(1, 5)}, true},
	} {
		if bad := check(c.history, c.read, nil); (len(bad) > 0) != c.bad {
			t.Errorf("%s: %v", c.name, bad)
		}
	}
}
