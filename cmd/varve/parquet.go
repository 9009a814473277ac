package main

import (
	"io"
	"iter"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"
)

// parquetSchema is that of a file of records. The columns' numbers are below:
// a group has its columns by name.
func parquetSchema() *parquet.Schema {
	return parquet.NewSchema("records", parquet.Group{
		"headers": parquet.Repeated(parquet.Group{
			"key":   parquet.String(),
			"value": parquet.Optional(parquet.Leaf(parquet.ByteArrayType)),
		}),
		"key":       parquet.Optional(parquet.Leaf(parquet.ByteArrayType)),
		"offset":    parquet.Int(64),
		"partition": parquet.Int(32),
		"timestamp": parquet.Timestamp(parquet.Millisecond),
		"value":     parquet.Optional(parquet.Leaf(parquet.ByteArrayType)),
	})
}

const (
	colHeaderKey = iota
	colHeaderValue
	colKey
	colOffset
	colPartition
	colTimestamp
	colValue
)

// writeParquet writes records as a Parquet file, zstd-compressed, in row groups
// of about groupBytes, which is what it holds in memory.
func writeParquet(w io.Writer, records iter.Seq2[*kgo.Record, error], groupBytes int64) error {
	out := parquet.NewWriter(w, parquetSchema(), parquet.Compression(&zstd.Codec{Level: zstd.SpeedFastest}), parquet.CreatedBy("varve", version, ""))
	var row parquet.Row
	var held int64
	for rec, err := range records {
		if err != nil {
			return err
		}
		row = appendRow(row[:0], rec)
		if _, err := out.WriteRows([]parquet.Row{row}); err != nil {
			return err
		}
		if held += int64(64 + len(rec.Key) + len(rec.Value)); held >= groupBytes {
			if err := out.Flush(); err != nil {
				return err
			}
			held = 0
		}
	}
	return out.Close()
}

// appendRow makes a row of a record. Levels are those of Dremel: a record
// without headers has one null of them, at repetition 0.
func appendRow(row parquet.Row, r *kgo.Record) parquet.Row {
	for i, h := range r.Headers {
		row = append(row, parquet.ByteArrayValue([]byte(h.Key)).Level(min(i, 1), 1, colHeaderKey))
	}
	if len(r.Headers) == 0 {
		row = append(row, parquet.NullValue().Level(0, 0, colHeaderKey))
	}
	for i, h := range r.Headers {
		row = append(row, optional(h.Value, min(i, 1), 1, colHeaderValue))
	}
	if len(r.Headers) == 0 {
		row = append(row, parquet.NullValue().Level(0, 0, colHeaderValue))
	}
	return append(row,
		optional(r.Key, 0, 0, colKey),
		parquet.Int64Value(r.Offset).Level(0, 0, colOffset),
		parquet.Int32Value(r.Partition).Level(0, 0, colPartition),
		parquet.Int64Value(r.Timestamp.UnixMilli()).Level(0, 0, colTimestamp),
		optional(r.Value, 0, 0, colValue),
	)
}

// optional returns a value of an optional column, in a group of definition
// level def.
func optional(b []byte, rep, def, column int) parquet.Value {
	if b == nil {
		return parquet.NullValue().Level(rep, def, column)
	}
	return parquet.ByteArrayValue(b).Level(rep, def+1, column)
}
