// Package member holds the decisions of a cluster without a controller, as
// pure functions: who is suspected (Watch), and which slot should be whose
// (Assign). Every broker makes them for itself from what it reads.
//
// None of them is needed for safety. A suspicion may be wrong and two brokers
// may want the same slot at the same time: the seal and the conditions of the
// commits decide. What is decided here is only when to try, and what to try for.
package member

import (
	"cmp"
	"slices"

	"github.com/varvelog/varve/internal/catalog"
)

// Watched is how many sessions behind it on the ring a session watches.
const Watched = 3

// ring returns the sessions in ring order: by broker id, and of one broker id
// by age.
func ring(sessions []catalog.SessionID) []catalog.SessionID {
	all := slices.Clone(sessions)
	slices.SortFunc(all, compareSessions)
	return slices.Compact(all)
}

func compareSessions(a, b catalog.SessionID) int {
	return cmp.Or(cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.Epoch, b.Epoch))
}

// after returns up to n sessions that follow self on the ring of the live ones.
func after(live []catalog.SessionID, self catalog.SessionID, n int) []catalog.SessionID {
	all := ring(append(slices.Clone(live), self))
	at := slices.Index(all, self)
	var out []catalog.SessionID
	for i := 1; i < len(all) && len(out) < n; i++ {
		out = append(out, all[(at+i)%len(all)])
	}
	return out
}

// Peers returns the sessions that self watches among the live ones.
func Peers(live []catalog.SessionID, self catalog.SessionID) []catalog.SessionID {
	return after(live, self, Watched)
}
