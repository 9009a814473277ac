package catalog

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/varvelog/varve/internal/kafka"
)

// A group's value:
//
//	byte  0   version, 1
//	byte  1   0: the document as it is; 1: deflated
//	from  2   the document, JSON: SavedGroup
//
// Offsets are items of their own.
const (
	groupVersion  = 1
	groupPlain    = 0
	groupDeflated = 1
	deflateFrom   = 8 << 10  // bytes of a document that is worth deflating
	maxDocument   = 64 << 20 // bytes
)

// ErrCorruptGroup means that a group's value cannot be read.
var ErrCorruptGroup = errors.New("corrupt group state")

// SavedGroup is a group's state as its coordinator saves it. What only waits
// (requests, pending members, sessions) is not saved: clients ask again.
type SavedGroup struct {
	Fence        GroupFence    `json:"fence"`
	State        int           `json:"state"` // the coordinator's; 0: Empty
	Generation   int32         `json:"gen"`
	ProtocolType string        `json:"type,omitempty"`
	Protocol     string        `json:"proto,omitempty"`
	Leader       string        `json:"leader,omitempty"`
	EmptySinceMs int64         `json:"empty,omitempty"`
	Members      []SavedMember `json:"members,omitempty"`
}

// Empty tells whether the group has no members, nor any on the way in.
func (g *SavedGroup) Empty() bool { return g.State == 0 && len(g.Members) == 0 }

// GroupFence names the ownership of the slot, or the job's lease, under which a
// state was written. Who loads a group that bears another one than his own
// writes it before anything else, which ends the writer before him.
type GroupFence struct {
	Broker  int32             `json:"b"` // -1: a job
	Session int64             `json:"s"` // of the broker; of a job, its lease's epoch
	Epoch   kafka.LeaderEpoch `json:"e"`
}

// SavedMember is a member of a SavedGroup.
type SavedMember struct {
	ID          string          `json:"id"`
	InstanceID  *string         `json:"inst,omitempty"`
	ClientID    string          `json:"client"`
	ClientHost  string          `json:"host"`
	SessionMs   int64           `json:"session"`
	RebalanceMs int64           `json:"rebalance"`
	Protocols   []GroupProtocol `json:"protos"`
	Assignment  []byte          `json:"assign,omitempty"`
}

// GroupProtocol is a protocol that a member offers, with its opaque metadata.
type GroupProtocol struct {
	Name     string `json:"n"`
	Metadata []byte `json:"m"`
}

// Encode returns the group as a GroupState's Value.
func (g *SavedGroup) Encode() []byte {
	doc, err := json.Marshal(g)
	if err != nil {
		panic(fmt.Sprintf("encode group: %v", err)) // strings, numbers and bytes only
	}
	if len(doc) < deflateFrom {
		return append([]byte{groupVersion, groupPlain}, doc...)
	}
	b := bytes.NewBuffer([]byte{groupVersion, groupDeflated})
	w, _ := flate.NewWriter(b, flate.BestSpeed) // the level is valid, and a buffer takes all
	_, _ = w.Write(doc)
	_ = w.Close()
	return b.Bytes()
}

// DecodeGroup reads a GroupState's Value. The error is ErrCorruptGroup.
func DecodeGroup(b []byte) (g SavedGroup, err error) {
	doc, err := groupDocument(b)
	if err == nil {
		err = json.Unmarshal(doc, &g)
	}
	if err != nil {
		return SavedGroup{}, fmt.Errorf("%w: %w", ErrCorruptGroup, err)
	}
	return g, nil
}

func groupDocument(b []byte) ([]byte, error) {
	if len(b) < 2 || b[0] != groupVersion || b[1] != groupPlain && b[1] != groupDeflated {
		return nil, errors.New("no such version")
	}
	if b[1] == groupPlain {
		return b[2:], nil
	}
	doc, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b[2:])), maxDocument+1))
	if err == nil && len(doc) > maxDocument {
		err = fmt.Errorf("over %d bytes", maxDocument)
	}
	return doc, err
}
