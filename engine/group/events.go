package group

import (
	"time"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// Token names a request that waits for its answer; 0 is none.
type Token int64

// Event is what happens to a group.
type Event interface{ event() }

// Join is a JoinGroup request.
type Join struct {
	Token                Token
	MemberID             string
	InstanceID           *string
	ClientID, ClientHost string
	Session, Rebalance   time.Duration
	ProtocolType         string
	Protocols            []Protocol
	NewID                string // random; what a new member's id ends in
	RequireID            bool   // version 4 and later: a dynamic member joins with an id (KIP-394)
	SkipAssignment       bool   // version 9 and later: a static leader may come back without assigning (KIP-814)
}

// Protocol is one that a member offers, with its opaque metadata.
type Protocol = catalog.GroupProtocol

// Sync is a SyncGroup request.
type Sync struct {
	Token                  Token
	MemberID               string
	InstanceID             *string
	Generation             int32
	ProtocolType, Protocol *string // nil: not said
	Assignments            map[string][]byte
}

// Heartbeat is a Heartbeat request.
type Heartbeat struct {
	Token      Token
	MemberID   string
	InstanceID *string
	Generation int32
}

// Leave is a LeaveGroup request.
type Leave struct {
	Token   Token
	Members []Leaver
}

// Leaver is a member that leaves: by id, or by instance id with an empty id.
type Leaver struct {
	MemberID   string
	InstanceID *string
}

// Commit is an OffsetCommit request of offsets that have passed the checks
// that need no group.
type Commit struct {
	Token      Token
	MemberID   string
	InstanceID *string
	Generation int32
	NewErrors  bool // version 9 and later: a missing group is GROUP_ID_NOT_FOUND
	Offsets    map[kafka.TopicPartition]catalog.GroupOffset
}

// DeleteOffsets is an OffsetDelete request. Its answer has a code for each topic.
type DeleteOffsets struct {
	Token  Token
	Topics []TopicOffsets
}

// TopicOffsets names partitions of a topic.
type TopicOffsets struct {
	Name string
	All  []kafka.TopicPartition
}

// Delete is a DeleteGroups request for this group.
type Delete struct{ Token Token }

// Tick says that time has passed: sessions, joins and syncs may be over.
type Tick struct{}

// Expire looks for offsets past their retention.
type Expire struct {
	Name func(kafka.TopicID) (string, bool) // false: the topic is no more
}

func (Join) event()          {}
func (Sync) event()          {}
func (Heartbeat) event()     {}
func (Leave) event()         {}
func (Commit) event()        {}
func (DeleteOffsets) event() {}
func (Delete) event()        {}
func (Tick) event()          {}
func (Expire) event()        {}

// When says what must be durable before an answer may leave.
type When int

// The conditions.
const (
	Now       When = iota // nothing: it reveals nothing new
	Saved                 // the group's state as it is after the step
	Written               // that, and the step's offsets
	Deleted               // that the group is gone
	Confirmed             // nothing, but nobody else may have taken the group since: a read shows it
)

// Reply is an answer.
type Reply struct {
	Token Token
	When  When
	Code  kafka.ErrorCode
	Body  any // Joined, Synced, []kafka.ErrorCode or nil
}

// Joined is the body of an answer to Join.
type Joined struct {
	MemberID               string
	Generation             int32
	ProtocolType, Protocol *string
	Leader                 string
	SkipAssignment         bool
	Members                []JoinedMember // for the leader
}

// JoinedMember is a member as its leader sees it.
type JoinedMember struct {
	ID         string
	InstanceID *string
	Metadata   []byte
}

// Synced is the body of an answer to Sync.
type Synced struct {
	ProtocolType, Protocol string
	Assignment             []byte
}

// Effects are what a step asks for, in this order.
type Effects struct {
	Save    bool // write the state
	Set     map[kafka.TopicPartition]catalog.GroupOffset
	Del     []kafka.TopicPartition
	Pending map[int64]catalog.PendingOffsets // by producer id; without offsets: they wait no longer
	Delete  bool                             // remove the group with its offsets
	Replies []Reply
}
