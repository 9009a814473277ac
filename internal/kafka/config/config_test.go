package config

import "testing"

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

func TestMessages(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"nope", "1", "Unknown topic config name: nope"},
		{"retention.ms", "abc", "Invalid value abc for configuration retention.ms: Not a number of type LONG"},
		{"segment.bytes", "1", "Invalid value 1 for configuration segment.bytes: Value must be at least 14"},
		{"preallocate", "perhaps", "Invalid value perhaps for configuration preallocate: Expected value to be either true or false"},
	} {
		if err := ValidateTopic(map[string]string{c.name: c.value}); err == nil || err.Error() != c.want {
			t.Errorf("%s=%s: %v, want %s", c.name, c.value, err, c.want)
		}
	}
	if _, err := ParseBroker(map[string]string{"no.such": "1"}); err == nil {
		t.Error("an unknown broker setting was taken")
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
