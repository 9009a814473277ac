package bundle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The fixed parts, big-endian as Kafka's own:
//
//	header, 64 bytes                      trailer, 32 bytes
//	 0  magic "VARVEBDL"            8      0  position of the footer    8
//	 8  format version              2      8  length of the footer      4
//	10  kind                        1     12  CRC-32C of the footer     4
//	11  0                           1     16  format version            2
//	12  broker                      4     18  kind                      1
//	16  session epoch               8     19  0                         1
//	24  sequence number             8     20  CRC-32C of bytes 0–19     4
//	32  session nonce              16     24  magic "VARVEEND"          8
//	48  0                          12
//	60  CRC-32C of bytes 0–59       4
//
// The footer begins with a copy of the header, so that the tail alone says
// whose object it is.
const (
	headerMagic  = "VARVEBDL"
	trailerMagic = "VARVEEND"
	version      = 1

	// HeaderLen and TrailerLen are the sizes of the fixed parts.
	HeaderLen  = 64
	TrailerLen = 32

	// SealSize is the size of every seal. Every other bundle is longer, so
	// a listing tells which objects may be seals.
	SealSize = HeaderLen + sealFooterLen + TrailerLen

	originLen     = 36
	sealFooterLen = HeaderLen + originLen
)

// Limits of what a reader accepts, checked before it allocates.
const (
	MaxFooter = 64 << 20  // bytes
	MaxFrame  = 256 << 20 // uncompressed bytes of a frame: the largest batch
	tailGuess = 64 << 10  // bytes of the first read of an object's tail

	batchHead  = 21 // base offset, length, leader epoch, magic, CRC
	minBatch   = 61 // bytes of a batch without records
	maxPerProd = 5
)

// ErrCorrupt means that an object is not a whole bundle of a known version.
var ErrCorrupt = errors.New("bundle: corrupt")

// ErrTooLarge means that a bundle's footer would be larger than readers take.
var ErrTooLarge = errors.New("bundle: too large")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// headSum folds one batch's head into a slice's sum. The head ends with the
// CRC of all that follows it, so the sum covers the whole batch without
// another pass over its bytes.
func headSum(sum uint32, head []byte) uint32 {
	return crc32.Update(sum, castagnoli, head[:batchHead])
}

func appendHeader(b []byte, k Kind, o Origin) []byte {
	start := len(b)
	b = append(b, headerMagic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = append(b, byte(k), 0)
	b = appendOrigin(b, o)
	b = append(b, make([]byte, 12)...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func appendOrigin(b []byte, o Origin) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(o.Broker))
	b = binary.BigEndian.AppendUint64(b, uint64(o.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(o.Seq))
	return append(b, o.Nonce[:]...)
}

func parseOrigin(b []byte) Origin {
	o := Origin{
		Broker: int32(binary.BigEndian.Uint32(b)),
		Epoch:  int64(binary.BigEndian.Uint64(b[4:])),
		Seq:    int64(binary.BigEndian.Uint64(b[12:])),
	}
	copy(o.Nonce[:], b[20:])
	return o
}

func parseHeader(b []byte) (Kind, Origin, error) {
	switch {
	case len(b) < HeaderLen:
		return 0, Origin{}, corrupt("header of %d bytes", len(b))
	case string(b[:8]) != headerMagic:
		return 0, Origin{}, corrupt("header magic %q", b[:8])
	case binary.BigEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli):
		return 0, Origin{}, corrupt("header checksum")
	}
	k, err := parseKind(b[8:])
	return k, parseOrigin(b[12:]), err
}

func parseKind(b []byte) (Kind, error) {
	if v := binary.BigEndian.Uint16(b); v != version {
		return 0, corrupt("format version %d, this program reads %d", v, version)
	}
	k := Kind(b[2])
	if k < KindWAL || k > KindSegment || b[3] != 0 {
		return 0, corrupt("kind %d", k)
	}
	return k, nil
}

// trailer is the last 32 bytes of an object.
type trailer struct {
	kind      Kind
	footerPos int64
	footerLen int64
	sum       uint32 // CRC-32C of the footer: the bundle's checksum
}

// appendTrailer ends footer, which begins at footerPos in the object.
func appendTrailer(footer []byte, k Kind, footerPos int64) (b []byte, sum uint32) {
	sum = crc32.Checksum(footer, castagnoli)
	n := len(footer)
	b = binary.BigEndian.AppendUint64(footer, uint64(footerPos))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, sum)
	b = binary.BigEndian.AppendUint16(b, version)
	b = append(b, byte(k), 0)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[n:], castagnoli))
	return append(b, trailerMagic...), sum
}

// parseTrailer reads the trailer of an object of size bytes from its last bytes.
func parseTrailer(tail []byte, size int64) (trailer, error) {
	if len(tail) < TrailerLen || size < HeaderLen+TrailerLen {
		return trailer{}, corrupt("object of %d bytes", size)
	}
	b := tail[len(tail)-TrailerLen:]
	switch {
	case string(b[24:]) != trailerMagic:
		return trailer{}, corrupt("trailer magic %q", b[24:])
	case binary.BigEndian.Uint32(b[20:]) != crc32.Checksum(b[:20], castagnoli):
		return trailer{}, corrupt("trailer checksum")
	}
	k, err := parseKind(b[16:])
	if err != nil {
		return trailer{}, err
	}
	t := trailer{
		kind:      k,
		footerPos: int64(binary.BigEndian.Uint64(b)),
		footerLen: int64(binary.BigEndian.Uint32(b[8:])),
		sum:       binary.BigEndian.Uint32(b[12:]),
	}
	if t.footerLen < HeaderLen || t.footerLen > MaxFooter || t.footerPos < HeaderLen ||
		t.footerPos != size-TrailerLen-t.footerLen {
		return trailer{}, corrupt("footer of %d bytes at %d in an object of %d", t.footerLen, t.footerPos, size)
	}
	return t, nil
}
