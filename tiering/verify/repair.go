package verify

import (
	"context"
	"fmt"

	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/sweep"
)

// Repair deletes the litter that is safe to delete, as a sweep does that waits
// for no reader. It returns what it deleted. What it is killed at it finds again; two
// of them do no harm. Errors are those of the stores.
func Repair(ctx context.Context, o Options) (deleted []Finding, err error) {
	_, err = sweep.All(ctx, sweep.Options{Catalog: o.Catalog, Store: o.Store, Deleted: func(info objstore.Info, why string) {
		deleted = append(deleted, Finding{Kind: Litter, Key: info.Key, Bytes: info.Size, Safe: true, Detail: why})
	}})
	if err != nil {
		return deleted, fmt.Errorf("repair: %w", err)
	}
	return deleted, nil
}
