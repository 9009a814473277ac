package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCacheOfOneCluster: what a broker of one cluster has cached is never read in another, whose WAL objects have the same keys.
func TestCacheOfOneCluster(t *testing.T) {
	f := &brokerFlags{storeFlags: storeFlags{data: t.TempDir(), bucket: "b", table: "t"}, id: 3}
	older := filepath.Join(f.brokerDir(), "cache", "0000000000000000.cache") // as it once lay there
	if err := os.MkdirAll(filepath.Dir(older), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(older, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	names := func(clusterID string) int {
		t.Helper()
		disk, err := f.cacheDisk(clusterID)
		if err != nil {
			t.Fatal(err)
		}
		names, err := disk.ReadDir("")
		if err != nil {
			t.Fatal(err)
		}
		file, err := disk.Create("x.cache")
		if err == nil {
			err = file.Close()
		} else if len(names) > 0 {
			err = nil
		}
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	for i, c := range []struct {
		cluster string
		want    int
	}{{"first", 0}, {"first", 1}, {"second", 0}, {"first", 0}} {
		if n := names(c.cluster); n != c.want {
			t.Errorf("start %d, of %s: %d files are there, want %d", i, c.cluster, n, c.want)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(older)); err != nil || len(left) != 1 {
		t.Errorf("%v are left, %v", left, err)
	}
}
