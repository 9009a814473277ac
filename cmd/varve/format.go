package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kgo"
)

// recordWriter writes one record.
type recordWriter func(*bufio.Writer, *kgo.Record) error

// formatFlags say how records are written.
type formatFlags struct{ format string }

func (f *formatFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.format, "format", `%v\n`, "per record: %v value, %k key, %h headers, %t time, %T topic, %p partition, %o offset; \\n, \\t, %%")
}

// formatter returns what writes a record: by --format, or as a line of JSON.
func (f *formatFlags) formatter(asJSON bool) (recordWriter, error) {
	if asJSON {
		return writeJSONRecord, nil
	}
	rf, err := compileFormat(f.format)
	if err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	return rf, nil
}

const placeUsage = "beginning, end, an offset, an RFC 3339 time, or a duration ago such as 15m"

// place is a place in a log: its end, an offset, a time, or else its beginning.
type place struct {
	end    bool
	offset int64 // -1: none
	time   time.Time
}

// parsePlace reads a place as placeUsage says.
func parsePlace(s string, now time.Time) (place, error) {
	p := place{offset: -1}
	if s == "beginning" || s == "end" {
		p.end = s == "end"
		return p, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		p.offset = n
		return p, nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		p.time = at
		return p, nil
	}
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		p.time = now.Add(-ago)
		return p, nil
	}
	return p, fmt.Errorf("%q: want %s", s, placeUsage)
}

// jsonRecord is a record as JSON. What is no UTF-8 is null, and stands in the
// field that ends in _base64.
type jsonRecord struct {
	Topic       string       `json:"topic"`
	Partition   int32        `json:"partition"`
	Offset      int64        `json:"offset"`
	Time        time.Time    `json:"time"`
	Key         *string      `json:"key"`
	KeyBase64   []byte       `json:"key_base64,omitempty"`
	Value       *string      `json:"value"`
	ValueBase64 []byte       `json:"value_base64,omitempty"`
	Headers     []jsonHeader `json:"headers,omitempty"`
}

type jsonHeader struct {
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

func writeJSONRecord(w *bufio.Writer, r *kgo.Record) error {
	j := jsonRecord{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UTC()}
	j.Key, j.KeyBase64 = text(r.Key)
	j.Value, j.ValueBase64 = text(r.Value)
	for _, h := range r.Headers {
		header := jsonHeader{Key: h.Key}
		header.Value, header.ValueBase64 = text(h.Value)
		j.Headers = append(j.Headers, header)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(j)
}

// text returns bytes as text, or as they are where they are none.
func text(b []byte) (*string, []byte) {
	if b == nil {
		return nil, nil
	}
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}

// compileFormat turns a format into a function that writes a record.
func compileFormat(format string) (recordWriter, error) {
	format = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00").Replace(format)
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		if i++; i == len(format) || !strings.ContainsRune("vkhtTpo%", rune(format[i])) {
			return nil, fmt.Errorf("%q: a %% must be followed by one of v k h t T p o %%", format)
		}
	}
	return func(w *bufio.Writer, r *kgo.Record) error {
		for i := 0; i < len(format); i++ {
			if format[i] != '%' {
				w.WriteByte(format[i]) // a write error stays in the bufio.Writer until Flush
				continue
			}
			i++
			writeVerb(w, format[i], r)
		}
		return nil
	}, nil
}

func writeVerb(w *bufio.Writer, verb byte, r *kgo.Record) {
	switch verb {
	case 'v':
		w.Write(r.Value)
	case 'k':
		w.Write(r.Key)
	case 'h':
		for i, h := range r.Headers {
			if i > 0 {
				w.WriteByte(',')
			}
			fmt.Fprintf(w, "%s=%s", h.Key, h.Value)
		}
	case 't':
		w.WriteString(r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z"))
	case 'T':
		w.WriteString(r.Topic)
	case 'p':
		w.WriteString(strconv.Itoa(int(r.Partition)))
	case 'o':
		w.WriteString(strconv.FormatInt(r.Offset, 10))
	default:
		w.WriteByte(verb)
	}
}
