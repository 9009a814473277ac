package price

import (
	"errors"
	"math"
	"time"
)

// Workload is what a cluster is to carry, all month long at the same rate.
type Workload struct {
	Rate        float64       // bytes a second that producers send
	FanOut      float64       // how often consumers read each byte
	Cold        float64       // share of those reads that no broker has in RAM or on its disk, 0 to 1
	Retention   time.Duration // 0: for ever, priced at the end of a year
	Compression float64       // bytes at rest for a byte sent, above 0, to 1
	Partitions  float64       // that are written to
	Commits     float64       // offset commits a second, of all groups

	Brokers     float64
	VCPU        float64       // of each
	MemoryGB    float64       // of each
	DiskGB      float64       // of each: the object cache
	Zones       float64       // that producers and brokers are spread over
	RackReads   bool          // consumers read from a broker in their zone (client.rack, KIP-392)
	WALInterval time.Duration // wal.interval.ms
	Slots       float64       // of the cluster
}

// What brokers do by themselves; engine/slot and tiering/wal have these numbers as well.
const (
	walObject         = 4 << 20  // bytes with which a WAL object is sent before its time (wal.max.bytes)
	checkpointObjects = 256      // WAL objects between two checkpoints
	ownSegment        = 16 << 20 // bytes of a partition's tail from which a checkpoint seals it
	getBytes          = 4 << 20  // of a cold read
	beatReads         = 4        // read units a second of a broker: heartbeats of others, change feed
	forEver           = 365 * 24 * time.Hour
	month             = HoursAMonth * 3600 // seconds
	gb                = 1e9
)

// Line is a line of a bill for a month.
type Line struct {
	Name     string  `json:"name"`
	Quantity float64 `json:"quantity"`
	Unit     string  `json:"unit"`
	Dollars  float64 `json:"dollars"`
}

func (w Workload) validate() error {
	switch {
	case w.Rate < 0 || w.FanOut < 0 || w.Commits < 0 || w.Retention < 0:
		return errors.New("workload: below zero")
	case w.Cold < 0 || w.Cold > 1:
		return errors.New("workload: the share of cold reads is from 0 to 1")
	case w.Compression <= 0 || w.Compression > 1:
		return errors.New("workload: compression is the bytes at rest for a byte sent, above 0, to 1")
	case w.Partitions < 1 || w.Brokers < 1 || w.Zones < 1 || w.Slots < 1 || w.WALInterval <= 0:
		return errors.New("workload: there is at least one broker, zone, slot and partition, and an interval of the WAL")
	}
	return nil
}

// Bill returns the lines of a month's bill, by cause.
func (w Workload) Bill() ([]Line, error) {
	if err := w.validate(); err != nil {
		return nil, err
	}
	hours := w.Brokers * HoursAMonth
	sent := w.Rate * month / gb
	retention := w.Retention
	if retention == 0 {
		retention = forEver
	}
	puts := w.walPuts() * month
	checkpoints := puts / checkpointObjects
	segments := w.segments() * month
	across := (w.Zones - 1) / w.Zones // of bytes whose two ends have any zone
	crossReads := w.FanOut * across
	if w.RackReads {
		crossReads = 0
	}
	all := []Line{
		{"brokers: vCPU", hours * w.VCPU, "vCPU-hours", hours * w.VCPU * FargateVCPU},
		{"brokers: memory", hours * w.MemoryGB, "GB-hours", hours * w.MemoryGB * FargateGB},
		{"brokers: disk", hours * w.DiskGB, "GB-hours", hours * max(0, w.DiskGB-FargateDiskFree) * FargateDiskGB},
		{"load balancer", HoursAMonth, "hours", HoursAMonth * LoadBalancer},
		{"S3: records at rest", w.Rate * retention.Seconds() / gb * w.Compression, "GB", w.Rate * retention.Seconds() / gb * w.Compression * S3GBMonth},
		{"S3: PUT, WAL", puts, "requests", puts * S3Put},
		{"S3: PUT, checkpoints and segments", checkpoints + segments, "requests", (checkpoints + segments) * S3Put},
		{"S3: GET, cold reads", w.coldGets() * month, "requests", w.coldGets() * month * S3Get},
		{"DynamoDB: checkpoints", w.checkpointUnits() * checkpoints, "write units", w.checkpointUnits() * checkpoints * DynamoDBWrite},
		{"DynamoDB: segments", segmentUnits * segments, "write units", segmentUnits * segments * DynamoDBWrite},
		{"DynamoDB: offset commits", commitUnits * w.Commits * month, "write units", commitUnits * w.Commits * month * DynamoDBWrite},
		{"DynamoDB: heartbeats", w.Brokers * month, "write units", w.Brokers * month * DynamoDBWrite},
		{"DynamoDB: heartbeats and change feed", beatReads * w.Brokers * month, "read units", beatReads * w.Brokers * month * DynamoDBRead},
		{"between zones: producers", sent * across, "GB", sent * across * 2 * CrossZoneGB},
		{"between zones: consumers", sent * crossReads, "GB", sent * crossReads * 2 * CrossZoneGB},
	}
	return all, nil
}

// Write units of a commit: each item twice, as in every transaction.
const (
	segmentUnits = 2 * 3 // slot and topic checked, the segment created
	commitUnits  = 2 * 2 // the group's state checked, a run of offsets written
)

// walPuts is how many WAL objects there are a second. Each broker is written to
// all the time.
func (w Workload) walPuts() float64 {
	if w.Rate == 0 {
		return 0
	}
	return w.Brokers * max(1/w.WALInterval.Seconds(), w.Rate/w.Brokers/walObject)
}

// segments is how many are sealed a second: at a checkpoint each tail that is
// large enough by then.
func (w Workload) segments() float64 {
	if w.Rate == 0 {
		return 0
	}
	every := checkpointObjects * w.Brokers / w.walPuts() // seconds between two checkpoints of a broker
	each := max(ownSegment, w.Rate/w.Partitions*every)
	return w.Rate / each
}

// checkpointUnits are the write units of a broker's checkpoint: the items of the
// slots that had records.
func (w Workload) checkpointUnits() float64 {
	return 2 * math.Ceil(min(w.Slots, w.Partitions)/w.Brokers)
}

func (w Workload) coldGets() float64 {
	return w.Rate * w.FanOut * w.Cold * w.Compression / getBytes
}

// Sum returns what a bill comes to, in dollars.
func Sum(bill []Line) (dollars float64) {
	for _, l := range bill {
		dollars += l.Dollars
	}
	return dollars
}
