package verify

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/sweep"
)

// objects lists all objects, a page at a time, and verifies those of WAL and
// checkpoints that are named. What nothing names is litter.
func (v *run) objects(ctx context.Context, _ catalog.Cluster) error {
	return eachPage(ctx, v.Store, "", func(page []objstore.Info) error {
		j, err := judge(ctx, v.Catalog, page)
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(v.Parallel)
		for _, info := range page {
			v.report.Objects++
			v.report.Bytes += info.Size
			switch verdict := j.Judge(info); {
			case verdict.Litter:
				v.found(Finding{Kind: Litter, Key: info.Key, Bytes: info.Size, Safe: verdict.Safe, Detail: verdict.Why})
			case verdict.InUse:
				g.Go(func() error { return v.object(ctx, info) })
			}
		}
		return g.Wait()
	})
}

// judge reads anew for each page who may write and what is named: of a broker
// that began meanwhile, too.
func judge(ctx context.Context, cat *catalog.Catalog, page []objstore.Info) (*sweep.Judge, error) {
	w, err := sweep.ReadWriters(ctx, cat)
	if err != nil {
		return nil, err
	}
	return w.Judge(ctx, cat, page)
}

func eachPage(ctx context.Context, store objstore.Store, prefix string, fn func([]objstore.Info) error) error {
	for after := ""; ; {
		page, err := get(ctx, func(ctx context.Context) ([]objstore.Info, error) {
			return store.List(ctx, prefix, after, pageSize)
		})
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		if len(page) > 0 {
			if err := fn(page); err != nil {
				return err
			}
			after = page[len(page)-1].Key
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// object verifies a WAL object or checkpoint. One that has gone is no finding
// here: if it is still named, tails find that out.
func (v *run) object(ctx context.Context, info objstore.Info) error {
	read := bundle.Verify
	if v.Quick {
		read = func(ctx context.Context, r bundle.ReadAt) (*bundle.Object, error) { return bundle.Read(ctx, r, nil) }
	}
	_, err := read(ctx, bundle.At(v.Store, info.Key))
	v.progress.Objects.Add(1)
	v.progress.Bytes.Add(info.Size)
	switch k, wrong := kindOf(err); {
	case err == nil, k == Missing:
		return nil
	case wrong:
		v.found(Finding{Kind: k, Key: info.Key, Detail: err.Error()})
		return nil
	}
	return err
}
