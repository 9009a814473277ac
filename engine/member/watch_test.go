package member

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/varvelog/varve/internal/catalog"
)

const timeout = 6 * time.Second

// scene drives the watch of session 1 second by second.
type scene struct {
	w     Watch
	now   time.Time
	live  []catalog.SessionID
	beats map[catalog.SessionID]Beat
}

func newScene(brokers int32) *scene {
	s := &scene{w: Watch{Self: session(1), Timeout: timeout}, now: time.Unix(0, 0), beats: map[catalog.SessionID]Beat{}}
	for b := int32(1); b <= brokers; b++ {
		s.live = append(s.live, session(b))
	}
	s.second(true)
	return s
}

// second lets all but the silent renew, renews the own heartbeat if so, and looks.
func (s *scene) second(renewed bool, silent ...int32) []int32 {
	s.now = s.now.Add(time.Second)
	if renewed {
		s.w.Renewed(s.now)
	}
	for _, id := range s.live {
		quiet := false
		for _, b := range silent {
			quiet = quiet || b == id.Broker
		}
		if !quiet {
			b := s.beats[id]
			b.Counter++
			s.beats[id] = b
		}
	}
	var out []int32
	for _, id := range s.w.Observe(s.now, s.live, s.beats) {
		out = append(out, id.Broker)
	}
	return out
}

func (s *scene) refuse(by, whom int32) {
	b := s.beats[session(by)]
	b.Refused = append(b.Refused, session(whom))
	s.beats[session(by)] = b
}

// until runs seconds until somebody is suspected.
func (s *scene) until(limit int, renewed bool, silent ...int32) (seconds int, who []int32) {
	for n := 1; n <= limit; n++ {
		if who := s.second(renewed, silent...); who != nil {
			return n, who
		}
	}
	return limit, nil
}

func TestSilence(t *testing.T) {
	for _, c := range []struct {
		name    string
		brokers int32
		renewed bool
		silent  []int32
		seconds int
		who     []int32
	}{
		{"nobody", 4, true, nil, 60, nil},
		{"one of two", 2, true, []int32{2}, 6, []int32{2}},
		{"one of four", 4, true, []int32{3}, 6, []int32{3}},
		{"my own renewals fail", 4, false, []int32{3}, 60, nil},
		{"not watched: the others are nearer", 6, true, []int32{6}, 60, nil},
		{"most of them: patience, and one at a time", 4, true, []int32{2, 3}, 12, []int32{2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(c.brokers)
			seconds, who := s.until(60, c.renewed, c.silent...)
			if diff := cmp.Diff(c.who, who); diff != "" || seconds != c.seconds {
				t.Errorf("after %d s, want %d; %s", seconds, c.seconds, diff)
			}
		})
	}
}

// TestSilent: from four seconds of the six on, unless it leaves, are many, or the watcher cannot renew itself; and until it is heard of again.
func TestSilent(t *testing.T) {
	for _, c := range []struct {
		name    string
		renewed bool
		leaving bool
		silent  []int32
		seconds int
		want    []catalog.SessionID
	}{
		{"not yet", true, false, []int32{3}, 3, nil},
		{"one of four", true, false, []int32{3}, 4, []catalog.SessionID{session(3)}},
		{"my own renewals fail", false, false, []int32{3}, 5, nil},
		{"it leaves", true, true, []int32{3}, 5, nil},
		{"most of them", true, false, []int32{2, 3}, 5, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(4)
			s.second(true)
			s.beats[session(3)] = Beat{Counter: 9, Leaving: c.leaving}
			s.second(true)
			for range c.seconds {
				s.second(c.renewed, c.silent...)
			}
			if diff := cmp.Diff(c.want, s.w.Silent(s.now)); diff != "" {
				t.Error(diff)
			}
			s.second(true)
			if ids := s.w.Silent(s.now); ids != nil {
				t.Errorf("%v have been heard of, and are silent", ids)
			}
		})
	}
}

// TestDue: a read at the moment that is named suspects, one before does not.
func TestDue(t *testing.T) {
	s := newScene(3)
	for range 5 {
		s.second(true, 2)
	}
	for _, c := range []struct {
		sooner time.Duration
		who    []catalog.SessionID
	}{{time.Millisecond, nil}, {0, []catalog.SessionID{session(2)}}} {
		at := s.w.Due(s.now).Add(-c.sooner)
		if diff := cmp.Diff(c.who, s.w.Observe(at, s.live, s.beats)); diff != "" {
			t.Errorf("%s sooner: %s", c.sooner, diff)
		}
	}
}

func TestOneAtATime(t *testing.T) {
	s := newScene(4)
	s.until(60, true, 2, 3)
	if n, who := s.until(60, true, 2, 3); n != 6 || who == nil {
		t.Errorf("the next one after %d s: %v", n, who)
	}
}

// TestPause: the watcher was stopped for an hour, and so were all others. Nobody is to blame.
func TestPause(t *testing.T) {
	s := newScene(3)
	s.now = s.now.Add(time.Hour)
	if who := s.second(true, 2, 3); who != nil {
		t.Errorf("suspected %v after one read", who)
	}
	if _, who := s.until(3, true, 2, 3); who != nil {
		t.Errorf("suspected %v after fewer than five reads", who)
	}
}

func TestRefused(t *testing.T) {
	s := newScene(4)
	s.w.Refused(session(2), true)
	if who := s.second(true); who != nil {
		t.Fatalf("suspected %v alone", who)
	}
	s.refuse(3, 2)
	if diff := cmp.Diff([]int32{2}, s.second(true)); diff != "" {
		t.Fatal(diff)
	}
	b := s.beats[session(2)]
	b.Leaving = true
	s.beats[session(2)] = b
	if who := s.second(true); who != nil {
		t.Fatalf("suspected %v, who leaves", who)
	}
}

func TestRefusedInAClusterOfTwo(t *testing.T) {
	s := newScene(2)
	s.w.Refused(session(2), true)
	if diff := cmp.Diff([]int32{2}, s.second(true)); diff != "" {
		t.Fatal(diff)
	}
}

// TestNobodyWhoRenewsIsSuspected, in whatever rhythm the watcher looks.
func TestNobodyWhoRenewsIsSuspected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScene(rapid.Int32Range(2, 7).Draw(t, "brokers"))
		for range rapid.IntRange(1, 60).Draw(t, "reads") {
			s.now = s.now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			if who := s.second(rapid.Bool().Draw(t, "renewed")); who != nil {
				t.Fatalf("suspected %v", who)
			}
		}
	})
}

// TestBetweenLooks: a heartbeat is taken to have come half-way between two looks, but not where the watcher has slept.
func TestBetweenLooks(t *testing.T) {
	for _, c := range []struct{ look, due time.Duration }{
		{500 * time.Millisecond, timeout - 250*time.Millisecond},
		{10 * time.Second, timeout},
	} {
		s := newScene(2)
		s.beats[session(2)] = Beat{Counter: 100}
		s.now = s.now.Add(c.look)
		seen := s.now
		s.w.Observe(s.now, s.live, s.beats)
		if due := s.w.Due(s.now); !due.Equal(seen.Add(c.due)) {
			t.Errorf("a look after %v: due after %v, want %v", c.look, due.Sub(seen), c.due)
		}
		for ago := timeout / 10; ago < c.due; ago += timeout / 10 {
			s.w.Renewed(seen.Add(ago))
			if dead := s.w.Observe(seen.Add(ago), s.live, s.beats); dead != nil {
				t.Errorf("a look after %v: %v is suspected too early", c.look, dead)
			}
		}
		if dead := s.w.Observe(seen.Add(c.due-1), s.live, s.beats); dead != nil {
			t.Errorf("a look after %v: %v is suspected too early", c.look, dead)
		}
		if dead := s.w.Observe(seen.Add(c.due), s.live, s.beats); len(dead) != 1 {
			t.Errorf("a look after %v: nobody is suspected when it is due", c.look)
		}
	}
}

// TestNobodyCouldRenew: what keeps a watcher from looking may keep others from renewing; they have the whole timeout from
// when it is over.
func TestNobodyCouldRenew(t *testing.T) {
	s := newScene(2)
	look := func(ago time.Duration) []catalog.SessionID {
		s.now = s.now.Add(ago)
		s.w.Renewed(s.now)
		return s.w.Observe(s.now, s.live, s.beats)
	}
	look(timeout / 12)
	for range minReads {
		look(timeout / 12)
	}
	look(2 * timeout) // the store was away
	for ago := timeout / 12; ago < timeout; ago += timeout / 12 {
		if dead := look(timeout / 12); dead != nil {
			t.Fatalf("%v behind the store's return: %v are suspected", ago, dead)
		}
	}
	if dead := look(timeout / 12); len(dead) != 1 {
		t.Errorf("suspected: %v, want the one that has stood still for the timeout", dead)
	}
}
