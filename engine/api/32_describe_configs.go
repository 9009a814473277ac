package api

import (
	"context"
	"net"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/config"
	"github.com/varvelog/varve/internal/kafka/wire"
)

// DescribeConfigs (32), versions 1 to 4: topics and brokers; v1 sources and
// synonyms (KIP-226), v3 types and documentation (KIP-569), v4 flexible.
func (s *Server) describeConfigs(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DescribeConfigsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	var room wire.Room
	for i := range req.Resources {
		res := &req.Resources[i]
		row := kmsg.NewDescribeConfigsResponseResource()
		row.ResourceType, row.ResourceName = res.ResourceType, res.ResourceName
		var err error
		row.Configs, err = s.configRows(req, res, &room)
		row.ErrorCode, row.ErrorMessage = told(err)
		resp.Resources = append(resp.Resources, row)
	}
	return resp
}

func (s *Server) configRows(req *kmsg.DescribeConfigsRequest, res *kmsg.DescribeConfigsRequestResource, room *wire.Room) (rows []kmsg.DescribeConfigsResponseResourceConfig, err error) {
	var entries []config.Entry
	fits := room.Take(elementBytes)
	if fits {
		if entries, err = s.entries(res.ResourceType, res.ResourceName); err != nil {
			return nil, err
		}
	}
	for _, e := range entries {
		if res.ConfigNames == nil || slices.Contains(res.ConfigNames, e.Name) {
			fits = fits && room.Take(elementBytes+len(e.Name)+len(e.Value)+2*elementBytes*len(e.Synonyms))
			rows = append(rows, configRow(req, e))
		}
	}
	if !fits {
		return nil, refuse(kafka.InvalidRequest, "The answer would be too large: ask for fewer resources at once.")
	}
	return rows, nil
}

func (s *Server) entries(kind kmsg.ConfigResourceType, name string) ([]config.Entry, error) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if bad := badTopicName(name); bad != "" {
			return nil, refuse(kafka.InvalidTopicException, "%s", bad)
		}
		t, ok := s.o.Catalog.Topics().ByName(name)
		if !ok {
			return nil, missingTopic(false)
		}
		return config.DescribeTopic(s.o.Config(), t.Configs), nil
	case kmsg.ConfigResourceTypeBroker:
		if err := s.checkBrokerName(name); err != nil {
			return nil, err
		}
		all := config.DescribeBroker(s.o.Config())
		if name == allBrokers { // what was set for all, only
			return slices.DeleteFunc(all, func(e config.Entry) bool { return e.Source != config.DynamicDefaultBroker }), nil
		}
		return append(all, s.identity()...), nil
	}
	return nil, refuse(kafka.InvalidRequest, "Unsupported resource type %d.", kind)
}

// identity returns the settings that say who this broker is, which are given
// by other means than the rest.
func (s *Server) identity() []config.Entry {
	self := s.o.Self
	id, at := strconv.Itoa(int(self.ID)), "PLAINTEXT://"+net.JoinHostPort(self.Host, strconv.Itoa(int(self.Port)))
	entry := func(name, value string, kind config.Type, doc string) config.Entry {
		return config.Entry{
			Name: name, Value: value, Source: config.StaticBroker, ReadOnly: true, Type: kind, Doc: doc,
			Synonyms: []config.Synonym{{Name: name, Value: value, Source: config.StaticBroker}},
		}
	}
	return []config.Entry{
		entry("advertised.listeners", at, config.List, "Where clients reach this broker."),
		entry("broker.id", id, config.Int, "This broker's id."),
		entry("broker.rack", self.Rack, config.String, "This broker's rack or zone."),
		entry("listeners", at, config.List, "Where this broker listens."),
		entry("log.dirs", logDir, config.List, "Where the log is, as DescribeLogDirs names it."),
		entry("node.id", id, config.Int, "This broker's id."),
	}
}

// checkBrokerName takes this broker's id, or nothing for all brokers.
func (s *Server) checkBrokerName(name string) error {
	if name == allBrokers {
		return nil
	}
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return refuse(kafka.InvalidRequest, "Broker id must be an integer, but it is: %s", name)
	}
	if int32(id) != s.o.Self.ID {
		return refuse(kafka.InvalidRequest, "Unexpected broker id, expected %d or empty string, but received %s", s.o.Self.ID, name)
	}
	return nil
}

func configRow(req *kmsg.DescribeConfigsRequest, e config.Entry) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.ReadOnly, c.IsDefault = e.Name, &e.Value, e.ReadOnly, e.Source == config.Default
	c.Source, c.ConfigType = kmsg.ConfigSource(e.Source), kmsg.ConfigType(e.Type)
	if req.IncludeDocumentation {
		c.Documentation = &e.Doc
	}
	if req.IncludeSynonyms {
		for _, y := range e.Synonyms {
			row := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			row.Name, row.Value, row.Source = y.Name, &y.Value, kmsg.ConfigSource(y.Source)
			c.ConfigSynonyms = append(c.ConfigSynonyms, row)
		}
	}
	return c
}
