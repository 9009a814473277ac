package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"

	"github.com/varvelog/varve/infra/oci"
)

// registry is what is called of ECR.
type registry interface {
	BatchCheckLayerAvailability(context.Context, *ecr.BatchCheckLayerAvailabilityInput, ...func(*ecr.Options)) (*ecr.BatchCheckLayerAvailabilityOutput, error)
	InitiateLayerUpload(context.Context, *ecr.InitiateLayerUploadInput, ...func(*ecr.Options)) (*ecr.InitiateLayerUploadOutput, error)
	UploadLayerPart(context.Context, *ecr.UploadLayerPartInput, ...func(*ecr.Options)) (*ecr.UploadLayerPartOutput, error)
	CompleteLayerUpload(context.Context, *ecr.CompleteLayerUploadInput, ...func(*ecr.Options)) (*ecr.CompleteLayerUploadOutput, error)
	PutImage(context.Context, *ecr.PutImageInput, ...func(*ecr.Options)) (*ecr.PutImageOutput, error)
}

const (
	maxBlob     = 256 << 20 // bytes
	defaultPart = 10 << 20  // bytes; ECR says what it wants
)

type pusher struct {
	registry   registry
	repository string
}

// push pushes the image with a digest from an OCI layout: blobs first, the
// manifest that names them last.
func (p pusher) push(ctx context.Context, layout fs.FS, digest string) error {
	raw, err := blob(layout, digest)
	if err != nil {
		return err
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("decode manifest: %w", err)
	}
	for _, d := range append([]oci.Descriptor{m.Config}, m.Layers...) {
		if err := p.blob(ctx, layout, d); err != nil {
			return fmt.Errorf("push %s: %w", d.Digest, err)
		}
	}
	_, err = p.registry.PutImage(ctx, &ecr.PutImageInput{
		RepositoryName: &p.repository, ImageDigest: &digest, ImageManifest: aws.String(string(raw)), ImageManifestMediaType: aws.String(oci.TypeManifest),
		ImageTag: aws.String(strings.TrimPrefix(digest, "sha256:")[:12]),
	})
	if there := new(types.ImageAlreadyExistsException); err != nil && !errors.As(err, &there) {
		return fmt.Errorf("put manifest: %w", err)
	}
	return nil
}

func (p pusher) blob(ctx context.Context, layout fs.FS, d oci.Descriptor) error {
	has, err := p.registry.BatchCheckLayerAvailability(ctx, &ecr.BatchCheckLayerAvailabilityInput{RepositoryName: &p.repository, LayerDigests: []string{d.Digest}})
	if err != nil {
		return fmt.Errorf("look for it: %w", err)
	}
	if len(has.Layers) == 1 && has.Layers[0].LayerAvailability == types.LayerAvailabilityAvailable {
		return nil
	}
	b, err := blob(layout, d.Digest)
	if err != nil {
		return err
	}
	begun, err := p.registry.InitiateLayerUpload(ctx, &ecr.InitiateLayerUploadInput{RepositoryName: &p.repository})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	part := aws.ToInt64(begun.PartSize)
	if part <= 0 {
		part = defaultPart
	}
	for from := int64(0); from < int64(len(b)); from += part {
		to := min(from+part, int64(len(b)))
		if _, err := p.registry.UploadLayerPart(ctx, &ecr.UploadLayerPartInput{
			RepositoryName: &p.repository, UploadId: begun.UploadId, PartFirstByte: aws.Int64(from), PartLastByte: aws.Int64(to - 1), LayerPartBlob: b[from:to],
		}); err != nil {
			return fmt.Errorf("upload from byte %d: %w", from, err)
		}
	}
	_, err = p.registry.CompleteLayerUpload(ctx, &ecr.CompleteLayerUploadInput{RepositoryName: &p.repository, UploadId: begun.UploadId, LayerDigests: []string{d.Digest}})
	if there := new(types.LayerAlreadyExistsException); err != nil && !errors.As(err, &there) {
		return fmt.Errorf("complete: %w", err)
	}
	return nil
}

// blob reads a blob and checks that it is what its digest says.
func blob(layout fs.FS, digest string) ([]byte, error) {
	name, ok := strings.CutPrefix(digest, "sha256:")
	if !ok {
		return nil, fmt.Errorf("digest %q: not sha256", digest)
	}
	f, err := layout.Open("blobs/sha256/" + name)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBlob))
	if err != nil {
		return nil, fmt.Errorf("read blob: %w", err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != name {
		return nil, fmt.Errorf("blob %s is damaged", digest)
	}
	return b, nil
}
