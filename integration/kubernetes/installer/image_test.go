package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"sigs.k8s.io/yaml"
)

const binaries = "../../../bin/platforms"

// platforms are those of make image, or of make test.
var platforms = func() (all []string) {
	for _, platform := range []string{"amd64", "arm64", "arm/v7", "riscv64"} {
		if os.Getenv("VXCAN_TEST_THOROUGH") != "" || platform == "arm/v7" || platform == runtime.GOARCH {
			all = append(all, platform)
		}
	}
	return all
}()

// TestImage: what make image made is valid, is for each platform what was built for it, and nothing else; and it is the
// same when it is made again.
func TestImage(t *testing.T) {
	path, err := layout.FromPath("../../../bin/image")
	if err != nil {
		t.Fatalf("%v; run make image first", err)
	}
	outer, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(outer); err != nil {
		t.Error(err)
	}
	names, err := outer.IndexManifest()
	if err != nil || len(names.Manifests) != 1 {
		t.Fatalf("%+v, %v", names, err)
	}
	version := names.Manifests[0].Annotations["org.opencontainers.image.ref.name"]
	t.Log(version, names.Manifests[0].Digest)
	if got := names.Manifests[0].Annotations["io.containerd.image.name"]; got != imageName+":"+version || version == "latest" {
		t.Errorf("name %q", got)
	}
	index, err := outer.ImageIndex(names.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || manifest.MediaType != types.OCIImageIndex || len(manifest.Manifests) != len(platforms) {
		t.Fatalf("%+v, %v", manifest, err)
	}
	for i, m := range manifest.Manifests {
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimPrefix(m.Platform.String(), "linux/"); got != platforms[i] {
			t.Errorf("platform %s, want %s", got, platforms[i])
		}
		expectImage(t, image, platforms[i], version)
	}

	again := filepath.Join(t.TempDir(), "image")
	digest, err := write(again, binaries, tagged(t, imageName, version), platforms)
	if err != nil || digest != names.Manifests[0].Digest {
		t.Errorf("made again: %s, %v; want %s", digest, err, names.Manifests[0].Digest)
	}
	if !bytes.Equal(readFile(t, again+".tar"), readFile(t, "../../../bin/image.tar")) {
		t.Error("made again, the archive is another")
	}
}

func tagged(t *testing.T, image, tag string) name.Tag {
	t.Helper()
	tagged, err := name.NewTag(image + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	return tagged
}

// TestPush: what make push sends is what the registry has then, all platforms of it, and the manifests name it.
func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	image := strings.TrimPrefix(server.URL, "http://") + "/can/vxcan-install"
	written := t.TempDir() + "/kubernetes"
	push := []string{"-s", "--no-print-directory", "-C", "../../..", "SETUP=:", "push", "IMAGE=" + image, "MANIFESTS=" + written, "PLATFORMS=" + strings.Join(platforms, " ")}
	for range 2 { // the second time the registry has everything
		cmd, cancel := limited("make", push...)
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Logf("make push IMAGE=%s\n%s", image, out)
	}
	for refusal, arg := range map[string]string{"an image of": "VERSION=0.0.1", "run make image first": "PLATFORMS=amd64", "not empty": "MANIFESTS=conflist",
		"is in": "MANIFESTS=conflist/kubernetes/mine"} {
		cmd, cancel := limited("make", append(slices.Clone(push), arg)...)
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(out), refusal) {
			t.Errorf("make push %s: %v: %s, want %s", arg, err, out, refusal)
		}
	}
	var named struct {
		Images []struct{ Name, NewTag string }
	}
	if err := yaml.Unmarshal(readFile(t, written+"/k3s/kustomization.yaml"), &named); err != nil || len(named.Images) != 1 || named.Images[0].Name != image {
		t.Fatalf("%+v, %v", named, err)
	}
	pulled, err := remote.Index(tagged(t, image, named.Images[0].NewTag))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(pulled); err != nil {
		t.Error(err)
	}
	path, err := layout.FromPath("../../../bin/image")
	if err != nil {
		t.Fatal(err)
	}
	outer, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	names, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pulled.Digest(); err != nil || got != names.Manifests[0].Digest {
		t.Errorf("pulled %v, %v; pushed %v", got, err, names.Manifests[0].Digest)
	}
	if left := string(readFile(t, written+"/base/daemonset.yaml")) + string(readFile(t, written+"/components/labels/kustomization.yaml")) +
		string(readFile(t, written+"/chart/values.yaml")); strings.Contains(left, imageName) || strings.Count(left, image) != 3 {
		t.Errorf("manifests:\n%s", left)
	}
}

func expectImage(t *testing.T, image v1.Image, platform, version string) {
	t.Helper()
	if err := validate.Image(image); err != nil {
		t.Error(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if !slices.Equal(c.Entrypoint, []string{"/vxcan-install"}) || c.User != "0:0" || !slices.Equal(c.Env, []string{"PATH=/"}) || len(c.Cmd) > 0 ||
		len(c.Volumes) > 0 || len(c.ExposedPorts) > 0 {
		t.Errorf("%s: config %+v", platform, c)
	}
	for _, label := range []string{"title", "description", "source", "licenses"} {
		if c.Labels["org.opencontainers.image."+label] == "" {
			t.Errorf("%s: no label %s", platform, label)
		}
	}
	if got := c.Labels["org.opencontainers.image.version"]; got != version {
		t.Errorf("%s: version %q, want %q", platform, got, version)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%s: %d layers, %v", platform, len(layers), err)
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var got []string
	for r := tar.NewReader(content); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, header.Name)
		binary, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if header.Mode != 0o755 || header.Uid != 0 || header.Gid != 0 || header.Typeflag != tar.TypeReg {
			t.Errorf("%s: %+v", platform, header)
		}
		if !bytes.Equal(binary, readFile(t, filepath.Join(binaries, platform, header.Name))) {
			t.Errorf("%s: %s is not what was built", platform, header.Name)
		}
		expectStatic(t, platform, binary)
	}
	if !slices.Equal(got, files) {
		t.Errorf("%s: files %v, want %v", platform, got, files)
	}
	digest, err := image.Digest()
	t.Logf("%-8s %s, layer of %d bytes, %v", platform, digest, size, err)
}

// expectStatic: an image FROM scratch has no loader and no libraries.
func expectStatic(t *testing.T, platform string, binary []byte) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm/v7": elf.EM_ARM, "riscv64": elf.EM_RISCV}[platform]
	if f.Machine != machine || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Errorf("%s: a binary for %v, perhaps dynamic", platform, f.Machine)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
