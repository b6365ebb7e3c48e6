package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/google/go-containerregistry/pkg/name"
)

// released is where the manifests name the image of a release, and its version.
var (
	releasedImage = regexp.MustCompile(`\b` + regexp.QuoteMeta(imageName) + `\b`)
	releasedTag   = regexp.MustCompile(`(vxcan-install:|newTag: |appVersion: ")[0-9][^"\s]*`)
)

// writeManifests copies overlays and chart, for an image of another name and version. It replaces what it wrote before, and
// nothing else.
func writeManifests(to, from string, image name.Tag) error {
	source, errSource := filepath.Abs(from)
	target, errTarget := filepath.Abs(to)
	if err := errors.Join(errSource, errTarget); err != nil {
		return err
	}
	if inside, err := filepath.Rel(source, target); err != nil || filepath.IsLocal(inside) {
		return fmt.Errorf("%s is in %s; name a directory elsewhere (MANIFESTS=)", to, from)
	}
	mark := filepath.Join(to, "written-by-make")
	remove := os.Remove // an empty directory
	if _, err := os.Stat(mark); err == nil {
		remove = os.RemoveAll
	}
	if err := remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; name a directory that is not there (MANIFESTS=)", err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Ext(path) == ".yaml" {
			content = releasedTag.ReplaceAll(content, []byte("${1}"+image.TagStr()))
			content = releasedImage.ReplaceAll(content, []byte(image.Context().Name()))
		}
		return os.WriteFile(target, content, 0o644)
	})
}
