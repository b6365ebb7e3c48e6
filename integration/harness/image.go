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
	add := func(w *tar.Writer, header tar.Header, content []byte) {
		t.Helper()
		header.Size = int64(len(content))
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	add(w, tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	add(w, tar.Header{Name: "bin/busybox", Mode: 0o755}, busybox)
	for _, applet := range []string{"sh", "sleep"} {
		add(w, tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
	}
	for _, file := range withLibraries(t, programs) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		add(w, tar.Header{Name: strings.TrimPrefix(file, "/"), Mode: 0o755}, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	sum := sha256.Sum256(layer.Bytes())
	config := Marshal(t, map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Cmd": []string{"/bin/sleep", "100000"}, "StopSignal": "SIGKILL"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	manifest := Marshal(t, []map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	path := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w = tar.NewWriter(f)
	add(w, tar.Header{Name: "manifest.json", Mode: 0o644}, manifest)
	add(w, tar.Header{Name: "config.json", Mode: 0o644}, config)
	add(w, tar.Header{Name: "layer.tar", Mode: 0o644}, layer.Bytes())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
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
