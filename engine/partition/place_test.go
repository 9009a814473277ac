package partition

import (
	"encoding/json"
	"testing"
)

// FuzzParsePlace: what is no place is refused, and what is taken names no more
// than one read may.
func FuzzParsePlace(f *testing.F) {
	for _, p := range []Place{{}, {Sealed: true, HighWatermark: 7}, {HighWatermark: 9, Slices: []Ref{{Key: "k", Pos: 8, Len: 100, Base: 3, Last: 5}, {Key: "l", Len: 9, Base: 6, Last: 8}}}} {
		b, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"slices":[{"Len":9,"Base":6,"Last":8},{"Len":9,"Base":8,"Last":8}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePlace(b)
		if err != nil {
			return
		}
		if len(p.Slices) > maxReadRefs {
			t.Errorf("%d slices", len(p.Slices))
		}
		for i, s := range p.Slices {
			if s.Len <= 0 || s.Pos < 0 || i > 0 && s.Base != p.Slices[i-1].Last+1 {
				t.Errorf("slice %d: %+v", i, s)
			}
		}
	})
}
