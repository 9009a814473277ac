package objcache

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// maxQueue bounds the bytes that wait for the disk layer. What comes when it
// is full is dropped: the cache is slower then, nobody waits.
const maxQueue = 64 << 20

// job is an extent to be written.
type job struct {
	key  string
	off  int64
	data [][]byte
	n    int64   // bytes of data
	buf  *buffer // to be released afterwards; nil: none
}

// queue holds the extents that wait for the disk.
type queue struct {
	limit int64
	wake  chan struct{} // holds a token while jobs may be waiting

	mu      sync.Mutex
	jobs    []job
	bytes   int64
	dropped int64
}

func (q *queue) init(limit int64) {
	q.limit, q.wake = limit, make(chan struct{}, 1)
}

// push adds a job, or drops it when there is no room.
func (q *queue) push(j job) bool {
	q.mu.Lock()
	ok := q.bytes+j.n+pieceOverhead <= q.limit
	if ok {
		q.jobs = append(q.jobs, j)
		q.bytes += j.n + pieceOverhead
	} else {
		q.dropped++
	}
	q.mu.Unlock()
	if !ok {
		return false
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// pop takes the oldest job.
func (q *queue) pop() (job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.jobs) == 0 {
		q.jobs = nil
		return job{}, false
	}
	j := q.jobs[0]
	q.jobs[0] = job{}
	q.jobs = q.jobs[1:]
	q.bytes -= j.n + pieceOverhead
	return j, true
}

// forget drops the jobs of an object.
func (q *queue) forget(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = slices.DeleteFunc(q.jobs, func(j job) bool {
		if j.key != key {
			return false
		}
		q.bytes -= j.n + pieceOverhead
		j.done()
		return true
	})
}

func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped++
}

func (q *queue) droppedCount() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

func (j job) done() {
	if j.buf != nil {
		j.buf.release()
	}
}

// fill queues an object's pieces, each contiguous run of them as an extent.
func (d *disk) fill(key string, pieces []Piece) {
	for len(pieces) > 0 {
		j := job{key: key, off: pieces[0].Off}
		n := 0
		for _, p := range pieces {
			size := int64(len(p.Data))
			if p.Off != j.off+j.n || j.n+size > maxExtent && n > 0 {
				break
			}
			j.data = append(j.data, p.Data)
			j.n += size
			n++
		}
		pieces = pieces[n:]
		if j.n > maxExtent { // one piece of more than 64 MiB: nobody makes such
			d.queue.drop()
			continue
		}
		d.queue.push(j)
	}
}

// keep queues a range that was read from the store, and holds its buffer.
func (d *disk) keep(k Range, buf *buffer) {
	buf.hold(1)
	if !d.queue.push(job{key: k.Key, off: k.Off, data: [][]byte{buf.b}, n: k.N, buf: buf}) {
		buf.release()
	}
}

// run writes what is queued until ctx ends.
func (d *disk) run(ctx context.Context) error {
	for {
		for ctx.Err() == nil {
			j, ok := d.queue.pop()
			if !ok {
				break
			}
			d.write(j)
			j.done()
		}
		select {
		case <-d.queue.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// write appends an extent to the newest file, after making room for it.
func (d *disk) write(j job) {
	if _, ok := d.find(Range{j.key, j.off, j.n}); ok {
		return
	}
	h := newExtentHead(j.key, j.off, j.data)
	record := h.size() + h.n
	if record > d.limit {
		d.queue.drop()
		return
	}
	if d.cur != nil && (d.cur.size >= d.fileLimit || len(d.cur.keys) >= maxFileExtents) {
		d.cur = nil
	}
	d.makeRoom(record)
	if err := d.append(h, j.data); err != nil {
		d.queue.drop()
		d.cur = nil // a part of the record may be there: nothing goes behind it
		if !d.sick {
			d.fail("write", err)
		}
		d.sick = true
		return
	}
	d.sick = false
}

func (d *disk) append(h extentHead, data [][]byte) error {
	if d.cur == nil {
		name := fmt.Sprintf("%016x%s", d.next, fileSuffix)
		d.next++
		f, err := d.fs.Create(name)
		if err != nil {
			return err
		}
		d.cur = &diskFile{name: name, f: f}
		d.mu.Lock()
		d.files = append(d.files, d.cur)
		d.mu.Unlock()
	}
	file := d.cur
	pos := file.size + h.size()
	n, err := file.f.Writev(append([][]byte{h.encode()}, data...))
	d.mu.Lock()
	file.size += n
	d.size += n
	if err == nil {
		d.written++
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	d.add(h, file, pos)
	return nil
}
