package dynamo

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/meta"
)

func TestCodecReturnsWhatItWasGiven(t *testing.T) {
	name := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "_", "pk", "sk", "_pk", "__pk", "_version", "_commit", "version", "commit"}))
	value := rapid.OneOf(rapid.String().AsAny(), rapid.Int64().AsAny(), rapid.Bool().AsAny(), rapid.SliceOf(rapid.Byte()).AsAny())
	rapid.Check(t, func(t *rapid.T) {
		want := meta.Item{Key: meta.Key{PK: "p", SK: "s"}, Version: 7, CommitID: "id", Attrs: rapid.MapOf(name, value).Draw(t, "attrs")}
		m := encode("id", meta.Op{Kind: meta.OpReplace, Key: want.Key, Old: meta.Item{Version: 6}, Attrs: want.Attrs})
		if len(m) != 4+len(want.Attrs) {
			t.Fatalf("%d attributes became %d", len(want.Attrs), len(m)-4)
		}
		got, err := decode(m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestDecodeRefusesForeignItems(t *testing.T) {
	good := func() attributes { return encode("id", meta.Create(meta.Key{PK: "p", SK: "s"}, nil)) }
	for name, change := range map[string]func(attributes){
		"no version":        func(m attributes) { delete(m, versionName) },
		"version 0":         func(m attributes) { m[versionName] = number(0) },
		"version as text":   func(m attributes) { m[versionName] = text("1") },
		"fraction":          func(m attributes) { m[versionName] = &types.AttributeValueMemberN{Value: "1.5"} },
		"no commit":         func(m attributes) { delete(m, commitName) },
		"no sort key":       func(m attributes) { delete(m, skName) },
		"list of something": func(m attributes) { m["x"] = &types.AttributeValueMemberL{} },
	} {
		m := good()
		change(m)
		if item, err := decode(m); err == nil {
			t.Errorf("%s: %+v", name, item)
		}
	}
	if _, err := decode(good()); err != nil {
		t.Error(err)
	}
}
