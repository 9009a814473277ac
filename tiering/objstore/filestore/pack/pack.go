// Package pack is the format of the files that hold many objects of one
// folder of the file store: written in place, record by record, each whole or
// recognisably not. docs/format/pack.md has it byte by byte.
//
//	┌────────┬──────────────────────┬──────────────────────┬─ ─ ─┐
//	│ header │ record: header, body │ record: header, body │     │
//	│  4096  │  4096 + n, to 4096·k │                      │     │
//	└────────┴──────────────────────┴──────────────────────┴─ ─ ─┘
//
// Headers and bodies begin at multiples of Block, so that all of them can be
// written and read past the page cache. Each record names the pack and the position at
// which it was written, so that nothing else that lies on the disk, nor an
// older use of it, is taken for one.
package pack

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"strings"
)

// The sizes of the format, in bytes.
const (
	Block   = 4096 // all begins at its multiples; each header takes one
	RefSize = 64   // of a reference
	MaxName = 255  // of an object's name in its folder
)

const version = 1

const (
	packMagic   = "VARVEPAK"
	recordMagic = "VARVEREC"
	refMagic    = "VARVEREF"
)

// ErrInvalid is returned for bytes that are not what was asked for.
var ErrInvalid = errors.New("pack: invalid")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ID is a pack's own number, random.
type ID [16]byte

// NewID returns the number of a new pack.
func NewID() (id ID) {
	rand.Read(id[:])
	return id
}

// Names of a pack's two files. '~' is no byte of keys.
const (
	filePrefix = "~pack-"
	refPrefix  = "~ref-"
)

// FileName is the name of the pack in its folder.
func (id ID) FileName() string { return filePrefix + hex.EncodeToString(id[:]) }

// RefName is the name of the pack's reference in its folder, to which the
// names of the objects are links.
func (id ID) RefName() string { return refPrefix + hex.EncodeToString(id[:]) }

// ParseName returns whose file it is that has a name, and whether it is the
// reference; ok is false for other files.
func ParseName(name string) (id ID, ref, ok bool) {
	digits, ref := strings.CutPrefix(name, refPrefix)
	if !ref {
		if digits, ok = strings.CutPrefix(name, filePrefix); !ok {
			return id, false, false
		}
	}
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(id) {
		return id, ref, false
	}
	return ID(b), ref, true
}

// Ref returns the content of the pack's reference.
func (id ID) Ref() []byte {
	b := make([]byte, RefSize)
	copy(b, refMagic)
	binary.BigEndian.PutUint16(b[8:], version)
	copy(b[16:], id[:])
	putCRC(b)
	return b
}

// ParseRef returns the pack that a reference names; false if b is no reference.
func ParseRef(b []byte) (ID, bool) {
	if len(b) != RefSize || !valid(b, refMagic) {
		return ID{}, false
	}
	return ID(b[16:32]), true
}

// How much of a header's block is used, in bytes.
const (
	headerSize = 64
	recordSize = 512
)

// State says whether the names in the folder are the truth about a pack's records.
type State byte

// A pack goes from Open through Closing to Closed. Who writes Closing may be told that he failed and
// see it nevertheless, until the power goes; Closed is written once Closing is durable.
const (
	Open    State = 0 // records may have lost their names
	Closed  State = 1 // the names are the truth, whatever happens
	Closing State = 2 // they are, but after a loss of power the pack may be open
)

// Header returns a pack's first block.
func Header(id ID, state State) []byte {
	b := make([]byte, headerSize, Block)
	copy(b, packMagic)
	binary.BigEndian.PutUint16(b[8:], version)
	b[10] = byte(state)
	copy(b[16:], id[:])
	putCRC(b)
	return b[:Block]
}

// ReadState reads the state in a pack's header. One whose header is torn is open.
func ReadState(r io.ReaderAt, id ID) (State, error) {
	b := make([]byte, headerSize)
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		return Open, fmt.Errorf("read header of pack: %w", err)
	}
	if !valid(b, packMagic) || ID(b[16:32]) != id {
		return Open, nil
	}
	return State(b[10]), nil
}

// Record is an object in a pack.
type Record struct {
	Name   string // in its folder
	Offset int64  // of its header in the pack
	Size   int64  // of its body, in bytes
	CRC    uint32 // of its body, CRC-32C
	Void   bool   // it must not be given its name again
}

// Body is where in the pack the body begins.
func (r Record) Body() int64 { return r.Offset + Block }

// End is where in the pack the next record may begin.
func (r Record) End() int64 { return (r.Body() + r.Size + Block - 1) &^ (Block - 1) }

// AppendHeader appends the record's header in the pack with a number to what is
// to be written, Block bytes in all. The name has at most MaxName bytes.
func (r Record) AppendHeader(bufs [][]byte, id ID) [][]byte {
	b := make([]byte, recordSize)
	copy(b, recordMagic)
	binary.BigEndian.PutUint16(b[8:], version)
	b[11] = byte(len(r.Name))
	copy(b[16:], id[:])
	binary.BigEndian.PutUint64(b[32:], uint64(r.Offset))
	binary.BigEndian.PutUint64(b[40:], uint64(r.Size))
	binary.BigEndian.PutUint32(b[48:], r.CRC)
	copy(b[64:], r.Name)
	putCRC(b)
	if r.Void {
		b[voidAt] = 1
	}
	return append(bufs, b, zeros[:])
}

// zeros fill up the block of a record's header.
var zeros [Block - recordSize]byte

// voidAt is where in a header the mark of a void record lies. The CRC is that
// of a header without it, so that whatever a loss of power leaves of a mark
// leaves the record what it was.
const voidAt = 10

// MakeVoid marks a record void: it must not be given its name again. The mark
// is not durable yet.
func MakeVoid(w io.WriterAt, rec Record) error {
	if _, err := w.WriteAt([]byte{1}, rec.Offset+voidAt); err != nil {
		return fmt.Errorf("make record of pack void: %w", err)
	}
	return nil
}

// ReadRecord reads the header of the record at off in a pack of size bytes.
// ErrInvalid: none begins there. It does not look at the body.
func ReadRecord(r io.ReaderAt, id ID, off, size int64) (Record, error) {
	var b [recordSize]byte
	if _, err := r.ReadAt(b[:], off); err == io.EOF {
		return Record{}, ErrInvalid
	} else if err != nil {
		return Record{}, fmt.Errorf("read record of pack: %w", err)
	}
	length := binary.BigEndian.Uint64(b[40:])
	void := b[voidAt] != 0
	b[voidAt] = 0
	if !valid(b[:], recordMagic) || ID(b[16:32]) != id || binary.BigEndian.Uint64(b[32:]) != uint64(off) || length > uint64(size) {
		return Record{}, ErrInvalid
	}
	rec := Record{
		Name: string(b[64 : 64+int(b[11])]), Offset: off, Size: int64(length),
		CRC: binary.BigEndian.Uint32(b[48:]), Void: void,
	}
	if rec.Name == "" || rec.Body()+rec.Size > size {
		return Record{}, ErrInvalid
	}
	return rec, nil
}

// Scan returns the records of a pack from a position on, a multiple of Block. It
// steps over blocks at which none begins: records before others may be under
// way, or have been when the power went. After an error it ends.
func Scan(r io.ReaderAt, id ID, from, size int64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for off := max(from, Block); off < size; {
			rec, err := ReadRecord(r, id, off, size)
			if errors.Is(err, ErrInvalid) {
				if off, err = nextRecord(r, off+Block, size); err == nil {
					continue
				}
			}
			if !yield(rec, err) || err != nil {
				return
			}
			off = rec.End()
		}
	}
}

// gapBuffer is how many bytes without a record are read at a time.
const gapBuffer = 256 << 10

// nextRecord returns where the next record may begin, from off on; size where none does.
func nextRecord(r io.ReaderAt, off, size int64) (int64, error) {
	buf := make([]byte, gapBuffer)
	for off < size {
		n, err := r.ReadAt(buf[:min(gapBuffer, size-off)], off)
		if err != nil && err != io.EOF {
			return off, fmt.Errorf("read pack: %w", err)
		}
		for at := 0; at < n; at += Block {
			if bytes.HasPrefix(buf[at:n], []byte(recordMagic)) {
				return off + int64(at), nil
			}
		}
		if err == io.EOF {
			break
		}
		off += int64(n)
	}
	return size, nil
}

// Checksum returns the CRC-32C of a body that lies in pieces.
func Checksum(pieces [][]byte) (crc uint32) {
	for _, p := range pieces {
		crc = crc32.Update(crc, castagnoli, p)
	}
	return crc
}

// Verify reads a record's body and returns ErrInvalid unless it is whole.
func Verify(r io.ReaderAt, rec Record) error {
	h := crc32.New(castagnoli)
	n, err := io.Copy(h, io.NewSectionReader(r, rec.Body(), rec.Size))
	if err != nil {
		return fmt.Errorf("read body of record: %w", err)
	}
	if n != rec.Size || h.Sum32() != rec.CRC {
		return fmt.Errorf("%w: body of %s", ErrInvalid, rec.Name)
	}
	return nil
}

// putCRC puts the CRC of all that lies before into the last four bytes.
func putCRC(b []byte) {
	end := len(b) - 4
	binary.BigEndian.PutUint32(b[end:], crc32.Checksum(b[:end], castagnoli))
}

// valid says whether bytes begin with a magic and this version, and end with their CRC.
func valid(b []byte, magic string) bool {
	end := len(b) - 4
	return string(b[:8]) == magic && binary.BigEndian.Uint16(b[8:]) == version &&
		binary.BigEndian.Uint32(b[end:]) == crc32.Checksum(b[:end], castagnoli)
}
