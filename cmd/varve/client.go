package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// clientFlags are those of every command that talks to a broker.
type clientFlags struct {
	bootstrap string
	timeout   time.Duration
	json      bool
}

func (f *clientFlags) add(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&f.bootstrap, "bootstrap", "127.0.0.1:9092", "brokers to ask first, host:port[,host:port …]")
	cmd.PersistentFlags().DurationVar(&f.timeout, "timeout", 30*time.Second, "give up on a request after this long")
	cmd.PersistentFlags().BoolVar(&f.json, "json", false, "print JSON")
}

// client connects; it fails with a useful error where nobody listens.
func (f *clientFlags) client(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	seeds := strings.Split(f.bootstrap, ",")
	all := append([]kgo.Opt{
		kgo.SeedBrokers(seeds...),
		kgo.ClientID("varve"),
		kgo.RetryTimeout(f.timeout),
		kgo.UnknownTopicRetries(2),
	}, opts...)
	cl, err := kgo.NewClient(all...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, min(f.timeout, 10*time.Second))
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		cl.Close()
		return nil, fmt.Errorf("no broker answers at %s (is `varve broker` running? --bootstrap names another): %w", f.bootstrap, err)
	}
	return cl, nil
}

// admin runs fn with an admin client and the request timeout.
func (f *clientFlags) admin(ctx context.Context, fn func(context.Context, *kadm.Client) error) error {
	cl, err := f.client(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	adm := kadm.NewClient(cl)
	adm.SetTimeoutMillis(int32(f.timeout.Milliseconds()))
	return fn(ctx, adm)
}

// keyValues reads "key=value" pairs.
func keyValues(pairs []string) (map[string]string, error) {
	kv := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, err := keyValue(p)
		if err != nil {
			return nil, err
		}
		kv[k] = v
	}
	return kv, nil
}

func keyValue(pair string) (key, value string, err error) {
	key, value, ok := strings.Cut(pair, "=")
	if !ok || key == "" {
		return "", "", fmt.Errorf("%q is not of the form key=value", pair)
	}
	return key, value, nil
}
