package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/partition"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// logDir is the one directory that is reported: the object store.
const logDir = "/objects"

// DescribeLogDirs (35), versions 1 to 5: one synthetic directory; sizes are of
// the records as they are stored, sealed and not yet sealed.
func (s *Server) describeLogDirs(ctx context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DescribeLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir, dir.TotalBytes, dir.UsableBytes = logDir, -1, -1
	topics := s.o.Catalog.Topics()
	told := make(map[kafka.TopicPartition]bool)
	add := func(t *catalog.Topic, only []int32) {
		out := kmsg.NewDescribeLogDirsResponseDirTopic()
		out.Topic = t.Name
		if only == nil {
			only = make([]int32, t.Partitions)
			for p := range only {
				only[p] = int32(p)
			}
		}
		for _, p := range only {
			tp := kafka.TopicPartition{Topic: t.ID, Partition: p}
			l, code := s.log(ctx, t, p)
			if code != kafka.None || told[tp] {
				continue
			}
			told[tp] = true
			row := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			size, err := s.logSize(ctx, l)
			if err != nil {
				dir.ErrorCode = int16(codeOf(err))
			}
			row.Partition, row.Size = p, size
			out.Partitions = append(out.Partitions, row)
		}
		dir.Topics = append(dir.Topics, out)
	}
	if req.Topics == nil {
		for _, t := range topics.All() {
			add(t, nil)
		}
	}
	for i := range req.Topics {
		if t, ok := topics.ByName(req.Topics[i].Topic); ok {
			add(t, req.Topics[i].Partitions)
		}
	}
	resp.Dirs = append(resp.Dirs, dir)
	return resp
}

// logSize returns the bytes that a log takes.
func (s *Server) logSize(ctx context.Context, l *partition.Log) (int64, error) {
	size, _ := l.Size()
	segs, err := s.o.Catalog.Segments(ctx, l.TP(), l.Offsets().LogStart, 0)
	for i := range segs {
		size += segs[i].Size
	}
	return size, err
}
