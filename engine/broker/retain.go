package broker

import "context"

func (b *Broker) retain(ctx context.Context) error { <-ctx.Done(); return nil }
