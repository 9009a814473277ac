// Package oci writes the brokers' container image as an OCI layout, without
// Docker: one layer that holds a static binary, the roots of trust and a
// directory for the cache. The same input gives the same bytes and so the same digest.
//
//	<dir>/oci-layout, index.json, blobs/sha256/{layer, config, manifest}
//
// What reads OCI layouts can take it from there: skopeo, crane, podman.
package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// User is the numeric user that the image runs as.
const User = 65532

// Media types of the OCI image specification, 1.1.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	TypeManifest = "application/vnd.oci.image.manifest.v1+json"
	TypeConfig   = "application/vnd.oci.image.config.v1+json"
	TypeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// Image is what to write.
type Image struct {
	Binary       string // path of a static binary for linux
	Architecture string // of the binary, as GOARCH
	CacheDir     string // absolute; belongs to User
}

// Descriptor refers to a blob.
type Descriptor struct {
	MediaType string    `json:"mediaType"`
	Digest    string    `json:"digest"` // "sha256:" and hex
	Size      int64     `json:"size"`   // bytes
	Platform  *Platform `json:"platform,omitempty"`
}

// Platform is what an image runs on.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// Manifest lists an image's blobs.
type Manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        Descriptor   `json:"config"`
	Layers        []Descriptor `json:"layers"`
}

// Index is the layout's entry.
type Index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []Descriptor `json:"manifests"`
}

type config struct {
	Created      time.Time    `json:"created"`
	Architecture string       `json:"architecture"`
	OS           string       `json:"os"`
	Config       imageConfig  `json:"config"`
	RootFS       rootFS       `json:"rootfs"`
	History      []historyRow `json:"history"`
}

type imageConfig struct {
	User       string              `json:"User"`
	Entrypoint []string            `json:"Entrypoint"`
	Volumes    map[string]struct{} `json:"Volumes"`
	WorkingDir string              `json:"WorkingDir"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type historyRow struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// epoch is the time of everything in an image.
var epoch = time.Unix(0, 0).UTC()

// Write writes the layout into dir, which it replaces, and returns the
// manifest's digest.
func Write(dir string, img Image) (digest string, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("clear image layout: %w", err)
	}
	w := writer{blobs: filepath.Join(dir, "blobs", "sha256")}
	if err := os.MkdirAll(w.blobs, 0o755); err != nil {
		return "", fmt.Errorf("make image layout: %w", err)
	}
	layer, diffID, err := w.layer(img)
	if err != nil {
		return "", fmt.Errorf("write layer: %w", err)
	}
	platform := &Platform{Architecture: img.Architecture, OS: "linux"}
	conf := w.json(TypeConfig, config{
		Created: epoch, Architecture: img.Architecture, OS: "linux",
		Config: imageConfig{
			User: fmt.Sprintf("%d:%d", User, User), Entrypoint: []string{"/varve"}, WorkingDir: "/",
			Volumes: map[string]struct{}{img.CacheDir: {}},
		},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{diffID}}, History: []historyRow{{Created: epoch, CreatedBy: "varve"}},
	})
	manifest := w.json(TypeManifest, Manifest{SchemaVersion: 2, MediaType: TypeManifest, Config: conf, Layers: []Descriptor{layer}})
	manifest.Platform = platform
	w.file(filepath.Join(dir, "index.json"), Index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []Descriptor{manifest}})
	w.file(filepath.Join(dir, "oci-layout"), map[string]string{"imageLayoutVersion": "1.0.0"})
	if w.err != nil {
		return "", fmt.Errorf("write image layout: %w", w.err)
	}
	return manifest.Digest, nil
}

// writer writes blobs; the first error stays.
type writer struct {
	blobs string
	err   error
}

func (w *writer) file(path string, v any) {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, b, 0o644)
	}
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) json(mediaType string, v any) Descriptor {
	b, err := json.Marshal(v)
	if err != nil && w.err == nil {
		w.err = err
	}
	sum := sha256.Sum256(b)
	name := hex.EncodeToString(sum[:])
	w.file(filepath.Join(w.blobs, name), json.RawMessage(b))
	return Descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: int64(len(b))}
}

// layer writes the only layer. diffID is the digest of the uncompressed archive.
func (w *writer) layer(img Image) (d Descriptor, diffID string, err error) {
	part := filepath.Join(w.blobs, "part")
	f, err := os.Create(part)
	if err != nil {
		return d, "", err
	}
	defer f.Close()
	packed, plain, size := sha256.New(), sha256.New(), new(counter)
	gz := gzip.NewWriter(io.MultiWriter(f, packed, size))
	if err := writeFiles(tar.NewWriter(io.MultiWriter(gz, plain)), img); err != nil {
		return d, "", err
	}
	if err := gz.Close(); err != nil {
		return d, "", err
	}
	if err := f.Close(); err != nil {
		return d, "", err
	}
	name := hex.EncodeToString(packed.Sum(nil))
	d = Descriptor{MediaType: TypeLayer, Digest: "sha256:" + name, Size: int64(*size)}
	return d, "sha256:" + hex.EncodeToString(plain.Sum(nil)), os.Rename(part, filepath.Join(w.blobs, name))
}

func writeFiles(t *tar.Writer, img Image) error {
	binary, err := os.ReadFile(img.Binary)
	if err != nil {
		return err
	}
	rel := img.CacheDir[1:]
	for _, dir := range []string{"etc", "etc/ssl", "etc/ssl/certs", "tmp"} {
		if err := writeDir(t, dir, 0, 0o755); err != nil {
			return err
		}
	}
	for i, c := range rel {
		if c == '/' {
			if err := writeDir(t, rel[:i], 0, 0o755); err != nil {
				return err
			}
		}
	}
	if err := writeDir(t, rel, User, 0o750); err != nil {
		return err
	}
	if err := writeFile(t, "etc/ssl/certs/ca-certificates.crt", 0o644, roots()); err != nil {
		return err
	}
	if err := writeFile(t, "varve", 0o755, binary); err != nil {
		return err
	}
	return t.Close()
}

func writeDir(t *tar.Writer, name string, owner int, mode int64) error {
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner, ModTime: epoch})
}

func writeFile(t *tar.Writer, name string, mode int64, content []byte) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: epoch}); err != nil {
		return err
	}
	_, err := t.Write(content)
	return err
}

// roots are the certificates that Mozilla trusts without a constraint.
func roots() []byte {
	var certificates [][]byte
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			certificates = append(certificates, root.Certificate)
		}
	}
	slices.SortFunc(certificates, bytes.Compare)
	var b bytes.Buffer
	for _, der := range certificates {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // into memory
	}
	return b.Bytes()
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }
