package filestore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/varvelog/varve/internal/vfs"
	"github.com/varvelog/varve/tiering/objstore"
	"github.com/varvelog/varve/tiering/objstore/filestore"
)

// racerEnv makes this test binary a racer: its value is "<data> <name>".
const racerEnv = "FILESTORE_RACER"

const raceKeys = 400

func TestMain(m *testing.M) {
	if arg := os.Getenv(racerEnv); arg != "" {
		data, name, _ := strings.Cut(arg, " ")
		if err := racer(data, name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func raceKey(i int) string { return fmt.Sprintf("wal/1/%05d", i) }

func raceBody(name string, i int) string {
	return strings.Repeat(fmt.Sprintf("%s put %d;", name, i), 1+i%700)
}

// racer puts all keys, four at a time, and prints those that it won.
func racer(data, name string) error {
	disk, err := vfs.Disk(data)
	if err != nil {
		return err
	}
	s, err := filestore.OpenPacked(disk, "objects", 1<<20)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for g := range errs {
		wg.Go(func() {
			for i := g; i < raceKeys && errs[g] == nil; i += len(errs) {
				err := s.Put(context.Background(), raceKey(i), objstore.Buffers{[]byte(raceBody(name, i))})
				if err == nil {
					fmt.Println(i)
				} else if !errors.Is(err, objstore.ErrExists) {
					errs[g] = err
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...) // killed or at its end: without Close
}

// TestProcesses: of three processes that put the same keys, one of which is
// killed, each key has one winner, and its bytes.
func TestProcesses(t *testing.T) {
	data := t.TempDir()
	won := make([]map[int]bool, 3)
	var wg sync.WaitGroup
	for p := range won {
		won[p] = map[int]bool{}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s racer%d", racerEnv, data, p))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			lines := bufio.NewScanner(out)
			for n := 1; lines.Scan(); n++ {
				var i int
				if _, err := fmt.Sscan(lines.Text(), &i); err != nil {
					t.Errorf("process %d says %q", p, lines.Text())
				}
				won[p][i] = true
				if p == 0 && n == 40 {
					cmd.Process.Kill()
				}
			}
			if err := cmd.Wait(); err != nil && p != 0 {
				t.Errorf("process %d: %v", p, err)
			}
		})
	}
	wg.Wait()
	d, err := vfs.Disk(data)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := filestore.Open(d, "objects", "wal/")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range raceKeys {
		checkRace(t, s, i, won)
	}
	t.Logf("won: %d, %d, %d", len(won[0]), len(won[1]), len(won[2]))
}

func checkRace(t *testing.T, s *filestore.Store, i int, won []map[int]bool) {
	t.Helper()
	winner := 0 // who was killed may have won without saying so
	for p := range won {
		if !won[p][i] {
			continue
		}
		if winner > 0 || p > 0 && won[0][i] {
			t.Errorf("key %d has two winners", i)
		}
		winner = p
	}
	p := make([]byte, 64<<10)
	n, _, err := s.ReadAt(t.Context(), raceKey(i), p, 0)
	if want := raceBody(fmt.Sprint("racer", winner), i); err != io.EOF || string(p[:n]) != want {
		t.Errorf("key %d: %d bytes %.20q, %v; want %d of racer %d", i, n, p[:n], err, len(want), winner)
	}
}
