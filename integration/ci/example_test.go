// Package ci runs on the host and does what a project does that tests its virtual ECUs in CI: the example of vm.
package ci

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v2"
)

const example = "../vm/example"

func read(t *testing.T, file string, content any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(example, file))
	if err == nil {
		err = yaml.Unmarshal(data, content)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// commands are those of the example's CI files, which are the same, in the same image: of which Debian release.
func commands(t *testing.T) (commands []string, suite string) {
	t.Helper()
	var workflow struct {
		Jobs struct {
			Test struct {
				Container string
				Steps     []struct{ Run string }
			}
		}
	}
	var pipeline struct {
		Test struct {
			Image  string
			Script []string
		}
	}
	read(t, ".github/workflows/can.yml", &workflow)
	read(t, ".gitlab-ci.yml", &pipeline)
	var runs []string
	for _, step := range workflow.Jobs.Test.Steps {
		if step.Run != "" {
			runs = append(runs, step.Run)
		}
	}
	script := pipeline.Test.Script
	suite, ok := strings.CutPrefix(pipeline.Test.Image, "debian:")
	if !slices.Equal(runs, script) || len(script) == 0 || workflow.Jobs.Test.Container != pipeline.Test.Image || !ok {
		t.Fatalf("in %s GitHub runs\n%s\nand in %s GitLab\n%s", workflow.Jobs.Test.Container, strings.Join(runs, "\n"),
			pipeline.Test.Image, strings.Join(script, "\n"))
	}
	return script, suite
}

// TestPage: the page that explains the example has its commands, too.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../vm/README.md")
	if err != nil {
		t.Fatal(err)
	}
	script, _ := commands(t)
	for _, command := range script {
		if !strings.Contains(string(page), "\n"+command+"\n") {
			t.Errorf("not on the page: %s", command)
		}
	}
}

// TestExample runs the commands in a copy of the example, with three differences. GitHub is a repository of what is here.
// apt-get only says what it would install. And instead of in a container of that image, the tests run in vm's root of the
// same release, or of another one that make test is for. With VXCAN_TEST_CLEAN they run once more, in a root that has
// nothing but what apt-get really installs.
func TestExample(t *testing.T) {
	script, suite := commands(t)
	if os.Getenv("VXCAN_TEST_CAN") == "" {
		t.Skip("boots a kernel with CAN: make test does it")
	}
	dir := t.TempDir()
	project := filepath.Join(dir, "ecus")
	if err := os.CopyFS(project, os.DirFS(example)); err != nil {
		t.Fatal(err)
	}
	apt := "#!/bin/sh\n[ \"$1\" = update ] || exec /usr/bin/apt-get --simulate \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(apt), 0o755); err != nil {
		t.Fatal(err)
	}
	env := publish(t, dir)
	if os.Getenv("VXCAN_VM_SUITE") == "" {
		env = append(env, "VXCAN_VM_SUITE="+suite)
	}
	var out string
	for _, command := range script {
		env := env
		switch program, _, _ := strings.Cut(command, " "); {
		case program == "apt-get":
			env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
		case program == "bin/vm" && os.Geteuid() != 0:
			command = "sudo --preserve-env=VXCAN_VM_SUITE " + command
		}
		start := time.Now()
		out = run(t, project, env, "sh", "-ec", command)
		t.Logf("%s (%v)\n%s", command, time.Since(start).Round(time.Millisecond), out)
	}
	expectOK(t, out)
	if os.Getenv("VXCAN_TEST_CLEAN") != "" && os.Getenv("VXCAN_VM_SUITE") == suite {
		expectOK(t, runInCleanRoot(t, dir, suite, script))
	}
}

func expectOK(t *testing.T, out string) {
	t.Helper()
	for _, want := range []string{"ok   processes on vcan1\n", "ok   containers on a bus\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in the output:\n%s", want, out)
		}
	}
}

// runInCleanRoot runs the commands in a minimal root of a release, made for them. Go modules come from those that
// TestExample fetched.
func runInCleanRoot(t *testing.T, dir, suite string, script []string) string {
	t.Helper()
	project := filepath.Join(dir, "clean")
	err := os.CopyFS(project, os.DirFS(example))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "script"), []byte(strings.Join(script, "\n")), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"mmdebstrap", "--variant=minbase", "--mode=root", "--format=null",
		"--customize-hook=copy-in " + project + " " + filepath.Join(dir, "script") + " " + filepath.Join(dir, "modules/cache/download") + " /",
		`--customize-hook=chroot "$1" env -C /clean GOPROXY=file:///download GOSUMDB=off sh -ex /script`,
		suite, "/dev/null",
	}
	mirror := run(t, dir, nil, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian")
	if fields := strings.Fields(mirror); len(fields) > 0 {
		args = append(args, fields[0])
	}
	if os.Geteuid() != 0 {
		args = append([]string{"sudo"}, args...)
	}
	return run(t, dir, []string{"DEBIAN_FRONTEND=noninteractive"}, args...)
}

// publish puts the files of this repository, committed or not, into a Git repository, and returns the environment in which
// Go takes it for the one on GitHub, and fetches all else from its own cache. What it fetches is kept in dir.
func publish(t *testing.T, dir string) []string {
	t.Helper()
	repository := filepath.Join(dir, "vxcan.git")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	git := []string{"git", "--git-dir", repository, "--work-tree", root, "-c", "user.name=test", "-c", "user.email=test@localhost"}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"commit", "-q", "-m", "test"}} {
		run(t, root, nil, append(git, args...)...)
	}
	cache := strings.TrimSpace(run(t, root, nil, "go", "env", "GOMODCACHE"))
	proxies := strings.TrimSpace(run(t, root, nil, "go", "env", "GOPROXY"))
	return []string{
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url.file://" + repository + ".insteadOf",
		"GIT_CONFIG_VALUE_0=https://github.com/vxcan/vxcan", "GOPRIVATE=github.com/vxcan/vxcan",
		"GOPROXY=file://" + filepath.Join(cache, "cache/download") + "," + proxies,
		"GOSUMDB=off", // what is in the cache was compared with go.sum
		"GOMODCACHE=" + filepath.Join(dir, "modules"), "GOFLAGS=-modcacherw",
	}
}

func run(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
