package enginetest

import (
	"encoding/json"

	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/meta"
	"github.com/varvelog/varve/tiering/bundle"
	"github.com/varvelog/varve/tiering/wal"
)

// rule is one of those on which safety stands, broken on purpose: the checks
// must see it. Each is broken below the ports, in the stores or on the wire; nothing of the broker knows.
type rule string

const (
	putReplaces rule = "a put replaces what is there"        // so a seal keeps nobody out
	sealsVanish rule = "a recorded seal is deleted"          // so a zombie puts where it was
	trimFirst   rule = "WAL goes before the slots forget it" // so a crash in between leaves a hole

	followerAhead   rule = "a follower serves above its leader's durable offset" // what is on its way, and may never land
	followerForgets rule = "a follower does not tell its leader the epoch"       // so one that has been left behind answers
)

// trimAhead deletes the WAL below the spans that a commit would write.
func (l *ledger) trimAhead(ops []meta.Op) {
	for _, op := range ops {
		var spans []catalog.Span
		if text, ok := op.Attrs["spans"].(string); !ok || json.Unmarshal([]byte(text), &spans) != nil || len(spans) != 1 {
			continue
		}
		o := bundle.Origin{Broker: spans[0].Session.Broker, Epoch: spans[0].Session.Epoch}
		for o.Seq = range spans[0].From {
			if key := wal.Key(o); l.has(key) {
				_ = l.remove([]string{key})
			}
		}
	}
}

func (l *ledger) has(key string) bool {
	_, ok := l.objects.Object(key)
	return ok
}
