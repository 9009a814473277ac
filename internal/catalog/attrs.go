package catalog

import (
	"encoding/json"
	"fmt"

	"github.com/varvelog/varve/internal/meta"
)

// fields reads an item's attributes; the first that is missing or of another
// type makes err.
type fields struct {
	item meta.Item
	err  error
}

func read(item meta.Item) *fields {
	f := &fields{item: item}
	if v := f.int("v"); f.err == nil && v > format {
		f.err = fmt.Errorf("item %v has format %d, newer than this program knows", item.Key, v)
	}
	return f
}

func value[T any](f *fields, name string) T {
	v, ok := f.item.Attrs[name].(T)
	if !ok && f.err == nil {
		f.err = fmt.Errorf("item %v: attribute %s is a %T", f.item.Key, name, f.item.Attrs[name])
	}
	return v
}

func (f *fields) int(name string) int64    { return value[int64](f, name) }
func (f *fields) text(name string) string  { return value[string](f, name) }
func (f *fields) bytes(name string) []byte { return value[[]byte](f, name) }

// json reads an attribute that holds a JSON document.
func (f *fields) json(name string, into any) {
	s := f.text(name)
	if f.err != nil {
		return
	}
	if err := json.Unmarshal([]byte(s), into); err != nil {
		f.err = fmt.Errorf("item %v: attribute %s: %w", f.item.Key, name, err)
	}
}

// jsonText writes a value that can always be written as JSON.
func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only plain structs and maps of strings are given here
	}
	return string(b)
}
