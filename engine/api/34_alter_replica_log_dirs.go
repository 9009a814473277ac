package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// AlterReplicaLogDirs (34), versions 1 and 2 (KIP-113): there is one
// directory, where every partition lies already.
func (s *Server) alterReplicaLogDirs(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.AlterReplicaLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.AlterReplicaLogDirsResponse)
	topics := s.o.Catalog.Topics()
	for i := range req.Dirs {
		d := &req.Dirs[i]
		for j := range d.Topics {
			out := kmsg.NewAlterReplicaLogDirsResponseTopic()
			out.Topic = d.Topics[j].Topic
			t, missing := lookup(topics, false, out.Topic, kafka.TopicID{})
			for _, p := range d.Topics[j].Partitions {
				row := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
				row.Partition = p
				code := missing
				if code == kafka.None {
					_, code = s.log(ctx, t, p)
				}
				if code == kafka.None && d.Dir != logDir {
					code = kafka.LogDirNotFound
				}
				row.ErrorCode = int16(code)
				out.Partitions = append(out.Partitions, row)
			}
			resp.Topics = append(resp.Topics, out)
		}
	}
	return resp
}
