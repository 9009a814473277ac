package config

// Entry is a setting as DescribeConfigs shows it.
type Entry struct {
	Name     string
	Value    string
	Source   Source
	ReadOnly bool
	Type     Type
	Doc      string
	Synonyms []Synonym // in falling precedence; the first is the value in force
}

// Synonym is one of the places that a value can come from.
type Synonym struct {
	Name, Value string
	Source      Source
}

// DescribeTopic returns all settings of a topic, effective.
func DescribeTopic(b *Broker, overrides map[string]string) []Entry {
	entries := make([]Entry, 0, len(topicDefs))
	for _, d := range topicDefs {
		value, src := b.topic(d, overrides)
		e := Entry{Name: d.Name, Value: value, Source: src, Type: d.Type, Doc: d.Doc}
		if v, ok := overrides[d.Name]; ok {
			e.Synonyms = append(e.Synonyms, Synonym{d.Name, v, DynamicTopic})
		}
		if d.Broker != "" {
			e.Synonyms = append(e.Synonyms, b.synonyms(d.Broker)...)
		}
		entries = append(entries, e)
	}
	return entries
}

// DescribeBroker returns all settings of a broker.
func DescribeBroker(b *Broker) []Entry {
	entries := make([]Entry, 0, len(brokerDefs))
	for _, d := range brokerDefs {
		value, src := b.get(d.Name)
		entries = append(entries, Entry{
			Name: d.Name, Value: value, Source: src, ReadOnly: !d.Dynamic,
			Type: d.Type, Doc: d.Doc, Synonyms: b.synonyms(d.Name),
		})
	}
	return entries
}

func (b *Broker) synonyms(name string) []Synonym {
	d, ok := find(brokerDefs, name)
	if !ok {
		return nil
	}
	var all []Synonym
	if v, ok := b.Dynamic[name]; ok {
		all = append(all, Synonym{name, v, DynamicDefaultBroker})
	}
	if v, ok := b.Static[name]; ok {
		all = append(all, Synonym{name, v, StaticBroker})
	}
	for _, o := range d.Older {
		if v, ok := b.Static[o.Name]; ok {
			all = append(all, Synonym{o.Name, v, StaticBroker})
		}
	}
	return append(all, Synonym{name, d.Default, Default})
}
