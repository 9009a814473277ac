package config

import (
	"testing"

	"github.com/varvelog/varve/internal/kafka/record"
)

func TestTableIsSound(t *testing.T) {
	if n := len(TopicDefs()); n != 33 {
		t.Errorf("%d topic settings, Apache Kafka 4.3 has 33", n)
	}
	for _, defs := range [][]Def{topicDefs, brokerDefs} {
		seen := make(map[string]bool)
		for _, d := range defs {
			if seen[d.Name] {
				t.Errorf("%s stands twice", d.Name)
			}
			seen[d.Name] = true
			if err := d.check(d.Default); err != nil {
				t.Errorf("default: %v", err)
			}
			if d.Doc == "" {
				t.Errorf("%s has no text", d.Name)
			}
		}
	}
	for _, d := range topicDefs {
		if d.Broker == "" {
			continue
		}
		b, ok := find(brokerDefs, d.Broker)
		if !ok || b.Default != d.Default || b.Type != d.Type {
			t.Errorf("%s and its broker setting %s differ: %v %+v", d.Name, d.Broker, ok, b)
		}
	}
}

// TestMessages has the answers of Apache Kafka 4.3.1's LogConfig.validate.
func TestMessages(t *testing.T) {
	const throttled = ": leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],..."
	for _, c := range []struct{ name, value, want string }{
		{"nope", "1", "Unknown topic config name: nope"},
		{"message.format.version", "3.0", "Unknown topic config name: message.format.version"},
		{"retention.ms", "abc", "Invalid value abc for configuration retention.ms: Not a number of type LONG"},
		{"retention.ms", "", "Invalid value  for configuration retention.ms: Not a number of type LONG"},
		{"retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"},
		{"retention.ms", " 5 ", ""},
		{"retention.ms", "+5", ""},
		{"retention.bytes", "-5", ""},
		{"segment.bytes", "1048575", "Invalid value 1048575 for configuration segment.bytes: Value must be at least 1048576"},
		{"segment.bytes", "1048576", ""},
		{"segment.bytes", "99999999999", "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT"},
		{"preallocate", "perhaps", "Invalid value perhaps for configuration preallocate: Expected value to be either true or false"},
		{"preallocate", " TRUE ", ""},
		{"cleanup.policy", "", ""},
		{"cleanup.policy", "compact, delete", ""},
		{"cleanup.policy", "compact,compact", ""},
		{"cleanup.policy", "delete,bogus", "Invalid value bogus for configuration cleanup.policy: String must be one of: compact, delete"},
		{"cleanup.policy", "Compact", "Invalid value Compact for configuration cleanup.policy: String must be one of: compact, delete"},
		{"cleanup.policy", "delete,", "Configuration 'cleanup.policy' values must not be empty."},
		{"compression.type", "zip", "Invalid value zip for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer"},
		{"compression.type", " zstd ", ""},
		{"compression.gzip.level", "0", "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1"},
		{"compression.gzip.level", "10", "Invalid value 10 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1"},
		{"compression.gzip.level", "x", "Invalid value x for configuration compression.gzip.level: Not a number of type INT"},
		{"compression.gzip.level", "-1", ""},
		{"compression.lz4.level", "18", "Invalid value 18 for configuration compression.lz4.level: Value must be no more than 17"},
		{"min.cleanable.dirty.ratio", " 0.3 ", ""},
		{"min.cleanable.dirty.ratio", "1.5", "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1"},
		{"min.cleanable.dirty.ratio", "x", "Invalid value x for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE"},
		{"leader.replication.throttled.replicas", "*", ""},
		{"leader.replication.throttled.replicas", "", ""},
		{"leader.replication.throttled.replicas", "0:1,1:2", ""},
		{"leader.replication.throttled.replicas", "none", "Invalid value [none] for configuration leader.replication.throttled.replicas" + throttled},
		{"max.compaction.lag.ms", "0", "Invalid value 0 for configuration max.compaction.lag.ms: Value must be at least 1"},
		{"remote.storage.enable", "true", ""},
	} {
		err := ValidateTopic(map[string]string{c.name: c.value})
		if got := message(err); got != c.want {
			t.Errorf("%s=%s: %q, want %q", c.name, c.value, got, c.want)
		}
	}
	err := ValidateTopic(map[string]string{"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "5"})
	if got, want := message(err), "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)"; got != want {
		t.Errorf("lags: %q, want %q", got, want)
	}
	if _, err := ParseBroker(map[string]string{"no.such": "1"}); message(err) != "Unknown broker config name: no.such" {
		t.Errorf("an unknown broker setting: %v", err)
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestLooseSpelling: what is taken with spaces and in capitals, means the same.
func TestLooseSpelling(t *testing.T) {
	b, err := ParseBroker(map[string]string{"auto.create.topics.enable": " True ", "delete.topic.enable": "FALSE", "num.partitions": " 7 "})
	if err != nil {
		t.Fatal(err)
	}
	if !b.AutoCreateTopics || b.DeleteTopicEnable || b.NumPartitions != 7 {
		t.Errorf("parsed %+v", b)
	}
	own := map[string]string{"compression.type": " zstd ", "message.timestamp.type": " LogAppendTime", "cleanup.policy": "compact , delete", "retention.bytes": "-7"}
	if err := ValidateTopic(own); err != nil {
		t.Fatal(err)
	}
	got := EffectiveTopic(b, own)
	if got.Compression.Codec != record.Zstd || got.Compression.Producer || !got.LogAppendTime || !got.Compact || !got.Delete || got.RetentionBytes != -1 {
		t.Errorf("effective %+v", got)
	}
}

func TestBrokerDynamic(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"log.retention.ms", "5", ""},
		{"log.retention.ms", "x", "Invalid value x for configuration log.retention.ms: Not a number of type LONG"},
		{"wal.inflight", "5", "Cannot update these configs dynamically: [wal.inflight]"},
		{"no.such", "5", "Unknown broker config name: no.such"},
	} {
		if got := message(ValidateBrokerDynamic(c.name, c.value)); got != c.want {
			t.Errorf("%s=%s: %q, want %q", c.name, c.value, got, c.want)
		}
	}
}

func TestPrecedence(t *testing.T) {
	b, err := ParseBroker(map[string]string{"log.retention.hours": "2", "num.partitions": "4"})
	if err != nil {
		t.Fatal(err)
	}
	if got := EffectiveTopic(b, nil).RetentionMs; got != 7_200_000 {
		t.Errorf("from hours: %d", got)
	}
	b2 := b.With(map[string]string{"log.retention.ms": "5"})
	if got := EffectiveTopic(b2, nil).RetentionMs; got != 5 {
		t.Errorf("from the dynamic default: %d", got)
	}
	if got := EffectiveTopic(b2, map[string]string{"retention.ms": "-1"}).RetentionMs; got != -1 {
		t.Errorf("from the topic: %d", got)
	}
	for _, e := range DescribeTopic(b2, map[string]string{"retention.ms": "-1"}) {
		if e.Name == "retention.ms" && (e.Source != DynamicTopic || len(e.Synonyms) != 4) {
			t.Errorf("described as %+v", e)
		}
	}
	if b.NumPartitions != 4 || !b.AutoCreateTopics {
		t.Errorf("parsed %+v", b)
	}
}
