package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/internal/kafka/record"
)

func text(s *string) string {
	if s == nil {
		return ""
	}
	return " " + *s
}

// TestCreateTopics compares answers with Apache Kafka's.
func TestCreateTopics(t *testing.T) {
	c := newRig(t, nil).dial()
	c.create("there", 1)
	c.create("col_lide", 1)
	long := strings.Repeat("x", 250)
	const none = " parts=-1 rf=-1 cfgs=0"
	tests := []struct {
		name   string
		parts  int32
		rf     int16
		config []string
		want   string
	}{
		{"a", 2, 1, nil, "NONE parts=2 rf=1 cfgs=33"},
		{"b", -1, -1, nil, "NONE parts=4 rf=1 cfgs=33"},
		{"c", 1, 3, nil, "NONE parts=1 rf=3 cfgs=33"},
		{"__consumer_offsets", 1, 1, nil, "NONE parts=1 rf=1 cfgs=33"},
		{"there", 1, 1, nil, "TOPIC_ALREADY_EXISTS" + none + " Topic 'there' already exists."},
		{"z", 0, 1, nil, "INVALID_PARTITIONS" + none + " Number of partitions was set to an invalid non-positive value."},
		{"z", 1, 0, nil, "INVALID_REPLICATION_FACTOR" + none + " Replication factor must be larger than 0, or -1 to use the default value."},
		{"z", 1, 9, nil, "INVALID_REPLICATION_FACTOR" + none + " Unable to replicate the partition 9 time(s): The target replication factor of 9 cannot be reached because only 1 broker(s) are registered or some brokers have all their log directories cordoned."},
		{".", 1, 1, nil, "INVALID_TOPIC_EXCEPTION" + none + " Topic name is invalid: '.' is not allowed"},
		{"", 1, 1, nil, "INVALID_TOPIC_EXCEPTION" + none + " Topic name is invalid: the empty string is not allowed"},
		{"a b", 1, 1, nil, "INVALID_TOPIC_EXCEPTION" + none + " Topic name is invalid: 'a b' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"},
		{long, 1, 1, nil, "INVALID_TOPIC_EXCEPTION" + none + " Topic name is invalid: the length of '" + long + "' is longer than the max allowed length 249"},
		{"col.lide", 1, 1, nil, "INVALID_TOPIC_EXCEPTION" + none + " Topic 'col.lide' collides with existing topic: col_lide"},
		{"z", 1, 1, []string{"nope", "1"}, "INVALID_CONFIG" + none + " Unknown topic config name: nope"},
		{"z", 1, 1, []string{"retention.ms", "abc"}, "INVALID_CONFIG" + none + " Invalid value abc for configuration retention.ms: Not a number of type LONG"},
	}
	for _, tt := range tests {
		for _, dry := range []bool{true, false} {
			req := kmsg.NewPtrCreateTopicsRequest()
			req.ValidateOnly, req.TimeoutMillis = dry, 10_000
			topic := kmsg.NewCreateTopicsRequestTopic()
			topic.Topic, topic.NumPartitions, topic.ReplicationFactor = tt.name, tt.parts, tt.rf
			for i := 0; i < len(tt.config); i += 2 {
				cfg := kmsg.NewCreateTopicsRequestTopicConfig()
				cfg.Name, cfg.Value = tt.config[i], &tt.config[i+1]
				topic.Configs = append(topic.Configs, cfg)
			}
			req.Topics = append(req.Topics, topic)
			row := ask[*kmsg.CreateTopicsResponse](c, req, 7).Topics[0]
			got := fmt.Sprintf("%v parts=%d rf=%d cfgs=%d%s", kafka.ErrorCode(row.ErrorCode), row.NumPartitions, row.ReplicationFactor, len(row.Configs), text(row.ErrorMessage))
			if got != tt.want {
				t.Errorf("%q, validate only %v:\n got %s\nwant %s", tt.name, dry, got, tt.want)
			}
			if made := row.TopicID != [16]byte{}; made != (row.ErrorCode == 0 && !dry) {
				t.Errorf("%q: topic id %x", tt.name, row.TopicID)
			}
		}
	}
}

func TestCreateTopicsTwiceInOneRequest(t *testing.T) {
	c := newRig(t, nil).dial()
	req := kmsg.NewPtrCreateTopicsRequest()
	for _, name := range []string{"a", "b", "a"} {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 1, 1
		req.Topics = append(req.Topics, topic)
	}
	resp := ask[*kmsg.CreateTopicsResponse](c, req, 7)
	if len(resp.Topics) != 2 || kafka.ErrorCode(resp.Topics[0].ErrorCode) != kafka.InvalidRequest || resp.Topics[1].ErrorCode != 0 {
		t.Errorf("%+v", resp.Topics)
	}
}

// TestTopicLife creates a topic on demand, grows and deletes it.
func TestTopicLife(t *testing.T) {
	c := newRig(t, nil).dial()
	meta := kmsg.NewPtrMetadataRequest()
	meta.AllowAutoTopicCreation = true
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = kmsg.StringPtr("t")
	meta.Topics = append(meta.Topics, mt)
	state := func() string {
		t.Helper()
		row := ask[*kmsg.MetadataResponse](c, meta, 12).Topics[0]
		for _, p := range row.Partitions {
			if p.Leader != 1 || p.LeaderEpoch < 0 || !slices.Equal(p.ISR, []int32{1}) {
				t.Errorf("%+v", p)
			}
		}
		return fmt.Sprintf("%v %d", kafka.ErrorCode(row.ErrorCode), len(row.Partitions))
	}
	check := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	meta.AllowAutoTopicCreation = false
	check(state(), "UNKNOWN_TOPIC_OR_PARTITION 0")
	check(state(), "UNKNOWN_TOPIC_OR_PARTITION 0")
	meta.AllowAutoTopicCreation = true
	check(state(), "UNKNOWN_TOPIC_OR_PARTITION 0")
	check(state(), "NONE 4")

	grow := kmsg.NewPtrCreatePartitionsRequest()
	gt := kmsg.NewCreatePartitionsRequestTopic()
	gt.Topic = "t"
	grow.Topics = append(grow.Topics, gt)
	for _, step := range []struct {
		n    int32
		want string
	}{
		{4, "INVALID_PARTITIONS Topic already has 4 partition(s)."},
		{3, "INVALID_PARTITIONS The topic t currently has 4 partition(s); 3 would not be an increase."},
		{6, "NONE"},
	} {
		grow.Topics[0].Count = step.n
		row := ask[*kmsg.CreatePartitionsResponse](c, grow, 3).Topics[0]
		check(kafka.ErrorCode(row.ErrorCode).Error()+text(row.ErrorMessage), step.want)
	}
	check(state(), "NONE 6")
	if p := c.produce(produceReq("t", kafka.TopicID{}, 5, -1, batch(t, "v")), 9); p.ErrorCode != 0 {
		t.Errorf("produce to a new partition: %d", p.ErrorCode)
	}

	drop := kmsg.NewPtrDeleteTopicsRequest()
	drop.TopicNames = []string{"t", "nope"}
	var got []string
	for _, row := range ask[*kmsg.DeleteTopicsResponse](c, drop, 5).Topics {
		got = append(got, kafka.ErrorCode(row.ErrorCode).Error()+text(row.ErrorMessage))
	}
	if diff := cmp.Diff([]string{"NONE", "UNKNOWN_TOPIC_OR_PARTITION This server does not host this topic-partition."}, got); diff != "" {
		t.Error(diff)
	}
	if p := c.produce(produceReq("t", kafka.TopicID{}, 0, -1, batch(t, "v")), 9); kafka.ErrorCode(p.ErrorCode) != kafka.UnknownTopicOrPartition {
		t.Errorf("produce to a deleted topic: %d", p.ErrorCode)
	}
}

func TestMetadataRequests(t *testing.T) {
	c := newRig(t, map[string]string{"auto.create.topics.enable": "false"}).dial()
	c.create("a", 1)
	id := c.create("b", 1)
	ids := func(v int16, topics []kmsg.MetadataRequestTopic) string {
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = topics
		var got []string
		for _, row := range ask[*kmsg.MetadataResponse](c, req, v).Topics {
			got = append(got, fmt.Sprint(kafka.ErrorCode(row.ErrorCode).Error(), text(row.Topic)))
		}
		return strings.Join(got, ", ")
	}
	byID, unknown, bad, missing := kmsg.NewMetadataRequestTopic(), kmsg.NewMetadataRequestTopic(), kmsg.NewMetadataRequestTopic(), kmsg.NewMetadataRequestTopic()
	byID.TopicID, unknown.TopicID = id, [16]byte{1, 2}
	bad.Topic, missing.Topic = kmsg.StringPtr("a b"), kmsg.StringPtr("missing")
	tests := []struct {
		version int16
		topics  []kmsg.MetadataRequestTopic
		want    string
	}{
		{0, []kmsg.MetadataRequestTopic{}, "NONE a, NONE b"},
		{1, nil, "NONE a, NONE b"},
		{1, []kmsg.MetadataRequestTopic{}, ""},
		{13, nil, "NONE a, NONE b"},
		{13, []kmsg.MetadataRequestTopic{}, ""},
		{12, []kmsg.MetadataRequestTopic{byID, unknown}, "NONE b, UNKNOWN_TOPIC_ID"},
		{12, []kmsg.MetadataRequestTopic{bad, missing}, "INVALID_TOPIC_EXCEPTION a b, UNKNOWN_TOPIC_OR_PARTITION missing"},
	}
	for _, tt := range tests {
		if got := ids(tt.version, tt.topics); got != tt.want {
			t.Errorf("version %d: %s, want %s", tt.version, got, tt.want)
		}
	}
}

// TestAlterConfigs changes settings of a topic and of the broker and reads them back.
func TestAlterConfigs(t *testing.T) {
	c := newRig(t, nil).dial()
	c.create("t", 1, "retention.ms", "1000")
	const topic, broker = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker
	set, del, add, sub := kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract
	alter := func(kind kmsg.ConfigResourceType, resource, name string, op kmsg.IncrementalAlterConfigOp, value *string) string {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		res := kmsg.NewIncrementalAlterConfigsRequestResource()
		res.ResourceType, res.ResourceName = kind, resource
		cfg := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		cfg.Name, cfg.Op, cfg.Value = name, op, value
		res.Configs = append(res.Configs, cfg)
		req.Resources = append(req.Resources, res)
		row := ask[*kmsg.IncrementalAlterConfigsResponse](c, req, 1).Resources[0]
		return kafka.ErrorCode(row.ErrorCode).Error() + text(row.ErrorMessage)
	}
	value := func(kind kmsg.ConfigResourceType, resource, name string) string {
		req := kmsg.NewPtrDescribeConfigsRequest()
		res := kmsg.NewDescribeConfigsRequestResource()
		res.ResourceType, res.ResourceName, res.ConfigNames = kind, resource, []string{name}
		req.Resources = append(req.Resources, res)
		row := ask[*kmsg.DescribeConfigsResponse](c, req, 4).Resources[0]
		if row.ErrorCode != 0 {
			return kafka.ErrorCode(row.ErrorCode).Error()
		}
		if len(row.Configs) == 0 {
			return "-"
		}
		return fmt.Sprintf("%s %v", *row.Configs[0].Value, row.Configs[0].Source)
	}
	tests := []struct {
		kind           kmsg.ConfigResourceType
		resource, name string
		op             kmsg.IncrementalAlterConfigOp
		value          string // "-": null
		answer, after  string
	}{
		{topic, "t", "retention.ms", set, "2000", "NONE", "2000 DYNAMIC_TOPIC_CONFIG"},
		{topic, "t", "retention.ms", del, "-", "NONE", "604800000 DEFAULT_CONFIG"},
		{topic, "t", "cleanup.policy", add, "compact", "NONE", "delete,compact DYNAMIC_TOPIC_CONFIG"},
		{topic, "t", "cleanup.policy", add, "compact", "NONE", "delete,compact DYNAMIC_TOPIC_CONFIG"},
		{topic, "t", "cleanup.policy", sub, "delete", "NONE", "compact DYNAMIC_TOPIC_CONFIG"},
		{topic, "t", "retention.ms", add, "1", "INVALID_CONFIG Can't APPEND to key retention.ms because its type is not LIST.", "604800000 DEFAULT_CONFIG"},
		{topic, "t", "retention.ms", set, "abc", "INVALID_CONFIG Invalid value abc for configuration retention.ms: Not a number of type LONG", "604800000 DEFAULT_CONFIG"},
		{topic, "t", "nope", set, "1", "INVALID_CONFIG Unknown topic config name: nope", "-"},
		{topic, "t", "retention.ms", set, "-", "INVALID_REQUEST Null value not supported for : retention.ms", "604800000 DEFAULT_CONFIG"},
		{topic, "nope", "retention.ms", set, "1", "UNKNOWN_TOPIC_OR_PARTITION The topic 'nope' does not exist.", "UNKNOWN_TOPIC_OR_PARTITION"},
		{broker, "7", "num.partitions", set, "1", "INVALID_REQUEST Unexpected broker id, expected 1 or empty string, but received 7", "INVALID_REQUEST"},
	}
	for _, tt := range tests {
		v := &tt.value
		if tt.value == "-" {
			v = nil
		}
		if got := alter(tt.kind, tt.resource, tt.name, tt.op, v); got != tt.answer {
			t.Errorf("%v %s of %s: %s, want %s", tt.op, tt.name, tt.resource, got, tt.answer)
		}
		if got := value(tt.kind, tt.resource, tt.name); got != tt.after {
			t.Errorf("after %v %s of %s: %s, want %s", tt.op, tt.name, tt.resource, got, tt.after)
		}
	}
	if got := alter(broker, "", "log.retention.ms", set, kmsg.StringPtr("5")); got != "NONE" {
		t.Errorf("broker setting: %s", got)
	}

	replace := kmsg.NewPtrAlterConfigsRequest()
	res := kmsg.NewAlterConfigsRequestResource()
	res.ResourceType, res.ResourceName = topic, "t"
	cfg := kmsg.NewAlterConfigsRequestResourceConfig()
	cfg.Name, cfg.Value = "retention.bytes", kmsg.StringPtr("7")
	res.Configs = append(res.Configs, cfg)
	replace.Resources = append(replace.Resources, res)
	if row := ask[*kmsg.AlterConfigsResponse](c, replace, 2).Resources[0]; row.ErrorCode != 0 {
		t.Errorf("replace: %d", row.ErrorCode)
	}
	if a, b := value(topic, "t", "retention.bytes"), value(topic, "t", "cleanup.policy"); a != "7 DYNAMIC_TOPIC_CONFIG" || b != "delete DEFAULT_CONFIG" {
		t.Errorf("after the replacement: %s, %s", a, b)
	}
}

// TestDescribeTopicPartitions pages through all topics.
func TestDescribeTopicPartitions(t *testing.T) {
	c := newRig(t, nil).dial()
	c.create("a", 3)
	c.create("b", 2)
	c.create("c", 1)
	var got []string
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.ResponsePartitionLimit = 2
	for page := range 9 {
		resp := ask[*kmsg.DescribeTopicPartitionsResponse](c, req, 0)
		for _, row := range resp.Topics {
			for _, p := range row.Partitions {
				got = append(got, fmt.Sprint(page, *row.Topic, p.Partition))
			}
		}
		if resp.NextCursor == nil {
			break
		}
		cursor := kmsg.NewDescribeTopicPartitionsRequestCursor()
		cursor.Topic, cursor.Partition = resp.NextCursor.Topic, resp.NextCursor.Partition
		req.Cursor = &cursor
	}
	if diff := cmp.Diff([]string{"0a0", "0a1", "1a2", "1b0", "2b1", "2c0"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestDeleteRecords raises the start of a log.
func TestDeleteRecords(t *testing.T) {
	c := newRig(t, nil).dial()
	id := c.create("t", 1)
	c.create("compacted", 1, "cleanup.policy", "compact")
	for range 5 {
		c.produce(produceReq("t", id, 0, -1, batch(t, "v")), 9)
	}
	for _, tt := range []struct {
		topic string
		off   int64
		want  string
	}{
		{"t", 2, "NONE 2"}, {"t", 1, "NONE 2"}, {"t", 99, "OFFSET_OUT_OF_RANGE -1"}, {"t", -2, "OFFSET_OUT_OF_RANGE -1"},
		{"t", -1, "NONE 5"}, {"nope", 0, "UNKNOWN_TOPIC_OR_PARTITION -1"}, {"compacted", 0, "POLICY_VIOLATION -1"},
	} {
		req := kmsg.NewPtrDeleteRecordsRequest()
		topic := kmsg.NewDeleteRecordsRequestTopic()
		topic.Topic = tt.topic
		p := kmsg.NewDeleteRecordsRequestTopicPartition()
		p.Offset = tt.off
		topic.Partitions = append(topic.Partitions, p)
		req.Topics = append(req.Topics, topic)
		row := ask[*kmsg.DeleteRecordsResponse](c, req, 2).Topics[0].Partitions[0]
		if got := fmt.Sprint(kafka.ErrorCode(row.ErrorCode), " ", row.LowWatermark); got != tt.want {
			t.Errorf("%s before %d: %s, want %s", tt.topic, tt.off, got, tt.want)
		}
	}
	if p := ask[*kmsg.FetchResponse](c, fetchReq("t", id, 0, 0), 12).Topics[0].Partitions[0]; kafka.ErrorCode(p.ErrorCode) != kafka.OffsetOutOfRange {
		t.Errorf("fetch below the start: %d", p.ErrorCode)
	}
}

// TestOthers asks the small keys once each.
func TestOthers(t *testing.T) {
	c := newRig(t, nil).dial()
	id := c.create("t", 1)
	c.produce(produceReq("t", id, 0, -1, build(t, func(*record.Builder) {})), 9)

	producers := kmsg.NewPtrDescribeProducersRequest()
	pt := kmsg.NewDescribeProducersRequestTopic()
	pt.Topic, pt.Partitions = "t", []int32{0, 1}
	producers.Topics = append(producers.Topics, pt)
	rows := ask[*kmsg.DescribeProducersResponse](c, producers, 0).Topics[0].Partitions
	if len(rows[0].ActiveProducers) != 1 || rows[0].ActiveProducers[0].ProducerID != 7 || rows[0].ActiveProducers[0].LastSequence != 0 {
		t.Errorf("producers: %+v", rows[0])
	}
	if kafka.ErrorCode(rows[1].ErrorCode) != kafka.UnknownTopicOrPartition {
		t.Errorf("producers of no partition: %+v", rows[1])
	}

	dirs := ask[*kmsg.DescribeLogDirsResponse](c, kmsg.NewPtrDescribeLogDirsRequest(), 4).Dirs
	if len(dirs) != 1 || dirs[0].Dir != logDir || len(dirs[0].Topics) != 1 || dirs[0].Topics[0].Partitions[0].Size == 0 {
		t.Errorf("log dirs: %+v", dirs)
	}

	cluster := kmsg.NewPtrDescribeClusterRequest()
	cluster.EndpointType = 2
	if resp := ask[*kmsg.DescribeClusterResponse](c, cluster, 1); kafka.ErrorCode(resp.ErrorCode) != kafka.MismatchedEndpointType {
		t.Errorf("controllers: %+v", resp)
	}

	elect := kmsg.NewPtrElectLeadersRequest()
	et := kmsg.NewElectLeadersRequestTopic()
	et.Topic, et.Partitions = "t", []int32{0}
	elect.Topics = append(elect.Topics, et)
	if row := ask[*kmsg.ElectLeadersResponse](c, elect, 2).Topics[0].Partitions[0]; kafka.ErrorCode(row.ErrorCode) != kafka.ElectionNotNeeded {
		t.Errorf("elect: %+v", row)
	}

	move := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	at := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	at.Topic = "t"
	for _, replicas := range [][]int32{{1}, {2}, nil} {
		p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		p.Replicas = replicas
		at.Partitions = append(at.Partitions, p)
	}
	move.Topics = append(move.Topics, at)
	var moved []kafka.ErrorCode
	for _, row := range ask[*kmsg.AlterPartitionAssignmentsResponse](c, move, 1).Topics[0].Partitions {
		moved = append(moved, kafka.ErrorCode(row.ErrorCode))
	}
	if diff := cmp.Diff([]kafka.ErrorCode{kafka.None, kafka.InvalidReplicaAssignment, kafka.NoReassignmentInProgress}, moved); diff != "" {
		t.Errorf("reassignments: %s", diff)
	}

	resources := kmsg.NewPtrListConfigResourcesRequest()
	if rows := ask[*kmsg.ListConfigResourcesResponse](c, resources, 1).ConfigResources; len(rows) != 2 || rows[0].Name != "t" || rows[1].Name != "1" {
		t.Errorf("config resources: %+v", rows)
	}
	resources.ResourceTypes = []int8{3}
	if resp := ask[*kmsg.ListConfigResourcesResponse](c, resources, 1); kafka.ErrorCode(resp.ErrorCode) != kafka.UnsupportedVersion {
		t.Errorf("config resources of kind 3: %+v", resp)
	}

	quorum := kmsg.NewPtrDescribeQuorumRequest()
	qt := kmsg.NewDescribeQuorumRequestTopic()
	qt.Topic, qt.Partitions = metadataTopic, []kmsg.DescribeQuorumRequestTopicPartition{kmsg.NewDescribeQuorumRequestTopicPartition()}
	quorum.Topics = append(quorum.Topics, qt)
	if row := ask[*kmsg.DescribeQuorumResponse](c, quorum, 2).Topics[0].Partitions[0]; row.ErrorCode != 0 || row.LeaderID != 1 || len(row.CurrentVoters) != 1 {
		t.Errorf("quorum: %+v", row)
	}

	group := kmsg.NewPtrFindCoordinatorRequest()
	group.CoordinatorKey = "g"
	if resp := ask[*kmsg.FindCoordinatorResponse](c, group, 2); resp.ErrorCode != 0 || resp.NodeID != 1 || resp.Port != 9092 {
		t.Errorf("coordinator of a group: %+v", resp)
	}
	meta := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = kmsg.StringPtr(offsetsTopic)
	meta.Topics = append(meta.Topics, mt)
	if row := ask[*kmsg.MetadataResponse](c, meta, 12).Topics[0]; row.ErrorCode != 0 || !row.IsInternal {
		t.Errorf("%s: %+v", offsetsTopic, row)
	}

	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKeys, find.CoordinatorType = []string{"a", "b"}, 5
	for _, row := range ask[*kmsg.FindCoordinatorResponse](c, find, 4).Coordinators {
		if kafka.ErrorCode(row.ErrorCode) != kafka.InvalidRequest {
			t.Errorf("coordinator of type 5: %+v", row)
		}
	}
}
