package catalog

import (
	"context"
	"fmt"

	"github.com/varvelog/varve/internal/meta"
)

// ClaimBroker returns a broker id that nobody had before, and that nobody else
// is given: the least that is larger than all, from 1 on.
func (c *Catalog) ClaimBroker(ctx context.Context) (id int32, err error) {
	err = again(ctx, func() error {
		brokers, err := c.all(ctx, "sessions", "")
		if err != nil {
			return err
		}
		id = 1
		for _, it := range brokers {
			f := read(it)
			if id = max(id, int32(f.int("broker"))+1); f.err != nil {
				return f.err
			}
		}
		_, err = c.commit(ctx, meta.Create(meta.Key{PK: "sessions", SK: brokerSK(id)}, meta.Attrs{"v": format, "broker": int64(id), "epoch": int64(-1)}))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("claim a broker id: %w", err)
	}
	return id, nil
}

func brokerSK(id int32) string { return fmt.Sprintf("%010d", id) }
