package wal

import (
	"context"
	"errors"
	"fmt"

	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
)

// EndPrefix is what the keys of marked ends begin with.
const EndPrefix = "ends/"

// EndKey returns the key of the mark that says where a session's WAL ends.
func EndKey(broker int32, epoch int64) string {
	return fmt.Sprintf(EndPrefix+"%010d/%020d", broker, epoch)
}

// MarkEnd marks in the object store where a sealed session's WAL ends, at the
// position that the catalogue has recorded. Who trims a sealed session does it first:
// once objects are gone a second seal may come to lie among them, by somebody who took
// the session's end to be there, and a listing alone would not tell which one counts.
// The mark is a copy of the seal, and stays as that does.
func MarkEnd(ctx context.Context, store objstore.Store, session bundle.Origin, at int64) error {
	session.Seq = at
	body, _ := bundle.SealBuffers(session, session)
	ctx, cancel := context.WithTimeout(ctx, defaultPutTimeout)
	defer cancel()
	err := store.Put(ctx, EndKey(session.Broker, session.Epoch), objstore.Buffers(body))
	if err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("mark end of the WAL of broker %d, session %d: %w", session.Broker, session.Epoch, err)
	}
	return nil
}

// MarkedEnd returns where a session's WAL ends, if that was marked.
func MarkedEnd(ctx context.Context, store objstore.Store, broker int32, epoch int64) (at int64, ok bool, err error) {
	key := EndKey(broker, epoch)
	o, err := bundle.Read(ctx, bundle.At(store, key), make([]byte, bundle.SealSize))
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("read %s: %w", key, err)
	case o.Kind != bundle.KindSeal || o.Origin.Broker != broker || o.Origin.Epoch != epoch:
		return 0, false, fmt.Errorf("read %s: %w: it is of session %d of broker %d", key, bundle.ErrCorrupt, o.Origin.Epoch, o.Origin.Broker)
	}
	return o.Origin.Seq, true, nil
}
