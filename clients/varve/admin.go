package varve

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Admin asks for and changes topics, groups and settings: all of franz-go's
// kadm.Client.
type Admin struct{ *kadm.Client }

// NewAdmin connects an Admin, which is closed by its Close.
func NewAdmin(ctx context.Context, c Config) (*Admin, error) {
	cl, err := c.client(ctx)
	if err != nil {
		return nil, fmt.Errorf("open admin: %w", err)
	}
	return &Admin{kadm.NewClient(cl)}, nil
}

// EnsureTopic makes a topic where there is none of that name, with the
// broker's number of partitions for -1 and settings by Kafka's names. One that is there
// stays as it is; it is an error if it has another number of partitions than asked for.
func (a *Admin) EnsureTopic(ctx context.Context, name string, partitions int32, settings map[string]string) error {
	values := make(map[string]*string, len(settings))
	for k, v := range settings {
		values[k] = &v
	}
	made, err := a.CreateTopic(ctx, partitions, -1, values, name)
	if err == nil {
		return nil
	}
	if !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("make topic %s: %w %s", name, err, made.ErrMessage)
	}
	topics, err := a.ListTopics(ctx, name)
	if err == nil {
		err = topics[name].Err
	}
	if err != nil {
		return fmt.Errorf("describe topic %s: %w", name, err)
	}
	if n := len(topics[name].Partitions); partitions > 0 && n != int(partitions) {
		return fmt.Errorf("topic %s has %d partitions, not %d", name, n, partitions)
	}
	return nil
}
