package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/cfn"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"

	"github.com/varvelog/varve/infra/oci"
)

// repository is a registry in memory with small parts. It refuses what ECR
// refuses: parts out of order, a wrong digest, a manifest without its blobs.
type repository struct {
	t      *testing.T
	part   []byte
	blobs  map[string][]byte
	images map[string]string
	parts  int
}

func (r *repository) BatchCheckLayerAvailability(_ context.Context, in *ecr.BatchCheckLayerAvailabilityInput, _ ...func(*ecr.Options)) (*ecr.BatchCheckLayerAvailabilityOutput, error) {
	if _, ok := r.blobs[in.LayerDigests[0]]; ok {
		return &ecr.BatchCheckLayerAvailabilityOutput{Layers: []types.Layer{{LayerAvailability: types.LayerAvailabilityAvailable}}}, nil
	}
	return &ecr.BatchCheckLayerAvailabilityOutput{Failures: []types.LayerFailure{{}}}, nil
}

func (r *repository) InitiateLayerUpload(context.Context, *ecr.InitiateLayerUploadInput, ...func(*ecr.Options)) (*ecr.InitiateLayerUploadOutput, error) {
	r.part = nil
	return &ecr.InitiateLayerUploadOutput{UploadId: aws.String("u"), PartSize: aws.Int64(1000)}, nil
}

func (r *repository) UploadLayerPart(_ context.Context, in *ecr.UploadLayerPartInput, _ ...func(*ecr.Options)) (*ecr.UploadLayerPartOutput, error) {
	if *in.PartFirstByte != int64(len(r.part)) || *in.PartLastByte != *in.PartFirstByte+int64(len(in.LayerPartBlob))-1 {
		r.t.Errorf("part %d to %d after %d bytes", *in.PartFirstByte, *in.PartLastByte, len(r.part))
	}
	r.part = append(r.part, in.LayerPartBlob...)
	r.parts++
	return &ecr.UploadLayerPartOutput{}, nil
}

func (r *repository) CompleteLayerUpload(_ context.Context, in *ecr.CompleteLayerUploadInput, _ ...func(*ecr.Options)) (*ecr.CompleteLayerUploadOutput, error) {
	if sum := sha256.Sum256(r.part); "sha256:"+hex.EncodeToString(sum[:]) != in.LayerDigests[0] {
		r.t.Errorf("%s was uploaded as %x", in.LayerDigests[0], sum)
	}
	r.blobs[in.LayerDigests[0]] = bytes.Clone(r.part)
	return &ecr.CompleteLayerUploadOutput{}, nil
}

func (r *repository) PutImage(_ context.Context, in *ecr.PutImageInput, _ ...func(*ecr.Options)) (*ecr.PutImageOutput, error) {
	if _, ok := r.images[*in.ImageDigest]; ok {
		return nil, &types.ImageAlreadyExistsException{}
	}
	if len(r.blobs) != 2 {
		r.t.Errorf("manifest after %d blobs", len(r.blobs))
	}
	r.images[*in.ImageDigest] = *in.ImageManifest
	return &ecr.PutImageOutput{}, nil
}

func layout(t *testing.T) (dir, digest string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "varve")
	if err := os.WriteFile(binary, []byte("a program"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "image")
	digest, err := oci.Write(dir, oci.Image{Binary: binary, Architecture: "arm64", CacheDir: "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	return dir, digest
}

func TestPush(t *testing.T) {
	dir, digest := layout(t)
	r := &repository{t: t, blobs: map[string][]byte{}, images: map[string]string{}}
	p := pusher{registry: r, repository: "varve"}
	if err := p.push(t.Context(), os.DirFS(dir), digest); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(r.images[digest]))
	if "sha256:"+hex.EncodeToString(sum[:]) != digest {
		t.Errorf("manifest of %s has the digest %x", digest, sum)
	}
	parts := r.parts
	if parts < 3 {
		t.Errorf("%d parts: the layer was to take several", parts)
	}
	if err := p.push(t.Context(), os.DirFS(dir), digest); err != nil {
		t.Errorf("push again: %v", err)
	}
	if r.parts != parts {
		t.Error("what is there was uploaded again")
	}
}

func TestDamage(t *testing.T) {
	dir, digest := layout(t)
	name := filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
	if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pusher{registry: &repository{t: t}, repository: "varve"}
	if err := p.push(t.Context(), os.DirFS(dir), digest); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("error %v", err)
	}
}

func TestDelete(t *testing.T) {
	id, _, err := handle(t.Context(), cfn.Event{RequestType: cfn.RequestDelete, PhysicalResourceID: "old"})
	if err != nil || id != "old" {
		t.Errorf("%s, %v", id, err)
	}
}
