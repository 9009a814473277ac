package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/wal"
)

// Repair lists the objects again and deletes the litter that is safe to delete.
// It returns what it deleted. What it is killed at it finds again; two of them do no harm.
// Each WAL is trimmed as its owner would have: recorded first. Errors are those of the stores.
func Repair(ctx context.Context, o Options) (deleted []Finding, err error) {
	if err := trimSealed(ctx, o.Catalog); err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	err = eachPage(ctx, o.Store, "", func(page []objstore.Info) error {
		j, err := newJudge(ctx, o.Catalog, page)
		if err != nil {
			return err
		}
		var keys []string
		for _, info := range page {
			if verdict := j.judge(info); verdict.safe && (!strings.HasPrefix(info.Key, wal.KeyPrefix) || j.trimmed(info.Key)) {
				keys = append(keys, info.Key)
				deleted = append(deleted, Finding{Kind: Litter, Key: info.Key, Bytes: info.Size, Safe: true, Detail: verdict.why})
			}
		}
		if len(keys) == 0 {
			return nil
		}
		return bounded(ctx, func(ctx context.Context) error { return o.Store.Delete(ctx, keys...) })
	})
	if err != nil {
		return deleted, fmt.Errorf("repair: %w", err)
	}
	return deleted, nil
}

// trimmed tells whether a WAL object may be deleted by what its session's item
// records: up to its trim, or behind its seal.
func (j *judge) trimmed(key string) bool {
	o, _ := wal.ParseKey(key)
	s, ok := j.sessions[catalog.SessionID{Broker: o.Broker, Epoch: o.Epoch}]
	return !ok || o.Seq <= s.Trim || o.Seq > s.SealedAt
}

// trimSealed records for each sealed session what no slot needs of its WAL.
func trimSealed(ctx context.Context, cat *catalog.Catalog) error {
	j, err := newJudge(ctx, cat, nil)
	if err != nil {
		return err
	}
	for id, keep := range j.keep {
		err := bounded(ctx, func(ctx context.Context) error {
			_, err := cat.SetTrim(ctx, j.sessions[id], keep-1)
			return err
		})
		if err != nil && !errors.Is(err, catalog.ErrFenced) { // somebody else was at it
			return err
		}
	}
	return nil
}
