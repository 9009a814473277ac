package sqlite

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/meta"
)

func TestCodecReturnsWhatItWasGiven(t *testing.T) {
	value := rapid.OneOf(
		rapid.String().AsAny(), rapid.StringMatching(`:[:bi]?:?.*`).AsAny(), rapid.Int64().AsAny(),
		rapid.Bool().AsAny(), rapid.SliceOf(rapid.Byte()).AsAny(),
	)
	rapid.Check(t, func(t *rapid.T) {
		a := meta.Attrs(rapid.MapOf(rapid.String(), value).Draw(t, "attrs"))
		text, err := encode(a)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, back); diff != "" {
			t.Fatalf("%s\n%s", text, diff)
		}
	})
}

func TestCodecIsReadable(t *testing.T) {
	text, err := encode(meta.Attrs{"name": "a<b", "epoch": int64(7), "live": true, "nonce": []byte{0, 1, 2}, "odd": ":x"})
	if want := `{"epoch":7,"live":true,"name":"a<b","nonce":":b:AAEC","odd":"::x"}`; err != nil || text != want {
		t.Fatalf("%s, %v", text, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{}`, `null`, `{"a":1}`, `{"a":1.5}`, `{"a":1e400}`, `{"a":":b:!"}`, `{"a":":?"}`, `{"a":null}`, `{"a":[]}`, `{} {}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := decode(s)
		if err != nil {
			return
		}
		text, err := encode(a)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decode(text); err != nil || !cmp.Equal(a, back) {
			t.Fatalf("%q became %q: %v", s, text, err)
		}
	})
}
