package enginetest

import (
	"cmp"
	"slices"
	"testing"
)

func TestTorn(t *testing.T) {
	for _, c := range []struct {
		name        string
		early, late []int
		cut         bool
		at          int
		want        []int
	}{
		{"nothing happens", []int{1, 2, 3}, []int{1, 2, 3}, false, 1, []int{1, 2, 3}},
		{"all of it early", []int{1, 2}, []int{1, 2, 3}, false, 3, []int{1, 2}},
		{"deleted behind it, put ahead of it", []int{1, 2}, []int{3, 4}, false, 0, []int{1, 2, 3, 4}},
		{"of two puts the second", []int{1, 2}, []int{1, 2, 3, 4}, false, 3, []int{1, 2, 4}},
		{"of two deletions the second", []int{1, 2, 3, 4}, []int{1, 4}, false, 1, []int{1, 2, 3, 4}},
		{"of a swap both", []int{1, 3}, []int{2}, false, 0, []int{1, 2}},
		{"of a swap neither", []int{1, 3}, []int{1, 2, 4}, false, 2, []int{1, 3, 4}},
		{"behind a limit", []int{1, 2, 3}, []int{3, 4, 5, 6}, true, 2, []int{1, 2, 3, 4, 5, 6}},
	} {
		if got := torn(c.early, c.late, c.cut, c.at, cmp.Compare[int]); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
