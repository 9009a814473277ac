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
	// waits tells that the handler waits for other requests, so that it has
	// to end when the server drains or the peer goes.
	waits bool
	// handle answers a request; nil closes the connection. Produce and
	// Fetch, whose answers are encoded by hand, have handlers of another form.
	handle func(*Server, context.Context, *request) kmsg.Response
}

// advertised returns the lowest version that ApiVersions tells.
func (a *api) advertised() int16 {
	if a.key == keyProduce {
		return 0 // see Produce
	}
	return a.min
}

// table returns all that this server speaks.
func table() []api {
	return []api{
		{0, "Produce", 3, 13, true, nil},
		{1, "Fetch", 4, 18, true, nil},
		{2, "ListOffsets", 1, 11, false, (*Server).listOffsets},
		{3, "Metadata", 0, 13, false, (*Server).metadata},
		{8, "OffsetCommit", 2, 10, false, (*Server).offsetCommit},
		{9, "OffsetFetch", 1, 10, false, (*Server).offsetFetch},
		{10, "FindCoordinator", 0, 6, false, (*Server).findCoordinator},
		{11, "JoinGroup", 0, 9, true, (*Server).joinGroup},
		{12, "Heartbeat", 0, 4, false, (*Server).heartbeat},
		{13, "LeaveGroup", 0, 5, false, (*Server).leaveGroup},
		{14, "SyncGroup", 0, 5, true, (*Server).syncGroup},
		{15, "DescribeGroups", 0, 6, false, (*Server).describeGroups},
		{16, "ListGroups", 0, 5, false, (*Server).listGroups},
		{18, "ApiVersions", 0, maxAPIVersions, false, (*Server).apiVersions},
		{19, "CreateTopics", 2, 7, false, (*Server).createTopics},
		{20, "DeleteTopics", 1, 6, false, (*Server).deleteTopics},
		{21, "DeleteRecords", 0, 2, false, (*Server).deleteRecords},
		{22, "InitProducerId", 0, 5, false, (*Server).initProducerID},
		{23, "OffsetForLeaderEpoch", 2, 4, false, (*Server).offsetForLeaderEpoch},
		{24, "AddPartitionsToTxn", 0, 3, false, (*Server).addPartitionsToTxn},
		{25, "AddOffsetsToTxn", 0, 4, false, (*Server).addOffsetsToTxn},
		{26, "EndTxn", 0, 5, false, (*Server).endTxn},
		{27, "WriteTxnMarkers", 1, 1, false, (*Server).writeTxnMarkers},
		{28, "TxnOffsetCommit", 0, 5, false, (*Server).txnOffsetCommit},
		{29, "DescribeAcls", 1, 3, false, (*Server).describeACLs},
		{30, "CreateAcls", 1, 3, false, (*Server).createACLs},
		{31, "DeleteAcls", 1, 3, false, (*Server).deleteACLs},
		{32, "DescribeConfigs", 1, 4, false, (*Server).describeConfigs},
		{33, "AlterConfigs", 0, 2, false, (*Server).alterConfigs},
		{34, "AlterReplicaLogDirs", 1, 2, false, (*Server).alterReplicaLogDirs},
		{35, "DescribeLogDirs", 1, 5, false, (*Server).describeLogDirs},
		{37, "CreatePartitions", 0, 3, false, (*Server).createPartitions},
		{42, "DeleteGroups", 0, 2, false, (*Server).deleteGroups},
		{43, "ElectLeaders", 0, 2, false, (*Server).electLeaders},
		{44, "IncrementalAlterConfigs", 0, 1, false, (*Server).incrementalAlterConfigs},
		{45, "AlterPartitionReassignments", 0, 1, false, (*Server).alterPartitionReassignments},
		{46, "ListPartitionReassignments", 0, 0, false, (*Server).listPartitionReassignments},
		{47, "OffsetDelete", 0, 0, false, (*Server).offsetDelete},
		{55, "DescribeQuorum", 0, 2, false, (*Server).describeQuorum},
		{57, "UpdateFeatures", 0, 2, false, (*Server).updateFeatures},
		{60, "DescribeCluster", 0, 2, false, (*Server).describeCluster},
		{61, "DescribeProducers", 0, 0, false, (*Server).describeProducers},
		{65, "DescribeTransactions", 0, 0, false, (*Server).describeTransactions},
		{66, "ListTransactions", 0, 2, false, (*Server).listTransactions},
		{74, "ListConfigResources", 0, 1, false, (*Server).listConfigResources},
		{75, "DescribeTopicPartitions", 0, 0, false, (*Server).describeTopicPartitions},
	}
}
