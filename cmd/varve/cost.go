package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvelog/varve/internal/price"
)

type costFlags struct {
	json      bool
	rate      string
	retention string
	metrics   []string
	load      price.Workload
}

func newCostCommand() *cobra.Command {
	f := new(costFlags)
	cmd := &cobra.Command{
		Use:   "cost",
		Short: "Work out what a workload costs a month on AWS, or what a running cluster costs now",
		Long: "Work out what a workload costs a month on AWS, line by line, by the prices of us-east-1.\n" +
			"With --metrics: what the requests of running brokers cost, by what they have counted since they started.",
		Example: "  varve cost --rate 20MB --fan-out 3 --retention 30d\n" +
			"  varve cost --metrics 10.0.1.7:9644,10.0.2.9:9644",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(f.metrics) > 0 {
				return f.running(cmd)
			}
			return f.workload(cmd)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.json, "json", false, "print JSON")
	fs.StringVar(&f.rate, "rate", "10MB", "bytes a second that producers send (kB, MB, GB)")
	fs.Float64Var(&f.load.FanOut, "fan-out", 1, "how often consumers read each byte")
	fs.Float64Var(&f.load.Cold, "cold", 0.05, "share of reads that come from S3")
	fs.StringVar(&f.retention, "retention", "7d", "how long records are kept (h, d), or forever: the bill at the end of a year")
	fs.Float64Var(&f.load.Compression, "compression", 0.4, "bytes at rest for a byte sent")
	fs.Float64Var(&f.load.Partitions, "partitions", 100, "partitions that are written to")
	fs.Float64Var(&f.load.Commits, "commits", 1, "offset commits a second, of all groups")
	fs.Float64Var(&f.load.Brokers, "brokers", 3, "brokers")
	fs.Float64Var(&f.load.VCPU, "vcpu", 2, "vCPUs of a broker")
	fs.Float64Var(&f.load.MemoryGB, "memory", 8, "GB of memory of a broker")
	fs.Float64Var(&f.load.DiskGB, "disk", 100, "GB of a broker's object cache")
	fs.Float64Var(&f.load.Zones, "zones", 3, "zones that producers and brokers are spread over")
	fs.BoolVar(&f.load.RackReads, "rack-reads", true, "consumers set client.rack, and read in their zone")
	fs.DurationVar(&f.load.WALInterval, "wal-interval", 100*time.Millisecond, "wal.interval.ms of the brokers")
	fs.Float64Var(&f.load.Slots, "slots", 256, "slots of the cluster")
	fs.StringSliceVar(&f.metrics, "metrics", nil, "HTTP addresses of running brokers, host:port")
	return cmd
}

// bill is the command's result.
type bill struct {
	Lines []price.Line `json:"lines"`
	Month float64      `json:"dollars_a_month"`
	PerGB float64      `json:"dollars_a_gb,omitempty"`
}

func (f *costFlags) workload(cmd *cobra.Command) (err error) {
	if f.load.Rate, err = parseBytes(f.rate); err != nil {
		return fmt.Errorf("--rate: %w", err)
	}
	if f.load.Retention, err = parseRetention(f.retention); err != nil {
		return fmt.Errorf("--retention: %w", err)
	}
	lines, err := f.load.Bill()
	if err != nil {
		return err
	}
	b := bill{Lines: lines, Month: price.Sum(lines)}
	if f.load.Rate > 0 {
		b.PerGB = b.Month / (f.load.Rate * price.HoursAMonth * 3600 / 1e9)
	}
	return printerOf(cmd).table(b, "CAUSE\tQUANTITY\tUNIT\t$ A MONTH", func(w io.Writer) {
		b.rows(w)
		if b.PerGB > 0 {
			fmt.Fprintf(w, "a GB produced\t\t\t%.4f\n", b.PerGB)
		}
	})
}

func (b bill) rows(w io.Writer) {
	for _, l := range b.Lines {
		if l.Quantity > 0 {
			fmt.Fprintf(w, "%s\t%.0f\t%s\t%.2f\n", l.Name, l.Quantity, l.Unit, l.Dollars)
		}
	}
	fmt.Fprintf(w, "all\t\t\t%.2f\n", b.Month)
}

// running adds up what brokers have counted, and takes it for the rate of the
// whole month.
func (f *costFlags) running(cmd *cobra.Command) error {
	var b bill
	for _, addr := range f.metrics {
		u, up, err := readUsage(cmd.Context(), addr)
		if err != nil {
			return fmt.Errorf("broker at %s: %w", addr, err)
		}
		scale := price.HoursAMonth / up.Hours()
		b.Lines = append(b.Lines, u.Lines(addr, scale)...)
	}
	b.Month = price.Sum(b.Lines)
	return printerOf(cmd).table(b, "CAUSE\tQUANTITY A MONTH\tUNIT\t$ A MONTH", b.rows)
}

// readUsage returns what a broker has used, and for how long it has run.
func readUsage(ctx context.Context, addr string) (u price.Usage, up time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return u, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return u, 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return u, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return u, 0, fmt.Errorf("/metrics: %s", resp.Status)
	}
	if u, err = price.ReadMetrics(bytes.NewReader(text)); err != nil {
		return u, 0, err
	}
	for l := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(l, "process_start_time_seconds "); ok {
			began, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return u, time.Since(time.UnixMilli(int64(began * 1000))), err
		}
	}
	return u, 0, errors.New("/metrics does not say when the process started")
}

// units of --rate.
var units = []struct {
	suffix string
	bytes  float64
}{{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

// parseBytes reads a number of bytes with or without a unit, and with or
// without "/s".
func parseBytes(s string) (float64, error) {
	number, factor := strings.TrimSuffix(s, "/s"), 1.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is no number of bytes", s)
	}
	return n * factor, nil
}

// parseRetention reads a time in Go's units or days; 0 is for ever.
func parseRetention(s string) (time.Duration, error) {
	if s == "forever" || s == "-1" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || n <= 0 || n > 100_000 {
			return 0, fmt.Errorf("%q is no number of days", s)
		}
		return time.Duration(n * 24 * float64(time.Hour)), nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d <= 0 {
		err = errors.New("not above 0 (forever: without end)")
	}
	return d, err
}
