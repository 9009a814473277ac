package slot

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvelog/varve/internal/catalog"
)

// TestProbeOfWhoHangsUp: where connections are taken and ended at once, by somebody who stands between, there is a pause before the next.
func TestProbeOfWhoHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		m := &Manager{o: Options{Dial: func(context.Context, string) (net.Conn, error) {
			dials++
			mine, theirs := net.Pipe()
			return mine, theirs.Close()
		}}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		newProbes(m).probe(ctx, catalog.SessionID{Broker: 2}, "b2:9092")
		if most := int(10 * time.Second / redial); dials < most/2 || dials > most+1 {
			t.Errorf("%d dials in ten seconds", dials)
		}
	})
}
