package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/varvelog/varve/infra/oci"
)

// architecture of everything that the stack runs.
const architecture = "arm64"

// build compiles what a deployment needs into dir: static binaries, the same
// for the same source, so that an unchanged program is an unchanged asset.
func build(dir string) (Assets, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Assets{}, err
	}
	a := Assets{Functions: make(map[string]string), Push: filepath.Join(dir, "pushimage"), Image: filepath.Join(dir, "image")}
	builds := map[string][2]string{ // output → module and package
		filepath.Join(a.Push, "bootstrap"): {".", "./pushimage"},
		filepath.Join(dir, "varve"):        {"..", "./cmd/varve"},
	}
	for _, j := range jobs() {
		a.Functions[j.name] = filepath.Join(dir, j.name)
		builds[filepath.Join(a.Functions[j.name], "bootstrap")] = [2]string{"..", "./functions/" + j.name}
	}
	var all errgroup.Group
	all.SetLimit(2)
	for out, what := range builds {
		all.Go(func() error { return goBuild(out, what[0], what[1]) })
	}
	if err := all.Wait(); err != nil {
		return Assets{}, err
	}
	a.Digest, err = oci.Write(a.Image, oci.Image{Binary: filepath.Join(dir, "varve"), Architecture: architecture, CacheDir: cacheDir})
	return a, err
}

func goBuild(out, module, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
	text, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("build %s: Go is not installed (https://go.dev/dl): %w", pkg, err)
	}
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}
