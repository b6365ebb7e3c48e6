// Command installer makes the container image of vxcan-install, FROM scratch and without Docker: an OCI image layout of
// an index for all platforms, and the same as a tar archive that ctr, k3s, podman and Docker load. The same binaries give
// the same bytes. With -push it sends what it made before to a registry. It is in a module of its own, because its library
// asks for a newer Go than the rest.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// imageName is no registry's: nodes have the image, or an overlay of conflist/kubernetes names another.
const imageName = "localhost/vxcan-install"

// files are the image, all of it; they are in the directory of each platform.
var files = []string{"vxcan", "vxcan-install", "vxcan-label", "vxcanctl"}

func main() {
	version := flag.String("version", "unknown", "of the binaries")
	binaries := flag.String("binaries", "bin/platforms", "`directory` with a directory of binaries for each platform")
	image := flag.String("image", imageName, "`name` of the image, with that of its registry")
	out := flag.String("out", "bin/image", "`directory` to write; the archive is beside it")
	from := flag.String("manifests", "conflist/kubernetes", "`directory` with the manifests")
	to := flag.String("to", "bin/kubernetes", "`directory` to write them to, with name and version of the image")
	toRegistry := flag.Bool("push", false, "push what is in the directory already")
	flag.Parse()
	name, err := name.NewTag(*image + ":" + *version)
	if err != nil {
		log.Fatal(err)
	}
	var digest v1.Hash
	if *toRegistry {
		digest, err = push(*out, name, flag.Args())
	} else {
		digest, err = write(*out, *binaries, name, flag.Args())
	}
	if err == nil {
		err = writeManifests(*to, *from, name)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s@%s, manifests in %s\n", name, digest, *to)
}

// push sends the index of a layout to the registry that its name has, with the credentials of docker login or podman login,
// and returns its digest. What the registry has already is not sent again. One that lacks a platform is refused.
func push(out string, to name.Tag, platforms []string) (v1.Hash, error) {
	all, err := layout.ImageIndexFromPath(out)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("%w; run make image first", err)
	}
	outer, err := all.IndexManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	if len(outer.Manifests) != 1 {
		return v1.Hash{}, fmt.Errorf("%s has %d images, want one", out, len(outer.Manifests))
	}
	digest, version := outer.Manifests[0].Digest, outer.Manifests[0].Annotations["org.opencontainers.image.ref.name"]
	if version != to.TagStr() {
		return v1.Hash{}, fmt.Errorf("%s is an image of %s, want %s; run make image first", out, version, to.TagStr())
	}
	index, err := all.ImageIndex(digest)
	if err != nil {
		return v1.Hash{}, err
	}
	if is, err := index.IndexManifest(); err != nil {
		return v1.Hash{}, err
	} else if len(is.Manifests) != len(platforms) {
		return v1.Hash{}, fmt.Errorf("%s is an image for %d platforms, want %q; run make image first", out, len(is.Manifests), platforms)
	}
	return digest, remote.WriteIndex(to, index, remote.WithAuthFromKeychain(authn.DefaultKeychain))
}

// write makes layout and archive, and returns the digest of the index.
func write(out, binaries string, to name.Tag, platforms []string) (v1.Hash, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, name := range platforms {
		platform, err := v1.ParsePlatform("linux/" + name)
		if err != nil {
			return v1.Hash{}, err
		}
		image, err := newImage(filepath.Join(binaries, name), to.TagStr(), platform)
		if err != nil {
			return v1.Hash{}, fmt.Errorf("image for %s: %w", name, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	if err := os.RemoveAll(out); err != nil {
		return v1.Hash{}, err
	}
	path, err := layout.Write(out, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": to.TagStr(),
		"io.containerd.image.name":          to.String(),
	})); err != nil {
		return v1.Hash{}, err
	}
	if err := archive(out+".tar", out); err != nil {
		return v1.Hash{}, err
	}
	return index.Digest()
}

func newImage(dir, version string, platform *v1.Platform) (v1.Image, error) {
	content, err := layerOf(dir)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, MediaType: types.OCILayer}); err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.History = nil
	config.Config = v1.Config{
		Entrypoint: []string{"/vxcan-install"},
		Env:        []string{"PATH=/"}, // for kubectl exec ds/vxcan -- vxcanctl
		User:       "0:0",
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":       "vxcan-install",
			"org.opencontainers.image.description": "Puts the CNI plugin vxcan, which puts containers on a CAN bus, on a node of Kubernetes",
			"org.opencontainers.image.version":     version,
			"org.opencontainers.image.source":      "https://github.com/vxcan/vxcan",
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}
	return mutate.ConfigFile(image, config)
}

// layerOf is a tar archive of the binaries.
func layerOf(dir string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if err := add(w, name, 0o755, content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// add adds a file of root's, of 1970.
func add(w *tar.Writer, name string, mode int64, content []byte) error {
	header := tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// archive packs a directory, in the order of names.
func archive(path, dir string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return add(w, strings.TrimPrefix(path, dir+"/"), 0o644, content)
	}); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}
