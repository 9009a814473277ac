package api

import "github.com/varvelog/varve/internal/kafka/wire"

// layouts returns the layout of each key's requests in the versions served,
// from Apache Kafka's message definitions. Produce has a decoder of its own.
func layouts() map[int16]wire.Layout {
	l := make(map[int16]wire.Layout)
	for key, notation := range map[int16]string{
		1:  "4@4-14 4 4 4 1 4@7 4@7 {s@4-12 16@13 {4 4@9 8 4@12 8@5 4}} {s@7-12 16@13 [4]}@7 s@11", // Fetch
		2:  "4 1@2 {s {4 4@4 8}} 4@10",                                                             // ListOffsets
		3:  "{16@10 s} 1@4 1@8-10 1@8",                                                             // Metadata
		8:  "s 4 s s@7 8@2-4 {s@2-9 16@10 {4 8 4@6 s}}",                                            // OffsetCommit
		9:  "s@1-7 {s [4]}@1-7 {s s@9 4@9 {s@8-9 16@10 [4]}}@8 1@7",                                // OffsetFetch
		10: "s@0-3 1@1 [s]@4",                                                                      // FindCoordinator
		11: "s 4 4@1 s s@5 s {s b} s@8",                                                            // JoinGroup
		12: "s 4 s s@3",                                                                            // Heartbeat
		13: "s s@0-2 {s s s@5}@3",                                                                  // LeaveGroup
		14: "s 4 s s@3 s@5 s@5 {s b}",                                                              // SyncGroup
		15: "[s] 1@3",                                                                              // DescribeGroups
		16: "[s]@4 [s]@5",                                                                          // ListGroups
		18: "s@3 s@3",                                                                              // ApiVersions
		19: "{s 4 2 {4 [4]} {s s}} 4 1",                                                            // CreateTopics
		20: "{s 16}@6 [s]@1-5 4",                                                                   // DeleteTopics
		21: "{s {4 8}} 4",                                                                          // DeleteRecords
		22: "s 4 8@3 2@3",                                                                          // InitProducerId
		23: "4@3 {s {4 4 4}}",                                                                      // OffsetForLeaderEpoch
		24: "s 8 2 {s [4]}",                                                                        // AddPartitionsToTxn
		25: "s 8 2 s",                                                                              // AddOffsetsToTxn
		26: "s 8 2 1",                                                                              // EndTxn
		27: "{8 2 1 {s [4]} 4}",                                                                    // WriteTxnMarkers
		28: "s s 8 2 4@3 s@3 s@3 {s {4 8 4@2 s}}",                                                  // TxnOffsetCommit
		29: "1 s 1 s s 1 1",                                                                        // DescribeAcls
		30: "{1 s 1 s s 1 1}",                                                                      // CreateAcls
		31: "{1 s 1 s s 1 1}",                                                                      // DeleteAcls
		32: "{1 s [s]} 1 1@3",                                                                      // DescribeConfigs
		33: "{1 s {s s}} 1",                                                                        // AlterConfigs
		34: "{s {s [4]}}",                                                                          // AlterReplicaLogDirs
		35: "{s [4]}",                                                                              // DescribeLogDirs
		37: "{s 4 {[4]}} 4 1",                                                                      // CreatePartitions
		42: "[s]",                                                                                  // DeleteGroups
		43: "1@1 {s [4]} 4",                                                                        // ElectLeaders
		44: "{1 s {s 1 s}} 1",                                                                      // IncrementalAlterConfigs
		45: "4 1@1 {s {4 [4]}}",                                                                    // AlterPartitionReassignments
		46: "4 {s [4]}",                                                                            // ListPartitionReassignments
		47: "s {s {4}}",                                                                            // OffsetDelete
		55: "{s {4}}",                                                                              // DescribeQuorum
		57: "4 {s 2 1} 1@1",                                                                        // UpdateFeatures
		60: "1 1@1 1@2",                                                                            // DescribeCluster
		61: "{s [4]}",                                                                              // DescribeProducers
		65: "[s]",                                                                                  // DescribeTransactions
		66: "[s] [8] 8@1 s@2",                                                                      // ListTransactions
		74: "[1]@1",                                                                                // ListConfigResources
		75: "{s} 4 (s 4)",                                                                          // DescribeTopicPartitions
	} {
		l[key] = wire.ParseLayout(notation)
	}
	return l
}
