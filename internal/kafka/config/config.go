// Package config holds the settings of brokers and topics under Kafka's names,
// with Kafka's defaults, checks and messages, and Varve's own beside them.
//
// One literal table (table.go) says what there is. A topic's effective
// settings are its own, else the cluster's dynamic ones, else the broker's static
// ones, else the default, as in Kafka.
package config

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/varvelog/varve/internal/kafka/record"
)

// Type is a setting's type, as DescribeConfigs numbers it (KIP-569).
type Type int8

// The types in use.
const (
	Bool   Type = 1
	String Type = 2
	Int    Type = 3
	Long   Type = 5
	Double Type = 6
	List   Type = 7
)

// Source says where a value comes from, as DescribeConfigs numbers it (KIP-226).
type Source int8

// The sources.
const (
	DynamicTopic         Source = 1
	DynamicBroker        Source = 2
	DynamicDefaultBroker Source = 3
	StaticBroker         Source = 4
	Default              Source = 5
)

// Def describes a setting.
type Def struct {
	Name    string
	Type    Type
	Default string
	Doc     string
	// Broker is, for a topic setting, the broker setting that its default is
	// taken from ("": none).
	Broker string
	// Older are broker settings in coarser units, in falling precedence, with
	// the factor that makes them this one's unit.
	Older []Older
	// Dynamic tells whether a broker setting can be changed at run time.
	Dynamic bool

	min, max float64                 // of numbers, where max > min
	oneOf    []string                // of strings and of a list's items
	also     func(Def, string) error // a check of its own, of the trimmed value
}

// Older is a setting in a coarser unit.
type Older struct {
	Name   string
	Factor int64
}

// Error is a refused setting, with the message that Kafka has for it.
type Error struct{ Message string }

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Values are settings by name, as text.
type Values map[string]string

// Broker is a broker's configuration: what was set, and the values that the
// code asks for, parsed. Do not change it; With makes another.
type Broker struct {
	Static  Values // given at start
	Dynamic Values // cluster-wide defaults, set at run time (broker "")

	NumPartitions            int32
	DefaultReplicationFactor int16
	AutoCreateTopics         bool
	DeleteTopicEnable        bool
	MessageMaxBytes          int
	SocketRequestMaxBytes    int32
	MaxConnections           int
	ConnectionsMaxIdle       time.Duration
	FetchSessionSlots        int
	FetchMaxBytes            int
	ProducerIDExpiration     time.Duration
	RetentionCheckInterval   time.Duration
	SweepInterval            time.Duration
	CleanerBackoff           time.Duration
	MergeInterval            time.Duration
	MergeLeast               int
	CleanerBufferBytes       int64
	RequestTimeout           time.Duration

	GroupMinSessionTimeout     time.Duration
	GroupMaxSessionTimeout     time.Duration
	GroupInitialRebalanceDelay time.Duration
	GroupMaxSize               int
	OffsetsRetention           time.Duration
	OffsetsRetentionCheck      time.Duration
	OffsetMetadataMaxBytes     int
	OffsetsCommitInterval      time.Duration

	TxnMaxTimeout             time.Duration
	TxnAbortInterval          time.Duration
	TransactionalIDExpiration time.Duration

	HeartbeatInterval time.Duration
	SessionTimeout    time.Duration
	LogDormant        time.Duration

	WALInterval          time.Duration
	WALMaxBytes          int
	WALInFlight          int
	WALHedge             bool
	MetadataHedge        bool
	WALPendingBytes      int64
	WALBacklogMax        int64
	WALCheckpointObjects int64
	WALCheckpointBytes   int64
	CacheRAMBytes        int64
	CacheDiskBytes       int64
	SealLevel            int
	ColdWorkers          int
	ColdRAMBytes         int64
}

// Topic is a topic's effective configuration, parsed. It is a value.
type Topic struct {
	Compact, Delete      bool  // cleanup.policy
	RetentionMs          int64 // -1: for ever
	RetentionBytes       int64 // -1: no limit
	SegmentBytes         int64
	SegmentMs            int64
	MaxMessageBytes      int
	LogAppendTime        bool
	TimestampBeforeMaxMs int64
	TimestampAfterMaxMs  int64
	Compression          record.Compression
	DeleteRetentionMs    int64
	MinCompactionLagMs   int64
	MaxCompactionLagMs   int64
	MinDirtyRatio        float64 // min.cleanable.dirty.ratio
	FileDeleteDelay      time.Duration
}

// ParseBroker checks settings given by name and returns the configuration.
// Errors are *Error.
func ParseBroker(kv map[string]string) (*Broker, error) {
	for _, name := range sorted(kv) {
		d, ok := find(brokerDefs, name)
		if !ok {
			return nil, &Error{"Unknown broker config name: " + name}
		}
		if err := d.check(kv[name]); err != nil {
			return nil, err
		}
	}
	return parseBroker(kv, nil), nil
}

// With returns the configuration with other dynamic settings.
func (b *Broker) With(dynamic map[string]string) *Broker { return parseBroker(b.Static, dynamic) }

// ValidateBrokerDynamic checks a change of a setting at run time.
func ValidateBrokerDynamic(name, value string) error {
	d, ok := find(brokerDefs, name)
	if !ok {
		return &Error{"Unknown broker config name: " + name}
	}
	if !d.Dynamic {
		return &Error{"Cannot update these configs dynamically: [" + name + "]"}
	}
	return d.check(value)
}

// ValidateTopic checks a topic's settings. Errors are *Error, with Kafka's
// messages.
func ValidateTopic(kv map[string]string) error {
	for _, name := range sorted(kv) {
		d, ok := find(topicDefs, name)
		if !ok {
			return &Error{"Unknown topic config name: " + name}
		}
		if err := d.check(kv[name]); err != nil {
			return err
		}
	}
	return checkLags(kv)
}

// get returns a broker setting's value and where it comes from.
func (b *Broker) get(name string) (string, Source) {
	d, ok := find(brokerDefs, name)
	if !ok {
		return "", Default
	}
	if v, ok := b.Dynamic[name]; ok {
		return v, DynamicDefaultBroker
	}
	if v, ok := b.Static[name]; ok {
		return v, StaticBroker
	}
	for _, o := range d.Older {
		if v, ok := b.Static[o.Name]; ok {
			return scale(v, o.Factor), StaticBroker
		}
	}
	return d.Default, Default
}

// topic returns a topic setting's value and where it comes from.
func (b *Broker) topic(d Def, overrides map[string]string) (string, Source) {
	if v, ok := overrides[d.Name]; ok {
		return v, DynamicTopic
	}
	if d.Broker != "" {
		if v, src := b.get(d.Broker); src != Default {
			return v, src
		}
	}
	return d.Default, Default
}

// EffectiveTopic returns the configuration of a topic with its own settings,
// which ValidateTopic has checked.
func EffectiveTopic(b *Broker, overrides map[string]string) Topic {
	v := reader(func(name string) string {
		d, _ := find(topicDefs, name)
		s, _ := b.topic(d, overrides)
		return s
	})
	policy := v("cleanup.policy")
	return Topic{
		Compact:              slices.Contains(list(policy), "compact"),
		Delete:               slices.Contains(list(policy), "delete"),
		RetentionMs:          v.int("retention.ms"),
		RetentionBytes:       max(v.int("retention.bytes"), -1),
		SegmentBytes:         v.int("segment.bytes"),
		SegmentMs:            v.int("segment.ms"),
		MaxMessageBytes:      int(v.int("max.message.bytes")),
		LogAppendTime:        v.text("message.timestamp.type") == "LogAppendTime",
		TimestampBeforeMaxMs: v.int("message.timestamp.before.max.ms"),
		TimestampAfterMaxMs:  v.int("message.timestamp.after.max.ms"),
		Compression:          compressionOf(v),
		DeleteRetentionMs:    v.int("delete.retention.ms"),
		MinCompactionLagMs:   v.int("min.compaction.lag.ms"),
		MaxCompactionLagMs:   v.int("max.compaction.lag.ms"),
		MinDirtyRatio:        v.float("min.cleanable.dirty.ratio"),
		FileDeleteDelay:      v.ms("file.delete.delay.ms"),
	}
}

func compressionOf(v reader) record.Compression {
	c := record.Compression{Level: record.DefaultLevel}
	switch v.text("compression.type") {
	case "producer":
		c.Producer = true
	case "gzip":
		c.Codec, c.Level = record.Gzip, int(v.int("compression.gzip.level"))
	case "snappy":
		c.Codec = record.Snappy
	case "lz4":
		c.Codec, c.Level = record.LZ4, int(v.int("compression.lz4.level"))
	case "zstd":
		c.Codec, c.Level = record.Zstd, int(v.int("compression.zstd.level"))
	}
	return c
}

func parseBroker(static, dynamic map[string]string) *Broker {
	b := &Broker{Static: static, Dynamic: dynamic}
	v := reader(func(name string) string { s, _ := b.get(name); return s })
	b.NumPartitions = int32(v.int("num.partitions"))
	b.DefaultReplicationFactor = int16(v.int("default.replication.factor"))
	b.AutoCreateTopics = v.bool("auto.create.topics.enable")
	b.DeleteTopicEnable = v.bool("delete.topic.enable")
	b.MessageMaxBytes = int(v.int("message.max.bytes"))
	b.SocketRequestMaxBytes = int32(v.int("socket.request.max.bytes"))
	b.MaxConnections = int(v.int("max.connections"))
	b.ConnectionsMaxIdle = v.ms("connections.max.idle.ms")
	b.FetchSessionSlots = int(v.int("max.incremental.fetch.session.cache.slots"))
	b.FetchMaxBytes = int(v.int("fetch.max.bytes"))
	b.ProducerIDExpiration = v.ms("producer.id.expiration.ms")
	b.RetentionCheckInterval = v.ms("log.retention.check.interval.ms")
	b.SweepInterval = v.ms("sweep.interval.ms")
	b.CleanerBackoff = v.ms("log.cleaner.backoff.ms")
	b.MergeInterval = v.ms("segment.merge.interval.ms")
	b.MergeLeast = int(v.int("segment.merge.min.count"))
	b.CleanerBufferBytes = v.int("log.cleaner.dedupe.buffer.size")
	b.RequestTimeout = v.ms("request.timeout.ms")
	b.GroupMinSessionTimeout = v.ms("group.min.session.timeout.ms")
	b.GroupMaxSessionTimeout = v.ms("group.max.session.timeout.ms")
	b.GroupInitialRebalanceDelay = v.ms("group.initial.rebalance.delay.ms")
	b.GroupMaxSize = int(v.int("group.max.size"))
	b.OffsetsRetention = time.Duration(v.int("offsets.retention.minutes")) * time.Minute
	b.OffsetsRetentionCheck = v.ms("offsets.retention.check.interval.ms")
	b.OffsetMetadataMaxBytes = int(v.int("offset.metadata.max.bytes"))
	b.OffsetsCommitInterval = v.ms("offsets.commit.interval.ms")
	b.TxnMaxTimeout = v.ms("transaction.max.timeout.ms")
	b.TxnAbortInterval = v.ms("transaction.abort.timed.out.transaction.cleanup.interval.ms")
	b.TransactionalIDExpiration = v.ms("transactional.id.expiration.ms")
	b.HeartbeatInterval = v.ms("broker.heartbeat.interval.ms")
	b.SessionTimeout = v.ms("broker.session.timeout.ms")
	b.LogDormant = v.ms("log.dormant.ms")
	b.WALInterval = v.ms("wal.interval.ms")
	b.WALMaxBytes = int(v.int("wal.max.bytes"))
	b.WALInFlight = int(v.int("wal.inflight"))
	b.WALHedge = v.bool("wal.hedge")
	b.MetadataHedge = v.bool("metadata.hedge")
	b.WALPendingBytes = v.int("wal.pending.bytes")
	b.WALBacklogMax = v.int("wal.backlog.max.bytes")
	b.WALCheckpointObjects = v.int("wal.checkpoint.objects")
	b.WALCheckpointBytes = v.int("wal.checkpoint.bytes")
	b.CacheRAMBytes = v.int("cache.ram.bytes")
	b.CacheDiskBytes = v.int("cache.disk.bytes")
	b.SealLevel = int(v.int("seal.zstd.level"))
	b.ColdWorkers = int(v.int("cold.workers"))
	b.ColdRAMBytes = v.int("cold.ram.bytes")
	return b
}

// reader reads checked values.
type reader func(name string) string

func (r reader) int(name string) int64 { return mustInt(r(name)) }

func (r reader) float(name string) float64 {
	f, err := strconv.ParseFloat(r.text(name), 64)
	if err != nil {
		panic(err) // settings were checked when they were made
	}
	return f
}

func (r reader) text(name string) string { return strings.TrimSpace(r(name)) }

func (r reader) bool(name string) bool { return strings.EqualFold(r.text(name), "true") }

func (r reader) ms(name string) time.Duration {
	ms := r.int(name)
	if ms < 0 || ms > int64(1<<63-1)/int64(time.Millisecond) {
		return 1<<63 - 1
	}
	return time.Duration(ms) * time.Millisecond
}

func list(s string) []string {
	var all []string
	for p := range strings.SplitSeq(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			all = append(all, p)
		}
	}
	return all
}

func sorted(kv map[string]string) []string {
	names := make([]string, 0, len(kv))
	for n := range kv {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func find(defs []Def, name string) (Def, bool) {
	for _, d := range defs {
		if d.Name == name {
			return d, true
		}
	}
	return Def{}, false
}

// BrokerDefs returns all broker settings.
func BrokerDefs() []Def { return slices.Clone(brokerDefs) }

// TopicDefs returns all topic settings.
func TopicDefs() []Def { return slices.Clone(topicDefs) }

// String returns the type's name in Kafka's messages.
func (t Type) String() string {
	return map[Type]string{Bool: "BOOLEAN", String: "STRING", Int: "INT", Long: "LONG", Double: "DOUBLE", List: "LIST"}[t]
}
