package harness

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ImageArchive makes an image as every runtime loads it (the format of `docker save`): a static busybox that sleeps, and
// programs of this machine with their libraries.
func ImageArchive(t testing.TB, name string, programs ...string) string {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	addFile(t, w, tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	addFile(t, w, tar.Header{Name: "bin/busybox", Mode: 0o755}, busybox)
	for _, applet := range []string{"sh", "sleep"} {
		addFile(t, w, tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
	}
	for _, file := range withLibraries(t, programs) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		addFile(t, w, tar.Header{Name: strings.TrimPrefix(file, "/"), Mode: 0o755}, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archiveImage(t, name, layer.Bytes(), map[string]any{"Cmd": []string{"/bin/sleep", "100000"}, "StopSignal": "SIGKILL"})
}

// NextInstallImage makes an image like that of make image, of another version, whose plugin is another file.
func NextInstallImage(t testing.TB, name string) (archive string, plugin []byte) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, file := range []string{"vxcan", "vxcan-install", "vxcanctl"} {
		content, err := os.ReadFile(filepath.Join(BinDir(t), file))
		if err != nil {
			t.Fatal(err)
		}
		if file == "vxcan" {
			content = append(content, "another version"...) // which no loader reads
			plugin = content
		}
		addFile(t, w, tar.Header{Name: file, Mode: 0o755}, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archiveImage(t, name, layer.Bytes(), map[string]any{"Entrypoint": []string{"/vxcan-install"}, "Env": []string{"PATH=/"}}), plugin
}

// archiveImage writes the archive of an image of one layer.
func archiveImage(t testing.TB, name string, layer []byte, config map[string]any) string {
	t.Helper()
	sum := sha256.Sum256(layer)
	configFile := Marshal(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	manifest := Marshal(t, []map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	path := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	addFile(t, w, tar.Header{Name: "manifest.json", Mode: 0o644}, manifest)
	addFile(t, w, tar.Header{Name: "config.json", Mode: 0o644}, configFile)
	addFile(t, w, tar.Header{Name: "layer.tar", Mode: 0o644}, layer)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func addFile(t testing.TB, w *tar.Writer, header tar.Header, content []byte) {
	t.Helper()
	header.Size = int64(len(content))
	if err := w.WriteHeader(&header); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
}

// withLibraries are the files that programs of this machine need to run elsewhere.
func withLibraries(t testing.TB, programs []string) (files []string) {
	t.Helper()
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
		for word := range strings.FieldsSeq(Command(t, "ldd", path)) {
			if filepath.IsAbs(word) {
				files = append(files, word)
			}
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// InstallImage is the name of the image that make image has made: bin/image.tar.
func InstallImage(t testing.TB) string {
	t.Helper()
	var index struct {
		Manifests []struct{ Annotations map[string]string }
	}
	ReadJSON(t, Repo("bin/image/index.json"), &index)
	if len(index.Manifests) != 1 {
		t.Fatalf("bin/image: %+v; run make image", index)
	}
	return index.Manifests[0].Annotations["io.containerd.image.name"]
}
