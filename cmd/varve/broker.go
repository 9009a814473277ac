package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/varvelog/varve/engine/api"
	"github.com/varvelog/varve/engine/broker"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/vfs"
)

type brokerFlags struct {
	storeFlags
	listen    string
	http      string
	advertise string
	rack      string
	id        int32
	fargate   bool
	configs   []string
	logLevel  string
	json      bool
	settings  bool // list them
}

func newBrokerCommand() *cobra.Command {
	f := new(brokerFlags)
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "Run a broker",
		Long: "Run a broker on a data directory: records in DIR/objects, metadata in DIR/meta.db.\n" +
			"With --bucket and --table: records in S3, metadata in DynamoDB, found by the usual AWS environment\n" +
			"(AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL, roles); the data directory is then only this broker's cache.\n" +
			"Ctrl-C drains: waiting answers leave, everything is flushed and sealed. A second Ctrl-C ends it at once.",
		Example: "  varve broker\n  varve broker --data /var/lib/varve --listen 127.0.0.1:9092 --config num.partitions=6\n" +
			"  varve broker --bucket my-log --table my-log --create",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.settings {
				return listSettings(cmd)
			}
			return f.run(cmd)
		},
	}
	fs := cmd.Flags()
	f.register(fs, "data directory; made where there is none")
	fs.BoolVar(&f.create, "create", false, "make the bucket and the table where there are none")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:9092", "address of the Kafka listener, host:port (port 0: any)")
	fs.StringVar(&f.http, "http", "127.0.0.1:9644", "address of /metrics, /healthz, /readyz and /debug/pprof, host:port (\"\": none)")
	fs.StringVar(&f.advertise, "advertise", "", "host:port that clients are told (default: the listener's)")
	fs.StringVar(&f.rack, "rack", "", "rack or zone of this broker")
	fs.Int32Var(&f.id, "id", noID, "broker id (default: one that this data directory has and nobody runs, else a new one)")
	fs.BoolVar(&f.fargate, "fargate", false, "take --id, --rack and --advertise from the metadata of the Fargate task that this broker runs in")
	fs.StringArrayVar(&f.configs, "config", nil, "broker setting key=value, by Kafka's names; may be repeated")
	fs.BoolVar(&f.settings, "list-settings", false, "list the settings that --config takes, with their defaults, and end")
	fs.BoolVar(&f.json, "json", false, "print and log JSON, a line each")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// spareProcs is how many more goroutines may run than there are processors.
// One that waits in a disk's system call holds a processor of the scheduler,
// which looks out for those at the price of many wake-ups unless one is idle.
const spareProcs = 2

func (f *brokerFlags) run(cmd *cobra.Command) error {
	kv, err := keyValues(f.configs)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	if err := f.fromSettings(kv, cmd.Flags().Changed); err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	cfg, err := config.ParseBroker(f.withDefaults(kv))
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	var handler slog.Handler = slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})
	if f.json {
		handler = slog.NewJSONHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})
	}
	log := slog.New(handler)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcs)
	}
	if f.fargate {
		if err := f.fromTask(cmd.Context(), os.Getenv(fargateURI), cmd.Flags().Changed); err != nil {
			return err
		}
	}
	if f.id != noID {
		unlock, err := f.lock()
		if err != nil {
			return err
		}
		defer unlock()
	}
	return f.serve(cmd.Context(), cmd.OutOrStdout(), cfg, log)
}

func (f *brokerFlags) serve(ctx context.Context, out io.Writer, cfg *config.Broker, log *slog.Logger) (err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	stores, err := f.open(ctx, true, reg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen: %w (is another broker running? --listen takes another address)", err)
	}
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close()
	if f.id == noID {
		unlock, err := f.claim(ctx, stores.meta)
		if err != nil {
			return err
		}
		defer unlock()
	}
	self, err := f.self(listener.Addr().String())
	if err != nil {
		return err
	}
	web, err := startHTTP(ctx, f.http, reg, log)
	if err != nil {
		return err
	}
	defer web.stop()
	err = broker.Run(ctx, broker.Options{
		Meta: stores.meta, Store: stores.objects, CacheDisk: f.cacheDisk, Listener: listener, Self: self, Config: cfg, Logger: log, Registry: reg,
		Room: stores.room,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
		Ready: func(clusterID string) {
			web.ready.Store(true)
			f.welcome(out, listener.Addr().String(), clusterID)
		},
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // Ctrl-C came before it had begun to serve
	}
	return err
}

// cacheDisk returns the folder of the object cache of a cluster, and removes what a broker of another has left there; nil on a
// data directory, whose objects lie on this disk anyway.
func (f *brokerFlags) cacheDisk(clusterID string) (vfs.FS, error) {
	if !f.cloud() {
		return nil, nil
	}
	dir := filepath.Join(f.brokerDir(), "cache")
	left, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	for _, e := range left {
		if e.Name() == clusterID {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
	}
	disk, err := vfs.Disk(filepath.Join(dir, clusterID))
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return disk, nil
}

// brokerDir is the broker's own folder of the data directory.
func (f *brokerFlags) brokerDir() string {
	return filepath.Join(f.data, fmt.Sprintf("broker-%d", f.id))
}

// self returns the broker as clients reach it.
func (f *brokerFlags) self(listening string) (api.Broker, error) {
	at := f.advertise
	if at == "" {
		at = listening
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return api.Broker{}, fmt.Errorf("--advertise: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return api.Broker{}, fmt.Errorf("--advertise: port: %w", err)
	}
	if ip := net.ParseIP(host); f.advertise == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
		if host, err = os.Hostname(); err != nil {
			return api.Broker{}, fmt.Errorf("no --advertise, and no host name: %w", err)
		}
	}
	return api.Broker{ID: f.id, Host: host, Port: int32(n), Rack: f.rack}, nil
}

func (f *brokerFlags) welcome(out io.Writer, addr, clusterID string) {
	if f.json {
		_ = json.NewEncoder(out).Encode(map[string]any{"broker": f.id, "cluster": clusterID, "address": addr, "data": f.place()}) // nobody reads it, then
		return
	}
	fmt.Fprintf(out, "varve broker %d of cluster %s, listening on %s, data in %s\n", f.id, clusterID, addr, f.place())
	boot := ""
	if addr != "127.0.0.1:9092" {
		boot = " --bootstrap " + addr
	}
	fmt.Fprintf(out, "try:  echo hello | bin/varve produce greetings%s\n", boot)
	fmt.Fprintf(out, "      bin/varve consume greetings --exit%s\n", boot)
}
