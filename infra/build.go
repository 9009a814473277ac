package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/infra/oci"
)

// build compiles what a deployment needs into dir: static binaries, the same
// for the same source, so that an unchanged program is an unchanged asset.
func build(ctx context.Context, dir string, c Config) (Assets, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Assets{}, err
	}
	a := Assets{Functions: make(map[string]string), Push: filepath.Join(dir, "pushimage"), Image: filepath.Join(dir, "image")}
	builds := make(map[string][2]string) // output → module and package
	if c.Brokers > 0 {
		builds[filepath.Join(a.Push, "bootstrap")] = [2]string{".", "./pushimage"}
		builds[filepath.Join(dir, "varve")] = [2]string{"..", "./cmd/varve"}
	}
	for _, j := range jobs(c) {
		a.Functions[j.name] = filepath.Join(dir, j.name)
		builds[filepath.Join(a.Functions[j.name], "bootstrap")] = [2]string{"..", "./functions/" + j.name}
	}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(2)
	for out, what := range builds {
		all.Go(func() error { return goBuild(ctx, out, what[0], what[1], c.Arch) })
	}
	if err := all.Wait(); err != nil || c.Brokers == 0 {
		return a, err
	}
	a.Digest, err = oci.Write(a.Image, oci.Image{Binary: filepath.Join(dir, "varve"), Architecture: c.Arch, CacheDir: cacheDir})
	return a, err
}

func goBuild(ctx context.Context, out, module, pkg, arch string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	text, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("build %s: Go is not installed (https://go.dev/dl): %w", pkg, err)
	}
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}
