package varve_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/varvelog/varve/clients/varve"
)

// Records are produced, each durable when Produce returns, and consumed by a
// group.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cluster := varve.Config{Bootstrap: []string{address}}

	admin, err := varve.NewAdmin(ctx, cluster)
	if err != nil {
		log.Fatal(err)
	}
	defer admin.Close()
	if err := admin.EnsureTopic(ctx, "layers", 1, map[string]string{"retention.ms": "-1"}); err != nil {
		log.Fatal(err)
	}

	producer, err := varve.NewProducer(ctx, cluster)
	if err != nil {
		log.Fatal(err)
	}
	for _, season := range []string{"spring", "summer", "autumn"} {
		if err := producer.Produce(ctx, &varve.Record{Topic: "layers", Key: []byte("2026"), Value: []byte(season)}); err != nil {
			log.Fatal(err)
		}
	}
	if err := producer.Close(ctx); err != nil {
		log.Fatal(err)
	}

	consumer, err := varve.NewConsumer(ctx, cluster, varve.Subscription{Topics: []string{"layers"}, Group: "geologists"})
	if err != nil {
		log.Fatal(err)
	}
	for r, err := range consumer.Records(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d: %s\n", r.Offset, r.Value)
		if r.Offset == 2 {
			break
		}
	}
	if err := consumer.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 0: spring
	// 1: summer
	// 2: autumn
}

// A topic is read straight from its objects, and then on from the brokers,
// without gap or duplicate.
func ExampleContinue() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cluster := varve.Config{Bootstrap: []string{address}}
	producer, err := varve.NewProducer(ctx, cluster)
	if err != nil {
		log.Fatal(err)
	}
	produce := func(value string) {
		if err := producer.Produce(ctx, &varve.Record{Topic: "cores", Partition: 0, Value: []byte(value)}); err != nil {
			log.Fatal(err)
		}
	}
	produce("clay")
	produce("silt")

	sediment, err := varve.OpenDir(ctx, directory) // or OpenBucket
	if err != nil {
		log.Fatal(err)
	}
	defer sediment.Close()
	replay, err := varve.Replay(ctx, sediment, varve.ReplayOptions{Topic: "cores"})
	if err != nil {
		log.Fatal(err)
	}
	for r, err := range replay.Records(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("replayed %d: %s\n", r.Offset, r.Value)
	}

	produce("sand")
	consumer, err := varve.Continue(ctx, cluster, replay)
	if err != nil {
		log.Fatal(err)
	}
	for r, err := range consumer.Records(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("consumed %d: %s\n", r.Offset, r.Value)
		break
	}
	if err := consumer.Close(ctx); err != nil {
		log.Fatal(err)
	}
	if err := producer.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// replayed 0: clay
	// replayed 1: silt
	// consumed 2: sand
}
