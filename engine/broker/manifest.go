package broker

import (
	"context"
	"fmt"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/manifest"
)

// manifests keeps what a lost catalogue is rebuilt from in the object store. The
// live broker with the lowest id does it.
func (b *Broker) manifests(ctx context.Context) error {
	k := manifest.Keeper{Catalog: b.catalog, Store: b.o.Store, Writer: b.writesManifests,
		Warn: func(err error) { b.o.Logger.Warn("keep the manifest", "err", err) }}
	return k.Run(ctx)
}

func (b *Broker) writesManifests() (name string, ok bool) {
	mine := b.manager.Load().Session().ID
	live := b.catalog.Members().Live()
	return fmt.Sprintf("%010d-%020d", mine.Broker, mine.Epoch),
		b.catalog.Level() >= catalog.LevelNames && len(live) > 0 && live[0].ID == mine
}
