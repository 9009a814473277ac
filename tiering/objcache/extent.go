package objcache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/varvelog/varve/tiering/objstore"
)

// A file of the disk layer is a run of records, each an extent of an object:
//
//	 0  magic "VOC1"
//	 4  CRC-32C of the header from byte 8 to its end     uint32, little endian as all
//	 8  length of the key                                uint16
//	10  zero                                             uint16
//	12  length of the data                               uint32
//	16  offset of the data in the object                 uint64
//	24  the key, then a CRC-32C for each block of 64 KiB of the data, then the data
//
// Nothing is synced. After a crash a file may lack its end and have holes; the
// header's CRC ends the scan, a block's CRC fails the read.
const (
	extentMagic   = "VOC1"
	extentFixed   = 24
	extentBlock   = 64 << 10
	maxExtent     = MaxRead
	maxExtentHead = extentFixed + objstore.MaxKeyLen + 4*(maxExtent/extentBlock)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errNoExtent = errors.New("objcache: no extent")

// extentHead is a record's header.
type extentHead struct {
	key  string
	off  int64
	n    int64 // bytes of data
	sums []uint32
}

// size returns the header's length in bytes.
func (h *extentHead) size() int64 {
	return extentFixed + int64(len(h.key)) + 4*int64(len(h.sums))
}

// newExtentHead sums up data, which is not empty.
func newExtentHead(key string, off int64, data [][]byte) extentHead {
	h := extentHead{key: key, off: off}
	var sum uint32
	for _, p := range data {
		for len(p) > 0 {
			take := min(len(p), extentBlock-int(h.n%extentBlock))
			sum = crc32.Update(sum, castagnoli, p[:take])
			h.n += int64(take)
			p = p[take:]
			if h.n%extentBlock == 0 {
				h.sums, sum = append(h.sums, sum), 0
			}
		}
	}
	if h.n%extentBlock != 0 {
		h.sums = append(h.sums, sum)
	}
	return h
}

func (h *extentHead) encode() []byte {
	b := make([]byte, extentFixed, h.size())
	copy(b, extentMagic)
	binary.LittleEndian.PutUint16(b[8:], uint16(len(h.key)))
	binary.LittleEndian.PutUint32(b[12:], uint32(h.n))
	binary.LittleEndian.PutUint64(b[16:], uint64(h.off))
	b = append(b, h.key...)
	for _, s := range h.sums {
		b = binary.LittleEndian.AppendUint32(b, s)
	}
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// decodeExtentHead reads the header at the beginning of b, which holds at
// least maxExtentHead bytes or all there is.
func decodeExtentHead(b []byte) (extentHead, error) {
	if len(b) < extentFixed || string(b[:4]) != extentMagic {
		return extentHead{}, errNoExtent
	}
	keyLen := int(binary.LittleEndian.Uint16(b[8:]))
	n := int64(binary.LittleEndian.Uint32(b[12:]))
	off := int64(binary.LittleEndian.Uint64(b[16:]))
	if keyLen > objstore.MaxKeyLen || n == 0 || n > maxExtent || off < 0 || off+n < off {
		return extentHead{}, fmt.Errorf("%w: header out of bounds", errNoExtent)
	}
	blocks := int((n + extentBlock - 1) / extentBlock)
	size := extentFixed + keyLen + 4*blocks
	if len(b) < size || crc32.Checksum(b[8:size], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return extentHead{}, fmt.Errorf("%w: wrong checksum", errNoExtent)
	}
	h := extentHead{key: string(b[extentFixed : extentFixed+keyLen]), off: off, n: n, sums: make([]uint32, blocks)}
	for i := range h.sums {
		h.sums[i] = binary.LittleEndian.Uint32(b[extentFixed+keyLen+4*i:])
	}
	return h, nil
}

// extent is a range of an object in a file of the disk layer.
type extent struct {
	file   *diskFile
	off, n int64 // in the object
	pos    int64 // of its data in the file
	sums   []uint32
}

// covers says whether a range lies in the extent.
func (e *extent) covers(off, n int64) bool { return e.off <= off && off+n <= e.off+e.n }

// read reads a range that the extent covers, in whole blocks, and checks them.
func (e *extent) read(off, n int64) (*buffer, []byte, error) {
	first := (off - e.off) / extentBlock
	last := (off + n - e.off + extentBlock - 1) / extentBlock // exclusive
	from, to := first*extentBlock, min(last*extentBlock, e.n)
	buf := newBuffer(int(to - from))
	if got, err := e.file.f.ReadAt(buf.b, e.pos+from); got < len(buf.b) {
		buf.release()
		return nil, nil, err
	}
	for i := first; i < last; i++ {
		block := buf.b[(i-first)*extentBlock : min((i-first+1)*extentBlock, to-from)]
		if crc32.Checksum(block, castagnoli) != e.sums[i] {
			buf.release()
			return nil, nil, fmt.Errorf("block %d: wrong checksum", i)
		}
	}
	start := off - e.off - from
	return buf, buf.b[start : start+n : start+n], nil
}
