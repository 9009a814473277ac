package oci

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T) (dir, digest string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "varve")
	if err := os.WriteFile(binary, []byte("a program"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "image")
	digest, err := Write(dir, Image{Binary: binary, Architecture: "arm64", CacheDir: "/var/lib/varve"})
	if err != nil {
		t.Fatal(err)
	}
	return dir, digest
}

func decode(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func blobPath(dir, digest string) string {
	return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// What a registry checks: each blob has the digest and the size that it is
// referred to with, and the configuration knows the plain layer.
func TestLayout(t *testing.T) {
	dir, digest := write(t)
	var index Index
	decode(t, filepath.Join(dir, "index.json"), &index)
	if index.Manifests[0].Digest != digest {
		t.Fatalf("index names %s", index.Manifests[0].Digest)
	}
	var m Manifest
	decode(t, blobPath(dir, digest), &m)
	for _, d := range append(m.Layers, m.Config, index.Manifests[0]) {
		b, err := os.ReadFile(blobPath(dir, d.Digest))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); "sha256:"+hex.EncodeToString(sum[:]) != d.Digest || int64(len(b)) != d.Size {
			t.Errorf("blob %s: %d bytes, sum %x", d.Digest, len(b), sum)
		}
	}
	var c config
	decode(t, blobPath(dir, m.Config.Digest), &c)
	files, diffID := layer(t, blobPath(dir, m.Layers[0].Digest))
	if c.RootFS.DiffIDs[0] != diffID {
		t.Errorf("the configuration names the layer %s, it is %s", c.RootFS.DiffIDs[0], diffID)
	}
	want := []string{
		"etc/ 755 0", "etc/ssl/ 755 0", "etc/ssl/certs/ 755 0", "tmp/ 755 0", "var/ 755 0", "var/lib/ 755 0", "var/lib/varve/ 750 65532",
		"etc/ssl/certs/ca-certificates.crt 644 0", "varve 755 0",
	}
	if d := cmp.Diff(want, files); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
}

func layer(t *testing.T, path string) (files []string, diffID string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	plain := sha256.New()
	all := io.TeeReader(gz, plain)
	for r := tar.NewReader(all); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, fmt.Sprintf("%s %o %d", h.Name, h.Mode, h.Uid))
	}
	if _, err := io.Copy(io.Discard, all); err != nil {
		t.Fatal(err)
	}
	return files, "sha256:" + hex.EncodeToString(plain.Sum(nil))
}

// An unchanged program must not be a new deployment.
func TestSameDigest(t *testing.T) {
	_, a := write(t)
	_, b := write(t)
	if a != b {
		t.Errorf("%s and %s", a, b)
	}
}

func TestRoots(t *testing.T) {
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(roots()) {
		t.Error("no roots of trust")
	}
}
