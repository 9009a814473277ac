package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// Config is the size and the names of one deployment. Each field is a context
// value, `-c name=value`, or comes from the stack size that `-c size=` names.
type Config struct {
	Name        string  // of the stack and of the cluster, in tags, alarms and the dashboard
	Size        string  // "standard" or "dev"
	Prefix      string  // of all object keys in the bucket; "": none
	Cidr        string  // of the VPC
	Zones       int     // availability zones; a broker's rack is its zone
	Brokers     int     // brokers at least; 0: neither VPC nor brokers, only storage and functions
	MaxBrokers  int     // brokers at most
	CPU         int     // of a broker, 1024 a vCPU; Fargate's combinations with MemoryMiB
	MemoryMiB   int     // of a broker
	DiskGiB     int     // of a broker's cache, 21 to 200 (Fargate's ephemeral storage)
	Arch        string  // of brokers and functions: "arm64" or "amd64"
	Every       int     // minutes between two runs of retention, and of compaction
	SweepEvery  int     // minutes between two runs of the sweep
	Schedules   bool    // the functions run by them
	LogDays     float64 // that logs are kept
	Reserve     bool    // reserves concurrency for the functions; takes it from the account's limit
	Disposable  bool    // bucket and table go with the stack
	AlarmEmail  string  // is told of alarms; "": nobody
	Permissions string  // ARN of a permissions boundary of all roles; "": none

	// Settings are the brokers' static settings, by Kafka's names. The functions
	// have them too: retention must know the brokers' defaults.
	Settings map[string]string
}

// sizes are the stack sizes.
var sizes = map[string]Config{
	"standard": {
		Zones: 3, Brokers: 3, MaxBrokers: 9, CPU: 2048, MemoryMiB: 8192, DiskGiB: 100, LogDays: 30, Reserve: true,
	},
	"dev": {
		Zones: 1, Brokers: 1, MaxBrokers: 1, CPU: 512, MemoryMiB: 1024, DiskGiB: 21, LogDays: 7, Disposable: true,
	},
}

// configOf reads the context values of an app.
func configOf(app constructs.Construct) (Config, error) {
	v := values{node: app.Node()}
	size := v.text("size", "standard")
	c, ok := sizes[size]
	if !ok {
		return Config{}, fmt.Errorf("context size=%q: standard or dev", size)
	}
	c = Config{
		Name: v.text("name", "varve"), Size: size, Prefix: v.text("prefix", ""), Cidr: v.text("cidr", "10.84.0.0/16"),
		Zones: v.number("zones", c.Zones), Brokers: v.number("brokers", c.Brokers), MaxBrokers: v.number("maxBrokers", c.MaxBrokers),
		CPU: v.number("cpu", c.CPU), MemoryMiB: v.number("memory", c.MemoryMiB), DiskGiB: v.number("disk", c.DiskGiB),
		Arch: v.text("arch", "arm64"), Every: v.number("every", 5), SweepEvery: v.number("sweepEvery", 6*60), Schedules: v.flag("schedules", true),
		LogDays: float64(v.number("logDays", int(c.LogDays))), Reserve: v.flag("reserve", c.Reserve), Disposable: v.flag("disposable", c.Disposable),
		AlarmEmail: v.text("alarmEmail", ""), Permissions: v.text("permissionsBoundary", ""), Settings: v.settings("settings"),
	}
	c.MaxBrokers = max(c.MaxBrokers, c.Brokers)
	return c, errors.Join(append(v.errs, c.validate())...)
}

func (c Config) validate() error {
	var errs []error
	within := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("context %s=%d: %d to %d", name, v, lo, hi))
		}
	}
	within("zones", c.Zones, 1, 6)
	within("brokers", c.Brokers, 0, 200)
	within("maxBrokers", c.MaxBrokers, c.Brokers, 200)
	within("disk", c.DiskGiB, 21, 200)
	within("every", c.Every, 1, 60)
	within("sweepEvery", c.SweepEvery, 1, 24*60)
	if c.Arch != "arm64" && c.Arch != "amd64" {
		errs = append(errs, fmt.Errorf("context arch=%q: arm64 or amd64", c.Arch))
	}
	return errors.Join(errs...)
}

// maxHealthyPercent lets a deployment start one broker more than there are, so
// that it drains one at a time.
func (c Config) maxHealthyPercent() float64 {
	return 100 + math.Ceil(100/float64(max(1, c.Brokers)))
}

// values reads context values, which come as text from the command line and
// as JSON from cdk.json.
type values struct {
	node constructs.Node
	errs []error
}

func (v *values) get(name string) (string, bool) {
	x := v.node.TryGetContext(jsii.String(name))
	if x == nil {
		return "", false
	}
	return fmt.Sprint(x), true
}

func (v *values) text(name, def string) string {
	if s, ok := v.get(name); ok {
		return s
	}
	return def
}

// settings reads "a=1,b=2" of the command line, or an object of cdk.json.
func (v *values) settings(name string) map[string]string {
	all := make(map[string]string)
	switch x := v.node.TryGetContext(jsii.String(name)).(type) {
	case nil:
	case map[string]any:
		for k, value := range x {
			all[k] = fmt.Sprint(value)
		}
	default:
		for pair := range strings.SplitSeq(fmt.Sprint(x), ",") {
			k, value, ok := strings.Cut(pair, "=")
			if !ok {
				v.errs = append(v.errs, fmt.Errorf("context %s: %q is not name=value", name, pair))
			}
			all[k] = value
		}
	}
	return all
}

// settingsText writes settings as JSON.
func settingsText(settings map[string]string) string {
	b, err := json.Marshal(settings)
	if err != nil {
		panic(err) // strings
	}
	return string(b)
}

func (v *values) number(name string, def int) int {
	s, ok := v.get(name)
	if !ok {
		return def
	}
	var n int
	if _, err := fmt.Sscanf(s, "%d", &n); err != nil || fmt.Sprint(n) != s {
		v.errs = append(v.errs, fmt.Errorf("context %s=%q: a whole number", name, s))
	}
	return n
}

func (v *values) flag(name string, def bool) bool {
	switch s, ok := v.get(name); {
	case !ok:
		return def
	case s == "true":
		return true
	case s == "false":
		return false
	default:
		v.errs = append(v.errs, fmt.Errorf("context %s=%q: true or false", name, s))
		return def
	}
}
