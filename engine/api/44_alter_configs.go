package api

import (
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
)

// change is one setting's change.
type change struct {
	name  string
	op    kmsg.IncrementalAlterConfigOp
	value *string
}

// AlterConfigs (33), versions 0 to 2: replaces all of a resource's settings.
func (s *Server) alterConfigs(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.AlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	for i := range req.Resources {
		res := &req.Resources[i]
		var changes []change
		for _, c := range res.Configs {
			changes = append(changes, change{c.Name, kmsg.IncrementalAlterConfigOpSet, c.Value})
		}
		row := kmsg.NewAlterConfigsResponseResource()
		row.ResourceType, row.ResourceName = res.ResourceType, res.ResourceName
		a := alteration{kind: res.ResourceType, name: res.ResourceName, changes: changes, replace: true, dry: req.ValidateOnly}
		row.ErrorCode, row.ErrorMessage = told(s.alter(ctx, a))
		resp.Resources = append(resp.Resources, row)
	}
	return resp
}

// IncrementalAlterConfigs (44), versions 0 and 1 (KIP-339): changes settings
// one by one.
func (s *Server) incrementalAlterConfigs(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.IncrementalAlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	for i := range req.Resources {
		res := &req.Resources[i]
		var changes []change
		for _, c := range res.Configs {
			changes = append(changes, change{c.Name, c.Op, c.Value})
		}
		row := kmsg.NewIncrementalAlterConfigsResponseResource()
		row.ResourceType, row.ResourceName = res.ResourceType, res.ResourceName
		a := alteration{kind: res.ResourceType, name: res.ResourceName, changes: changes, dry: req.ValidateOnly}
		row.ErrorCode, row.ErrorMessage = told(s.alter(ctx, a))
		resp.Resources = append(resp.Resources, row)
	}
	return resp
}

// alteration is what one resource is to become.
type alteration struct {
	kind    kmsg.ConfigResourceType
	name    string
	changes []change
	replace bool // all other settings go back to their defaults
	dry     bool
}

func (s *Server) alter(ctx context.Context, a alteration) error {
	ctx, cancel := adminTimeout(ctx, 0)
	defer cancel()
	switch a.kind {
	case kmsg.ConfigResourceTypeTopic:
		t, ok := s.o.Catalog.Topics().ByName(a.name)
		if !ok {
			return missingTopic(false)
		}
		if a.dry {
			_, err := a.apply(t.Configs, s.topicDefault, config.ValidateTopic)
			return err
		}
		err := s.o.Catalog.AlterTopicConfigs(ctx, a.name, func(old map[string]string) (map[string]string, error) {
			return a.apply(old, s.topicDefault, config.ValidateTopic)
		})
		if err != nil {
			return err
		}
		return s.o.Reconcile(ctx)
	case kmsg.ConfigResourceTypeBroker:
		return s.alterBroker(ctx, a)
	}
	return refuse(kafka.InvalidRequest, "Unsupported resource type %d.", a.kind)
}

func (s *Server) alterBroker(ctx context.Context, a alteration) error {
	if a.name != "" {
		if err := s.checkBrokerName(a.name); err != nil {
			return err
		}
	}
	// The settings of one broker are those of all: there is one cluster-wide set.
	valid := func(kv map[string]string) error {
		for k, v := range kv {
			if err := config.ValidateBrokerDynamic(k, v); err != nil {
				return err
			}
		}
		return nil
	}
	if a.dry {
		_, err := a.apply(s.o.Catalog.Topics().BrokerConfigs(""), s.brokerDefault, valid)
		return err
	}
	err := s.o.Catalog.AlterBrokerConfigs(ctx, "", func(old map[string]string) (map[string]string, error) {
		return a.apply(old, s.brokerDefault, valid)
	})
	if err != nil {
		return err
	}
	return s.o.Reconcile(ctx)
}

func (s *Server) topicDefault(name string) string {
	return valueOf(config.DescribeTopic(s.o.Config(), nil), name)
}

func (s *Server) brokerDefault(name string) string {
	return valueOf(config.DescribeBroker(s.o.Config()), name)
}

func valueOf(entries []config.Entry, name string) string {
	for _, e := range entries {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

// apply returns what the old settings become. valid checks those that are set.
func (a alteration) apply(old map[string]string, fallback func(string) string, valid func(map[string]string) error) (map[string]string, error) {
	next := make(map[string]string, len(old)+len(a.changes))
	if !a.replace {
		for k, v := range old {
			next[k] = v
		}
	}
	set := make(map[string]string)
	for _, c := range a.changes {
		if c.op == kmsg.IncrementalAlterConfigOpDelete {
			delete(next, c.name)
			continue
		}
		if c.value == nil {
			return nil, refuse(kafka.InvalidConfig, "Null value not supported for %s", c.name)
		}
		before, ok := next[c.name]
		if !ok {
			before = fallback(c.name)
		}
		switch c.op {
		case kmsg.IncrementalAlterConfigOpSet:
			set[c.name] = *c.value
		case kmsg.IncrementalAlterConfigOpAppend:
			set[c.name] = editList(before, *c.value, true)
		case kmsg.IncrementalAlterConfigOpSubtract:
			set[c.name] = editList(before, *c.value, false)
		default:
			return nil, refuse(kafka.InvalidRequest, "Unknown operation %d", c.op)
		}
		next[c.name] = set[c.name]
	}
	if err := valid(set); err != nil {
		return nil, refuse(kafka.InvalidConfig, "%s", err.Error())
	}
	return next, nil
}

// editList adds values to a comma-separated list, or takes them away.
func editList(list, values string, add bool) string {
	change := make(map[string]bool)
	for v := range strings.SplitSeq(values, ",") {
		change[strings.TrimSpace(v)] = true
	}
	var out []string
	for v := range strings.SplitSeq(list, ",") {
		if v = strings.TrimSpace(v); v != "" && !change[v] {
			out = append(out, v)
		}
	}
	if add {
		for v := range strings.SplitSeq(values, ",") {
			out = append(out, strings.TrimSpace(v))
		}
	}
	return strings.Join(out, ",")
}
