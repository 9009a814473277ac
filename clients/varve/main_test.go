package varve_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/varvelog/varve/engine/api"
	"github.com/varvelog/varve/engine/broker"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/meta/sqlite"
	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore/filestore"
	"github.com/varvelog/varve/tiering/wal"
)

// The broker of the tests and examples, in this process.
var address, directory string

func TestMain(m *testing.M) {
	code, err := withBroker(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

// withBroker runs fn beside a broker on a new data directory.
func withBroker(fn func() int) (code int, err error) {
	if directory, err = os.MkdirTemp("", "varve-sdk-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(directory)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	table, err := sqlite.Open(ctx, filepath.Join(directory, "meta.db"))
	if err != nil {
		return 0, err
	}
	defer table.Close()
	disk, err := vfs.Disk(directory)
	if err != nil {
		return 0, err
	}
	objects, err := filestore.Open(disk, "objects", wal.KeyPrefix)
	if err != nil {
		return 0, err
	}
	defer objects.Close()
	settings, err := config.ParseBroker(map[string]string{"group.initial.rebalance.delay.ms": "0"})
	if err != nil {
		return 0, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	address = l.Addr().String()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- broker.Run(ctx, broker.Options{
			Meta: table, Store: objects, Listener: l, Config: settings, Logger: slog.New(slog.DiscardHandler),
			Self:  api.Broker{ID: 1, Host: "127.0.0.1", Port: int32(l.Addr().(*net.TCPAddr).Port)},
			Ready: func(string) { close(ready) },
		})
	}()
	select {
	case err := <-ended:
		return 0, err
	case <-ready:
	}
	code = fn()
	stop()
	return code, <-ended
}
