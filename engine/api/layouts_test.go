package api

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka/wire"
)

// TestLayouts fills requests at random and compares the layouts with what
// kmsg makes of them: as many elements, and not one byte less or more.
func TestLayouts(t *testing.T) {
	all := layouts()
	for _, a := range table() {
		if a.key == keyProduce {
			continue
		}
		l, ok := all[a.key]
		if !ok {
			t.Errorf("%s has no layout", a.name)
			continue
		}
		for v := a.min; v <= a.max; v++ {
			for seed := range uint64(30) {
				req := kmsg.RequestForKey(a.key)
				fill(reflect.ValueOf(req).Elem(), rand.New(rand.NewPCG(seed, uint64(v))))
				req.SetVersion(v)
				body := req.AppendTo(nil)
				back := kmsg.RequestForKey(a.key) // which has the fields of this version only
				back.SetVersion(v)
				if err := back.ReadFrom(body); err != nil {
					t.Fatal(err)
				}
				want := count(reflect.ValueOf(back))
				if n, err := l.Elements(body, v, req.IsFlexible(), want); err != nil || n != want {
					t.Fatalf("%s version %d: %d elements, want %d, %v", a.name, v, n, want, err)
				}
				if len(body) > 0 {
					if _, err := l.Elements(body[:len(body)-1], v, req.IsFlexible(), want); !errors.Is(err, wire.ErrTruncated) {
						t.Fatalf("%s version %d without its last byte: %v", a.name, v, err)
					}
				}
				if want > 0 {
					if _, err := l.Elements(body, v, req.IsFlexible(), want-1); !errors.Is(err, wire.ErrElements) {
						t.Fatalf("%s version %d with %d elements: %v", a.name, v, want, err)
					}
				}
			}
		}
	}
}

// fill gives all fields of a request values at random.
func fill(v reflect.Value, rng *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		if tags, ok := v.Addr().Interface().(*kmsg.Tags); ok {
			for i := range rng.IntN(3) {
				tags.Set(uint32(1000+i), []byte("some"))
			}
			return
		}
		if d, ok := v.Addr().Interface().(interface{ Default() }); ok {
			d.Default()
		}
		for i := range v.NumField() {
			switch v.Type().Field(i).Name {
			case "ClusterID", "ReplicaState", "ReplicaDirectoryID", "HighWatermark": // tagged ones that kmsg knows
			default:
				fill(v.Field(i), rng)
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte("bytes")[:rng.IntN(6)])
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), rng.IntN(4), 4))
		for i := range v.Len() {
			fill(v.Index(i), rng)
		}
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), rng)
		}
	case reflect.String:
		v.SetString("string"[:rng.IntN(7)])
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Array: // an id
		binary.BigEndian.PutUint64(v.Slice(0, 8).Bytes(), rng.Uint64())
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rng.IntN(100)))
	}
}

// count returns the elements of a request's arrays, and its tagged fields.
func count(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			n = count(v.Elem())
		}
	case reflect.Struct:
		if v.CanAddr() {
			if tags, ok := v.Addr().Interface().(*kmsg.Tags); ok {
				return tags.Len()
			}
		}
		for i := range v.NumField() {
			n += count(v.Field(i))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return 0
		}
		n = v.Len()
		for i := range v.Len() {
			n += count(v.Index(i))
		}
	}
	return n
}
