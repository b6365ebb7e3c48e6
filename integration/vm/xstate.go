package main

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// A CPU with AMX has more state than User Mode Linux before 6.13 knows, which dies of that when it starts its init.
var amx = regexp.MustCompile(`(?m)^flags\s*:.* amx_tile\b`)

func hasAMX() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && amx.Match(info)
}

//go:embed xstate/ptrace.c
var ptraceSource []byte

// buildPtrace builds the ptrace(2) that helps User Mode Linux there, a shared object for LD_PRELOAD, in a directory.
func buildPtrace(dir string) (path string, err error) {
	source := filepath.Join(dir, "ptrace.c")
	if err := os.WriteFile(source, ptraceSource, 0o600); err != nil {
		return "", err
	}
	path = filepath.Join(dir, "ptrace.so")
	if out, err := exec.Command("tcc", "-shared", "-nostdlib", "-o", path, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", path, err, out)
	}
	return path, nil
}
