package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

var amx = regexp.MustCompile(`(?m)^flags\s*:.* amx_tile\b`)

// needsPtrace reports whether the User Mode Linux of a root needs a ptrace(2) of ours. Before 6.13 it does not know how much
// state a CPU with AMX has, and dies of that when it starts its init.
func needsPtrace(root string) bool {
	releases, _ := filepath.Glob(filepath.Join(root, umlModules, "*"))
	info, _ := os.ReadFile("/proc/cpuinfo")
	if len(releases) == 0 || !amx.Match(info) {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(filepath.Base(releases[0]), "%d.%d", &major, &minor)
	return err != nil || major < 6 || major == 6 && minor < 13
}

// compiler is a C compiler, or "". tcc is enough.
func compiler() string {
	if found := findProgram("tcc"); found != "" {
		return found
	}
	return findProgram("gcc")
}

//go:embed xstate/ptrace.c
var ptraceSource []byte

// buildPtrace builds that ptrace(2) in a directory, as a shared object for LD_PRELOAD.
func buildPtrace(dir string) (path string, err error) {
	if compiler() == "" {
		return "", errors.New("to boot User Mode Linux on a CPU with AMX, apt-get install tcc")
	}
	source, path := filepath.Join(dir, "ptrace.c"), filepath.Join(dir, "ptrace.so")
	if err := os.WriteFile(source, ptraceSource, 0o600); err != nil {
		return "", err
	}
	if out, err := exec.Command(compiler(), "-shared", "-fPIC", "-nostdlib", "-o", path, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", path, err, out)
	}
	return path, nil
}
