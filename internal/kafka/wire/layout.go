package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ErrElements means that a request has more elements than are taken.
var ErrElements = errors.New("wire: too many elements in a request")

// Layout is the layout of a message's body, by which its elements are counted
// before anything is allocated for them. The decoders of messages allocate for
// an array what its length says, and for each element a multiple of its bytes.
type Layout []layoutField

// layoutField is a field that is there in versions from to to.
type layoutField struct {
	kind     byte // 'f'ixed, 's'tring, 'b'ytes, 'a'rray of values, 'A'rray of structs, '?' a struct or null
	size     int  // in bytes, of a fixed one
	of       Layout
	from, to int16
}

// ParseLayout reads a layout's notation, fields between spaces; it panics on
// what is none, since layouts are literals:
//
//	1 2 4 8 16     so many bytes          [4]     an array of values
//	s b            a string, bytes        {s 4}   an array of structs
//	x@3            from version 3 on      (s 4)   a struct or null
//	x@3-5          in versions 3 to 5
//
// Strings, bytes and arrays may be null. Tagged fields are not written down.
func ParseLayout(notation string) Layout {
	l, rest := parseFields(notation)
	if rest != "" {
		panic(fmt.Sprintf("layout %q: what is %q?", notation, rest))
	}
	return l
}

func parseFields(s string) (l Layout, rest string) {
	for s = strings.TrimLeft(s, " "); s != "" && !strings.ContainsRune("]})", rune(s[0])); s = strings.TrimLeft(s, " ") {
		f := layoutField{to: math.MaxInt16}
		switch c := s[0]; c {
		case '[', '{', '(':
			f.kind = map[byte]byte{'[': 'a', '{': 'A', '(': '?'}[c]
			f.of, s = parseFields(s[1:])
			s = s[1:] // the bracket's end; panics where it is missing
		case 's', 'b':
			f.kind, s = c, s[1:]
		default:
			f.kind = 'f'
			f.size, s = number(s)
		}
		if strings.HasPrefix(s, "@") {
			var n int
			n, s = number(s[1:])
			if f.from = int16(n); strings.HasPrefix(s, "-") {
				n, s = number(s[1:])
				f.to = int16(n)
			}
		}
		l = append(l, f)
	}
	return l, s
}

func number(s string) (n int, rest string) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.Atoi(s[:digits])
	if err != nil {
		panic(fmt.Sprintf("layout: no number in %q", s))
	}
	return n, s[digits:]
}

// Elements counts the elements of all arrays in a body, and the tagged fields.
// It allocates nothing and stops at limit with ErrElements. ErrTruncated
// means that the body ends before its fields do.
func (l Layout) Elements(body []byte, version int16, flexible bool, limit int) (int, error) {
	c := counter{b: body, version: version, flexible: flexible, limit: limit}
	c.fields(l, true)
	return c.n, c.err
}

// counter walks over b until err is set.
type counter struct {
	b        []byte
	version  int16
	flexible bool
	n, limit int
	err      error
}

// fields passes over a struct, or over one value of an array, which has no tags.
func (c *counter) fields(l Layout, tags bool) {
	for i := range l {
		f := &l[i]
		if c.version < f.from || c.version > f.to {
			continue
		}
		switch f.kind {
		case 'f':
			c.skip(uint64(f.size))
		case 's':
			c.skip(c.length(2))
		case 'b':
			c.skip(c.length(4))
		case '?':
			if marker := c.take(1); c.err == nil && int8(marker[0]) >= 0 {
				c.fields(f.of, true)
			}
		default:
			for n := c.elements(c.length(4)); n > 0 && c.err == nil; n-- {
				c.fields(f.of, f.kind == 'A')
			}
		}
		if c.err != nil {
			return
		}
	}
	if tags && c.flexible {
		for n := c.elements(c.uvarint()); n > 0 && c.err == nil; n-- {
			c.uvarint()
			c.skip(c.uvarint())
		}
	}
}

// elements counts n elements.
func (c *counter) elements(n uint64) uint64 {
	if n > uint64(c.limit-c.n) && c.err == nil {
		c.err = fmt.Errorf("%w: %d and %d more, at most %d", ErrElements, c.n, n, c.limit)
	}
	if c.err != nil {
		return 0
	}
	c.n += int(n)
	return n
}

// length reads the length of something that may be null, which has none; in
// versions that are not flexible it takes so many bytes.
func (c *counter) length(bytes int) uint64 {
	if c.flexible {
		n := c.uvarint()
		return n - min(n, 1)
	}
	b := c.take(uint64(bytes))
	if c.err != nil {
		return 0
	}
	if bytes == 2 {
		return uint64(max(int16(binary.BigEndian.Uint16(b)), 0))
	}
	return uint64(max(int32(binary.BigEndian.Uint32(b)), 0))
}

func (c *counter) uvarint() (n uint64) {
	if c.err == nil {
		if n, c.b, c.err = uvarint(c.b); c.err != nil {
			c.err = ErrTruncated
		}
	}
	return n
}

func (c *counter) skip(n uint64) { c.take(n) }

func (c *counter) take(n uint64) []byte {
	if n > uint64(len(c.b)) && c.err == nil {
		c.err = ErrTruncated
	}
	if c.err != nil {
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}
