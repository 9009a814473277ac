package partition

import (
	"slices"

	"github.com/varvelog/varve/internal/kafka"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/recovery"
)

// Most logs are not appended to at a time, and then all of them is durable. Their
// tip rests: its state would be the durable half's, and is made of that when it is wanted.
//
//	tip      ──── Rest: all is durable, nobody asked since the last ───▶ rests
//	rests    ──── lockTip: an append, a question about producers ──────▶ tip
//
// While it rests nothing is on its way, so the durable half's offsets and producers stay as they are.

// Rest frees what only appends need, if nothing asked for that since the last Rest
// and all is durable.
func (l *Log) Rest() {
	t, d := &l.tip, &l.durable
	t.mu.Lock()
	defer t.mu.Unlock()
	used := t.used
	t.used = false
	if used || t.state == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.state.NextOffset == d.state.NextOffset {
		t.state = nil
	}
}

// lockTip returns the tip, locked and with its state.
func (l *Log) lockTip() *tip {
	t := &l.tip
	t.mu.Lock()
	t.used = true
	if t.state == nil {
		t.state = l.durable.tipState()
	}
	return t
}

// tipState returns the state of a tip of which all is durable.
func (d *durable) tipState() *bundle.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.state
	st.Epochs = slices.Clone(st.Epochs[len(st.Epochs)-1:])
	st.Aborted = nil
	st.Producers = recovery.CloneProducers(st.Producers)
	return &st
}

// next returns the next offset to be appended.
func (l *Log) next() kafka.Offset {
	t := &l.tip
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return kafka.Offset(l.hw.Load())
	}
	return t.state.NextOffset
}
