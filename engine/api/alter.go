package api

import (
	"context"
	"maps"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// allBrokers is the catalogue's name for the settings of all brokers.
const allBrokers = ""

// resource names what settings belong to.
type resource struct {
	kind kmsg.ConfigResourceType
	name string
}

// change is one setting's change.
type change struct {
	name  string
	op    kmsg.IncrementalAlterConfigOp
	value *string
}

// alteration is what one resource's settings are to become.
type alteration struct {
	resource
	changes []change
	replace bool // all other settings go back to their defaults
	dry     bool // only tell whether it could be done
}

// settings are a kind of resource's settings, as an alteration sees them.
type settings struct {
	entries func() []config.Entry // with no setting of the resource's own
	valid   func(map[string]string) error
}

// alter does one alteration of a request in which resources occur so often.
func (s *Server) alter(ctx context.Context, a alteration, seen map[resource]int) error {
	if seen[a.resource] > 1 {
		return refuse(kafka.InvalidRequest, "Each resource must appear at most once.")
	}
	if err := a.check(); err != nil {
		return err
	}
	switch a.kind {
	case kmsg.ConfigResourceTypeTopic:
		return s.alterTopic(ctx, a)
	case kmsg.ConfigResourceTypeBroker:
		return s.alterBroker(ctx, a)
	}
	return refuse(kafka.InvalidRequest, "Unknown resource type %d", a.kind)
}

func (a *alteration) check() error {
	seen := make(map[string]bool, len(a.changes))
	var nulls []string
	for _, c := range a.changes {
		if seen[c.name] {
			return refuse(kafka.InvalidRequest, "Error due to duplicate config keys")
		}
		seen[c.name] = true
		if c.value == nil && c.op != kmsg.IncrementalAlterConfigOpDelete {
			nulls = append(nulls, c.name)
		}
	}
	if nulls != nil {
		return refuse(kafka.InvalidRequest, "Null value not supported for : %s", strings.Join(nulls, ", "))
	}
	return nil
}

func (s *Server) alterTopic(ctx context.Context, a alteration) error {
	if a.name == "" {
		return refuse(kafka.InvalidRequest, "Default topic resources are not allowed.")
	}
	t, ok := s.o.Catalog.Topics().ByName(a.name)
	if !ok {
		return refuse(kafka.UnknownTopicOrPartition, "The topic '%s' does not exist.", a.name)
	}
	set := settings{
		entries: func() []config.Entry { return config.DescribeTopic(s.o.Config(), nil) },
		valid:   config.ValidateTopic,
	}
	if a.dry {
		_, err := a.apply(t.Configs, set)
		return err
	}
	err := s.o.Catalog.AlterTopicConfigs(ctx, a.name, func(old map[string]string) (map[string]string, error) { return a.apply(old, set) })
	if err != nil {
		return err
	}
	return s.o.Reconcile(ctx)
}

// alterBroker alters the cluster-wide settings: those of one broker are those of all.
func (s *Server) alterBroker(ctx context.Context, a alteration) error {
	if err := s.checkBrokerName(a.name); err != nil {
		return err
	}
	set := settings{
		entries: func() []config.Entry { return config.DescribeBroker(s.o.Config()) },
		valid: func(kv map[string]string) error {
			for k, v := range kv {
				if err := config.ValidateBrokerDynamic(k, v); err != nil {
					return err
				}
			}
			return nil
		},
	}
	if a.dry {
		_, err := a.apply(s.o.Catalog.Topics().BrokerConfigs(allBrokers), set)
		return err
	}
	err := s.o.Catalog.AlterBrokerConfigs(ctx, allBrokers, func(old map[string]string) (map[string]string, error) { return a.apply(old, set) })
	if err != nil {
		return err
	}
	return s.o.Reconcile(ctx)
}

// apply returns what the old settings become.
func (a *alteration) apply(old map[string]string, s settings) (map[string]string, error) {
	next := maps.Clone(old)
	if a.replace || next == nil {
		next = make(map[string]string, len(a.changes))
	}
	for _, c := range a.changes {
		if c.op == kmsg.IncrementalAlterConfigOpDelete {
			delete(next, c.name)
			continue
		}
		value, err := c.apply(next, s)
		if err != nil {
			return nil, err
		}
		next[c.name] = value
	}
	if err := s.valid(next); err != nil {
		return nil, refuse(kafka.InvalidConfig, "%s", err.Error())
	}
	return next, nil
}

// apply returns the setting's new value.
func (c *change) apply(before map[string]string, s settings) (string, error) {
	switch c.op {
	case kmsg.IncrementalAlterConfigOpSet:
		return *c.value, nil
	case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
	default:
		return "", refuse(kafka.InvalidRequest, "Unknown operation type %d", c.op)
	}
	for _, e := range s.entries() {
		if e.Name != c.name {
			continue
		}
		if e.Type != config.List {
			return "", refuse(kafka.InvalidConfig, "Can't %s to key %s because its type is not LIST.", c.op, c.name)
		}
		value, ok := before[c.name]
		if !ok {
			value = e.Value
		}
		return editList(value, *c.value, c.op == kmsg.IncrementalAlterConfigOpAppend), nil
	}
	return *c.value, nil // not known, as valid will say
}

// editList adds values to a comma-separated list, or takes them away.
func editList(list, values string, add bool) string {
	change := make(map[string]bool)
	for v := range strings.SplitSeq(values, ",") {
		change[strings.TrimSpace(v)] = true
	}
	var out []string
	for v := range strings.SplitSeq(list, ",") {
		if v = strings.TrimSpace(v); v != "" && (add || !change[v]) {
			out = append(out, v)
			delete(change, v)
		}
	}
	if add {
		for v := range strings.SplitSeq(values, ",") {
			if v = strings.TrimSpace(v); change[v] {
				out = append(out, v)
				delete(change, v)
			}
		}
	}
	return strings.Join(out, ",")
}
