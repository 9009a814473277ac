package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	keyProduce     = 0
	keyFetch       = 1
	keyAPIVersions = 18
)

// api is one row of the table: a key, the versions that are served, and the
// handler.
type api struct {
	key      int16
	name     string
	min, max int16
	// handle answers a request; nil closes the connection. Produce and
	// Fetch, whose answers are encoded by hand, have handlers of another form.
	handle func(*Server, context.Context, *request) kmsg.Response
}

// table returns all that this server speaks.
func table() []api {
	return []api{
		{0, "Produce", 3, 13, nil},
		{1, "Fetch", 4, 18, nil},
		{2, "ListOffsets", 1, 11, (*Server).listOffsets},
		{3, "Metadata", 0, 13, (*Server).metadata},
		{8, "OffsetCommit", 2, 10, (*Server).offsetCommit},
		{9, "OffsetFetch", 1, 10, (*Server).offsetFetch},
		{10, "FindCoordinator", 0, 6, (*Server).findCoordinator},
		{11, "JoinGroup", 0, 9, (*Server).joinGroup},
		{12, "Heartbeat", 0, 4, (*Server).heartbeat},
		{13, "LeaveGroup", 0, 5, (*Server).leaveGroup},
		{14, "SyncGroup", 0, 5, (*Server).syncGroup},
		{15, "DescribeGroups", 0, 6, (*Server).describeGroups},
		{16, "ListGroups", 0, 5, (*Server).listGroups},
		{18, "ApiVersions", 0, 4, (*Server).apiVersions},
		{19, "CreateTopics", 2, 7, (*Server).createTopics},
		{20, "DeleteTopics", 1, 6, (*Server).deleteTopics},
		{21, "DeleteRecords", 0, 2, (*Server).deleteRecords},
		{22, "InitProducerId", 0, 5, (*Server).initProducerID},
		{23, "OffsetForLeaderEpoch", 2, 4, (*Server).offsetForLeaderEpoch},
		{32, "DescribeConfigs", 1, 4, (*Server).describeConfigs},
		{33, "AlterConfigs", 0, 2, (*Server).alterConfigs},
		{35, "DescribeLogDirs", 1, 4, (*Server).describeLogDirs},
		{37, "CreatePartitions", 0, 3, (*Server).createPartitions},
		{42, "DeleteGroups", 0, 2, (*Server).deleteGroups},
		{43, "ElectLeaders", 0, 2, (*Server).electLeaders},
		{44, "IncrementalAlterConfigs", 0, 1, (*Server).incrementalAlterConfigs},
		{46, "ListPartitionReassignments", 0, 0, (*Server).listPartitionReassignments},
		{47, "OffsetDelete", 0, 0, (*Server).offsetDelete},
		{60, "DescribeCluster", 0, 2, (*Server).describeCluster},
		{61, "DescribeProducers", 0, 0, (*Server).describeProducers},
		{75, "DescribeTopicPartitions", 0, 0, (*Server).describeTopicPartitions},
	}
}

// apiOf returns the row of a key, or nil.
func (s *Server) apiOf(key int16) *api { return s.byKey[key] }
