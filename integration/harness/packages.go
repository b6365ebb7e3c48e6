package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// PackagesDir is where make packages puts them. What make test-packages builds as their upgrade is beside it.
var PackagesDir = Repo("bin/packages")

// Package finds the only file that matches in one of these directories.
func Package(t testing.TB, pattern string) string {
	t.Helper()
	if os.Getenv(cantest.Promised) == "" {
		t.Skip("needs what make test-packages builds")
	}
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: found %q (%v), want one; run make test-packages", pattern, found, err)
	}
	path, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// BinaryVersion is what make stamps into the binaries.
func BinaryVersion(t testing.TB) string {
	return strings.TrimSpace(strings.TrimPrefix(Command(t, filepath.Join(BinDir(t), "vxcanctl"), "--version"), "vxcanctl "))
}

// Debs are the package for this machine and a later version of it.
func Debs(t testing.TB) (first, next string) {
	t.Helper()
	file := "/vxcan_*_" + strings.TrimSpace(Command(t, "dpkg", "--print-architecture")) + ".deb"
	return Package(t, PackagesDir+file), Package(t, PackagesDir+"-next"+file)
}
