package sqlite

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/varvelog/varve/internal/meta"
)

// bytesTag begins the text of a []byte, "::" that of a string which begins
// with ':' itself. All else stands as JSON has it:
//
//	{"name":"orders","epoch":7,"live":true,"nonce":":b:AAEC","odd":"::x"}
const bytesTag = ":b:"

func encode(a meta.Attrs) (string, error) {
	m := make(map[string]any, len(a))
	for k, v := range a {
		switch v := v.(type) {
		case string:
			if strings.HasPrefix(v, ":") {
				m[k] = ":" + v
				continue
			}
			m[k] = v
		case []byte:
			m[k] = bytesTag + base64.StdEncoding.EncodeToString(v)
		default:
			m[k] = v
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil {
		return "", fmt.Errorf("encode attributes: %w", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func decode(s string) (meta.Attrs, error) {
	var m map[string]any
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("decode attributes: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("decode attributes: more after the object")
	}
	a := make(meta.Attrs, len(m))
	for k, v := range m {
		value, err := decodeValue(v)
		if err != nil {
			return nil, fmt.Errorf("decode attribute %s: %w", k, err)
		}
		a[k] = value
	}
	return a, nil
}

func decodeValue(v any) (any, error) {
	switch v := v.(type) {
	case bool:
		return v, nil
	case json.Number:
		return v.Int64()
	case string:
		switch {
		case strings.HasPrefix(v, "::"):
			return v[1:], nil
		case strings.HasPrefix(v, bytesTag):
			return base64.StdEncoding.DecodeString(v[len(bytesTag):])
		case strings.HasPrefix(v, ":"):
			return nil, fmt.Errorf("%q has no known tag", v)
		}
		return v, nil
	}
	return nil, fmt.Errorf("a %T", v)
}
